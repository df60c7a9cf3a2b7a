"""backend=reference runs no Triton, wherever it runs: neither in attention nor in any other part of the model.

There need be no GPU. Tensors are made to say that they are on one, and every module that imports triton is taken away,
so that whoever reaches for a kernel raises.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import videonsa
from tests.modeling.conftest import STOCK, batch, sample
from videonsa import kernels
from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration

INPUTS = batch([sample(("text", 5), ("video", 8), ("text", 3)), sample(("text", 9), ("video", 2), seed=1)], "left")


@pytest.fixture(scope="module")
def model():
    """Heads and blocks of sizes that the Triton kernels serve, in a precision in which `auto` runs them on a GPU."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    text = {**STOCK["text_config"], "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {**STOCK["vision_config"], "out_hidden_size": 64}
    parts = {"text_config": {**text, "rope_parameters": rope}, "vision_config": vision}
    config = VideoNSAConfig(**{**STOCK, **parts}, block_size=16, block_count=1, window=6)
    return VideoNSAForConditionalGeneration(config).bfloat16()


def run(model, inputs, **nsa) -> list[torch.Tensor]:
    """Logits of tokens, and the gradients of the weights."""
    model.set_nsa(**{"semantics": "paper", "backend": "auto", **nsa})
    output = model(**inputs, labels=inputs["input_ids"])
    weights = dict(model.named_parameters())
    found = torch.autograd.grad(output.loss, list(weights.values()), allow_unused=True)
    return [output.logits[inputs["attention_mask"].bool()].detach(), *(grad for grad in found if grad is not None)]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Every tensor's is_cuda is True; no module of ours that imports triton can be had."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    root = Path(videonsa.__file__).parent
    using = [path for path in root.rglob("*.py") if "import triton" in path.read_text(encoding="utf-8")]
    assert {path.stem for path in using} >= {"flash", "combine", "select", "selected", "compress"}
    for path in [*using, root / "kernels" / "triton_backend.py"]:
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delattr(kernels, path.stem, raising=False)


@pytest.fixture
def attention_alone(as_on_a_gpu, monkeypatch):
    """Of the model's parts only attention reaches for kernels."""
    monkeypatch.setattr("videonsa.modeling.layers.fuses", lambda *tensors: False)


@pytest.mark.parametrize("semantics", ["paper", "release"])
def test_the_reference_runs_no_triton_forward_and_backward(model, as_on_a_gpu, semantics):
    assert all(tensor.isfinite().all() for tensor in run(model, INPUTS, backend="reference", semantics=semantics))


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_what_would_run_triton_is_caught(model, attention_alone, backend):
    with pytest.raises(ImportError):
        run(model, INPUTS, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_release_semantics_run_triton_forward_and_backward(model, attention_alone, backend):
    model.set_nsa(semantics="release", backend=backend)
    with torch.no_grad(), pytest.raises(ImportError):
        model(**INPUTS)
    with pytest.raises(ImportError):
        run(model, INPUTS, backend=backend, semantics="release")


def test_text_alone_would_be_caught(model, attention_alone, monkeypatch):
    """Text attention is a path of its own: with the vision tokens' on the reference it still reaches for a kernel."""
    monkeypatch.setattr("videonsa.kernels.api.tiling.serves", lambda *sizes: False)
    with pytest.raises(ImportError):
        run(model, INPUTS, backend="auto")


def test_the_parts_around_attention_would_be_caught(model, as_on_a_gpu):
    """Dense attention is torch's: what reaches for a kernel are norms, rotation and activation."""
    with pytest.raises(ImportError):
        run(model, INPUTS, attention="dense")
