"""Which variables of other programs are hidden, and that they come back."""

from __future__ import annotations

import gc
import os
import weakref

import pytest
import torch

from videonsa.surroundings import collecting_new_objects, full_products, overruling, settings_decide


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is set where the tests run."""
    for name in overruling(alone=True):
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "name",
    [
        *("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"),
        *("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "PARALLELISM_CONFIG_TP_SIZE"),
        *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION"),
        *("ONEDNN_DEFAULT_FPMATH_MODE", "TRITON_F32_DEFAULT", "FSDP_IGNORED_MODULES"),
    ],
)
def test_what_would_overrule_settings_is_hidden(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "1")
    with settings_decide() as hidden:
        assert hidden == [name]
        assert name not in os.environ
    assert os.environ[name] == "1"


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE"])
def test_what_changes_no_number_stays(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "1")
    assert name not in overruling()


def test_sharding_stays_where_there_are_several_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_SHARDING_STRATEGY", "FULL_SHARD")
    assert overruling() == ["ACCELERATE_USE_FSDP", "FSDP_SHARDING_STRATEGY"]  # one process: nothing to shard
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert overruling() == []


def test_a_process_of_one_does_not_believe_another_launcher(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with settings_decide(alone=True) as hidden:
        assert len(hidden) == 6


def test_products_have_all_their_bits():
    torch.set_float32_matmul_precision("medium")
    try:
        with full_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_collection_of_garbage_passes_over_what_was_there_before():
    class Knot:
        """Refers to itself: it goes when a collection finds it."""

        def __init__(self):
            self.own = self

    before = weakref.ref(Knot())
    with collecting_new_objects():
        new = weakref.ref(Knot())
        gc.collect()
        assert before() is not None
        assert new() is None
    gc.collect()
    assert before() is None
