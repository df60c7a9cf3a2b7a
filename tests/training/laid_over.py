"""A model whose samples lie over all processes, against the same model alone in each of them: see together.py."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.training.conftest import NSA, quick
from videonsa.modeling import exchange
from videonsa.modeling.exchange import SequenceParallel
from videonsa.modeling.vision import speed_up_vision
from videonsa.small import SMALL
from videonsa.tiny import FRAME, build_tiny
from videonsa.training.batch import MicroBatch, answer_labels, answer_loss, encode, own_pixels, padded
from videonsa.training.sources import Conversation, SyntheticSource

DENSE = dataclasses.replace(NSA, attention="dense")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often processes spoke to each other, by what."""
    calls: Counter[str] = Counter()

    def counts(name: str) -> Any:
        call = getattr(exchange, name)

        def counting(*given: Any) -> Tensor:
            calls[name] += 1
            return call(*given)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        for name in ("exchange", "gather", "scatter"):
            patch.setattr(exchange, name, counts(name))
        yield calls


@contextmanager
def in_parts() -> Iterator[None]:
    """Queries stay where they are, whatever the heads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "ways", lambda degree, kv_heads: (1, degree))
        yield


def batches(processor: Any) -> dict[str, dict[str, Tensor]]:
    """Samples of uneven lengths; text alone; an image before a video."""
    source = SyntheticSource(quick())
    text = Conversation((("user", "how many"), source[0].turns[1]))
    video = source[0].video
    assert video is not None
    asked = "<|vision_start|><|{}_pad|><|vision_end|>"
    pictured = processor(
        text=[f"<|im_start|>user\nhow {asked.format('image')}{asked.format('video')}<|im_end|>\n"
              "<|im_start|>assistant\nred<|im_end|>\n"],
        images=[video.frames[0]], videos=[video.frames], return_tensors="pt",
        videos_kwargs={"video_metadata": [video.metadata()], "do_sample_frames": False},
    )  # fmt: skip
    return {
        "uneven": encode(processor, [source[0], source[12], text], FRAME**2),
        "text": encode(processor, [text], FRAME**2),
        "image": {**pictured, "labels": answer_labels(pictured["input_ids"], processor.tokenizer)},
    }


def compare(kv_heads: int, dense: bool, names: Sequence[str] = ("uneven", "text", "image")) -> dict[str, Any]:
    """Over all processes against alone: for each batch what differs, and the calls; and whether later tokens leak."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SMALL, "tiny", dataclasses.replace(SMALL["tiny"], kv_heads=kv_heads))
        model, processor = build_tiny(DENSE if dense else NSA, 0)
    speed_up_vision(model)
    parallel = SequenceParallel.of(dist.get_world_size(), kv_heads)
    found: dict[str, Any] = {"ways": (parallel.heads, parallel.parts)}
    known = batches(processor)
    for name in names:
        batch = known[name]
        own = MicroBatch(own_pixels(batch, parallel), 0)
        wider = padded(own, parallel.multiple, processor.tokenizer.pad_token_id).inputs
        alone, whole = _gradients(model, batch, None)
        with counted() as calls:
            loss, gradients = _gradients(model, wider, parallel)
        found[name] = {"loss": float((loss - alone).abs().max()), "calls": dict(calls), **_differ(gradients, whole)}
        found[name]["leaks"] = _leaks(model, wider)
    return found


def _gradients(model: Any, batch: dict[str, Tensor], parallel: Any) -> tuple[Tensor, dict[str, Tensor | None]]:
    model.model.parallel = parallel
    model.zero_grad()
    losses = answer_loss(model, batch)
    (losses * torch.arange(1, 1 + len(losses))).sum().backward()
    return losses.detach(), {name: weight.grad for name, weight in model.named_parameters()}


def _differ(own: dict[str, Tensor | None], whole: dict[str, Tensor | None]) -> dict[str, Any]:
    """The largest relative error of the processes' mean; and whether a weight is used by some processes alone."""
    worst, unlike = 0.0, 0
    for name, expected in whole.items():
        grad = own[name]
        unlike += (grad is None) != (expected is None)
        summed = torch.zeros(()) if grad is None else grad.clone()
        dist.all_reduce(summed)
        if expected is not None:
            worst = max(worst, float((summed / dist.get_world_size() - expected).norm() / expected.norm()))
    told = torch.tensor(float(unlike))
    dist.all_reduce(told)
    return {"worst": worst, "unlike": int(told)}


@torch.no_grad()
def _leaks(model: Any, batch: dict[str, Tensor]) -> list[int]:
    """Of the tokens that are changed, one in each eighth of a row, those that change an earlier output, or none."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    before, length = model(**inputs).logits, inputs["input_ids"].shape[1]
    found = []
    for place in range(length // 16, length, max(1, length // 8)):

        def change(_: Any, given: Any, named: dict[str, Any], place: int = place) -> Any:
            return given, {**named, "inputs_embeds": named["inputs_embeds"].index_fill(1, torch.tensor([place]), 0.5)}

        handle = model.model.language_model.register_forward_pre_hook(change, with_kwargs=True)
        same = (model(**inputs).logits == before).all(-1)
        handle.remove()
        is_token = bool(inputs["attention_mask"][0, place])
        if not bool(same[:, :place].all()) or (is_token and bool(same[0, place])):
            found.append(place)
    return found
