"""Benchmark of the attention kernels (`python -m videonsa.bench --help`): none is timed that fails its check."""
