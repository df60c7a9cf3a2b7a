"""What other programs leave in the environment and what would overrule settings: hidden while numbers are made.

`accelerate launch`, a cluster's modules or a job script of another project set variables that divide every loss, train
in another precision, compile, or multiply with fewer bits. Equal settings are equal work, so none of that is seen here.
How work is spread over GPUs (torchrun, FSDP) is no part of a number and stays. Imports no torch at first.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Accelerate's own, whole: accumulation, precision, torch.compile, DeepSpeed, Megatron, another device ...
ACCELERATE = ("ACCELERATE_", "DYNAMO_", "FP8_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
SHARDING = ("ACCELERATE_USE_FSDP", "FSDP_")  # ... but this, which spreads a model over processes and no more
UNSHARED = ("FSDP_IGNORED_MODULES",)  # except where it leaves gradients of some weights to each process alone
# Bits of a product, and which instructions and algorithms make it.
PRODUCTS = (
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_EMULAT", "CUBLAS_WORKSPACE_CONFIG"),
    *("TORCH_BLAS_PREFER_", "TORCH_CUDNN_", "TORCH_LINALG_PREFER_", "DISABLE_ADDMM_CUDA_LT"),
    *("TORCH_MKLDNN_MATMUL_", "TORCH_LINEAR_FLATTEN_3D", "XLA_USE_BF16", "XLA_DOWNCAST_BF16"),
    *("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"),
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "TRITON_F32_DEFAULT", "TRITON_DEFAULT_FP_FUSION"),
)
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # of a fixed size, products of one shape are made in one way
# By these a launcher tells a process that it is one of several. A job of one process that believes them waits for ever.
LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_", "PMI_", "PMIX_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "MPI_LOCAL"),
)


def overruling(alone: bool = False) -> list[str]:
    """Names of the variables that are set here and would overrule settings; `alone`: this process is one of one."""
    several = not alone and "LOCAL_RANK" in os.environ
    return [name for name in sorted(os.environ) if _overrules(name, several) or (alone and name.startswith(LAUNCHERS))]


def _overrules(name: str, several: bool) -> bool:
    if name.startswith(SHARDING) and not name.startswith(UNSHARED):
        return not several  # in one process there is nothing to shard
    return name.startswith((*ACCELERATE, *PRODUCTS, *UNSHARED))


@contextmanager
def settings_decide(alone: bool = False) -> Iterator[list[str]]:
    """What would overrule settings is not there while the context lasts; gives the names of what was."""
    hidden = {name: os.environ.pop(name) for name in overruling(alone)}
    try:
        yield list(hidden)
    finally:
        os.environ.update(hidden)


@contextmanager
def equal_bits(asked: bool) -> Iterator[None]:
    """Equal work gives equal bits on a GPU, too, while the context lasts, where that is asked.

    The Triton kernels of this package add nothing atomically, so they need nothing; what torch has only in other forms
    raises RuntimeError with the operation's name. cuBLAS reads its variable when it is first used in the process.
    """
    import torch

    if not asked:
        yield
        return
    before, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(WORKSPACE)
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    os.environ[WORKSPACE] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # costs a pass over memory that all is written to
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled
        os.environ.pop(WORKSPACE)
        os.environ.update({} if workspace is None else {WORKSPACE: workspace})


@contextmanager
def full_products() -> Iterator[None]:
    """Products of float32 numbers have float32's bits while the context lasts, whatever torch was told before.

    torch reads TORCH_ALLOW_TF32_CUBLAS_OVERRIDE when it is imported, which may have been long ago.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def collecting_new_objects() -> Iterator[None]:
    """Python's garbage collector looks at nothing that was there before, while the context lasts.

    Half a million objects of torch, transformers and a model's own stay anyway; a full collection of them holds a
    process up for 0.3 s, in the middle of a step or an answer, and others with it that wait for it. What is garbage
    when the context begins stays until it ends.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
