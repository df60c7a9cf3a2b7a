"""Time the whole text model at full size, random weights: sparse against dense attention, in one run.

    python -m videonsa.bench.model --lengths 32768 65536 131072 --train 32768 65536 --out benchmarks/model_h200.csv

A prefill takes embeddings of vision tokens through the decoder (Qwen2.5-VL-7B's shape); a training step is forward and
backward with activation checkpointing of every layer. Dense is the same weights with torch's cuDNN attention, the stock
layer. Each length is timed once or more after a run that compiles, on the host's clock around a synchronised call.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from videonsa.bench.__main__ import describe
from videonsa.config import NSASettings
from videonsa.modeling.layout import token_layout
from videonsa.modeling.model import VideoNSATextModel

SHAPE_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 1024,  # the embedding table is not used: embeddings are given
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
COLUMNS = ("provider", "mode", "length", "layers", "seconds", "peak_gib", "gpu", "torch", "triton", "commit")


def build(layers: int) -> VideoNSATextModel:
    config = Qwen2_5_VLTextConfig(**{**SHAPE_7B, "num_hidden_layers": layers})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = VideoNSATextModel._from_config(config, dtype=torch.bfloat16)
    finally:
        torch.set_default_dtype(torch.float32)
    return model


def step(model: VideoNSATextModel, length: int, sparse: bool, train: bool) -> Callable[[], None]:
    """One prefill or training step of a sample of `length` vision tokens."""
    embeddings = torch.randn(1, length, model.config.hidden_size, device="cuda", dtype=torch.bfloat16)
    layout = token_layout(torch.ones(1, length, dtype=torch.bool, device="cuda"), None, NSASettings(), None)
    chosen = {"token_layout": layout} if sparse else {}

    def call() -> None:
        dense_backend = nullcontext() if sparse else sdpa_kernel(SDPBackend.CUDNN_ATTENTION)
        with dense_backend, torch.set_grad_enabled(train):
            output = model(inputs_embeds=embeddings.requires_grad_(train), use_cache=False, **chosen).last_hidden_state
            if train:
                output.float().square().mean().backward()
                model.zero_grad(set_to_none=True)

    return call


def measure(call: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median seconds and peak GiB."""
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], torch.cuda.max_memory_allocated() / 2**30


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m videonsa.bench.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="*", default=[32768, 65536, 131072], help="of prefills")
    parser.add_argument("--train", type=int, nargs="*", default=[32768, 65536], help="lengths of training steps")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--commit", default=None, help="recorded in the rows; read from git when not given")
    parser.add_argument("--out", type=Path, default=None, help="CSV file, written anew")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("videonsa.bench.model times a model on CUDA, and torch finds no CUDA device", file=sys.stderr)
        return 2
    model, software = build(options.layers), describe(options.commit)
    rows: list[dict[str, object]] = []
    model.gradient_checkpointing_enable()
    for mode, lengths in (("prefill", options.lengths), ("train", options.train)):
        model.train(mode == "train")
        for provider in ("videonsa", "dense"):
            if lengths:  # compiles what the timed lengths share
                step(model, min(16384, *lengths), provider == "videonsa", mode == "train")()
            for length in lengths:
                call = step(model, length, provider == "videonsa", mode == "train")
                seconds, peak = measure(call, options.repeats)
                row = {"provider": provider, "mode": mode, "length": length, "layers": options.layers}
                rows.append({**row, "seconds": round(seconds, 4), "peak_gib": round(peak, 2), **software})
                print(f"{provider:>9} {mode:>8} {length:>7} {seconds:8.3f} s {peak:7.2f} GiB", flush=True)
                torch.cuda.empty_cache()
                write(rows, options.out)
    return 0


def write(rows: list[dict[str, object]], path: Path | None) -> None:
    """All rows so far, so that a run that is cut short leaves what it has."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
