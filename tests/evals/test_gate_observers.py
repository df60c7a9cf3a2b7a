"""Observers of gates against plain numpy over all layers' inputs at once, of videos of odd lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchFeature

from evals.checkpoint import Checkpoint
from evals.content_measures import CONTENT, POSITION, measures
from evals.observers import registry
from evals.observers.contract import SeenVideo, seen_video
from evals.probe import Stream, prefill, questions
from evals.question import Question
from evals.suites import suite_settings
from videonsa.config import BRANCHES
from videonsa.modeling import capture_attention

OF_GATES = ("gate_similarity", "gate_vectors", "gate_content")


@pytest.fixture(scope="module")
def seen(loaded: Checkpoint, data: Path) -> tuple[dict[str, Any], list[SeenVideo], list[list[np.ndarray]]]:
    """Observers that have looked at three videos of two lengths; these; and the gates of each by layer, [N, Hq, 3]."""
    nsa = loaded.use({})
    observers, videos, gates = registry.make(OF_GATES, nsa), [], []
    with torch.no_grad():  # gates of fresh weights hardly differ
        for name, weight in loaded.model.named_parameters():  # powers of two: they come back as they were
            weight.mul_(16.0 if "g_proj" in name else 1.0)
    for name, frames, count in (("synth_needle", 9, 2), ("synth_order", 14, 1)):
        for _, question in questions(loaded, suite_settings(name, frames=frames), count, data):
            video = seen_video(len(videos), name, question, loaded.model.config)
            prefill(loaded, Stream(observers, nsa, video, "nsa"))
            with capture_attention(loaded.model) as captured, torch.inference_mode():
                loaded.model(**question.on(loaded.device), use_cache=False, logits_to_keep=1)
            videos.append(video)
            gates.append([inputs.gates[0].double().numpy() for inputs in captured])
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            weight.div_(16.0 if "g_proj" in name else 1.0)
    return observers, videos, gates


def together(gates: list[list[np.ndarray]], layer: int, branch: str, skip: list[int] | None = None) -> np.ndarray:
    """Gates of one layer and branch over all videos, [tokens, Hq]; without the first tokens of each, where said."""
    skips = skip or [0] * len(gates)
    return np.concatenate(
        [of[layer][first:, :, BRANCHES.index(branch)] for of, first in zip(gates, skips, strict=True)]
    )


def test_similarity_is_the_correlation_over_all_tokens(seen: Any) -> None:
    observers, _, gates = seen
    arrays, said = observers["gate_similarity"].arrays(), observers["gate_similarity"].by_layer()
    for layer in range(len(gates[0])):
        for branch in BRANCHES:
            expected = np.corrcoef(together(gates, layer, branch).T)
            np.testing.assert_allclose(arrays[branch][layer], expected, atol=1e-5)
            off = expected[~np.eye(len(expected), dtype=bool)].mean()
            assert said[layer][branch]["mean"] == pytest.approx(off, abs=1e-5)


def test_vectors_are_the_means_of_each_video(seen: Any) -> None:
    observers, videos, gates = seen
    arrays = observers["gate_vectors"].arrays()
    assert len({len(of[0]) for of in gates}) == 2, "two lengths"
    assert arrays["question"].tolist() == [video.index for video in videos]
    for branch in BRANCHES:
        expected = [[of_layer[..., BRANCHES.index(branch)].mean(0) for of_layer in of] for of in gates]
        np.testing.assert_allclose(arrays[branch], expected, rtol=1e-5)


def residual(target: np.ndarray, on: np.ndarray) -> np.ndarray:
    """What least squares on these columns and a constant leave."""
    columns = np.column_stack([np.ones(len(target)), on])
    return target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0]


def test_content_explains_what_least_squares_on_all_tokens_says(seen: Any) -> None:
    observers, videos, gates = seen
    first = [video.pieces[0].grid[1] * video.pieces[0].grid[2] for video in videos]
    measured = np.concatenate([measures(video)[1].double().numpy() for video in videos])
    arrays, record = observers["gate_content"].arrays(), observers["gate_content"].whole()["gate_content"]
    positions, count = measured[:, :3], len(POSITION) + len(CONTENT)
    for branch in BRANCHES:
        of_layers = np.stack([together(gates, layer, branch, first) for layer in range(len(gates[0]))])
        total, means = of_layers.var(), of_layers.mean(1)
        left = {
            name: np.mean([residual(each, on).var(0) for each in of_layers])
            for name, on in (
                ("position", positions),
                ("content", measured[:, :count]),
                ("shifted", np.delete(measured, range(3, count), axis=1)),
            )
        }
        shares = record["shares"][branch]
        within = of_layers.var(1).mean()
        assert shares["layer"] == pytest.approx(means.mean(1).var() / total, rel=1e-6)
        assert shares["head"] == pytest.approx(means.var(1).mean() / total, rel=1e-6)
        assert shares["position"] == pytest.approx((within - left["position"]) / total, rel=1e-5)
        assert shares["content"] == pytest.approx((left["position"] - left["content"]) / total, rel=1e-4)
        assert shares["shifted"] == pytest.approx((left["position"] - left["shifted"]) / total, rel=1e-4)
        for place in range(count):
            column, others = measured[:, place], np.delete(measured[:, :count], place, axis=1)
            found = arrays[branch][1, :, place]
            if column.std() < 1e-6:
                assert np.isnan(found).all()
                continue
            rest, of_gates = residual(column, others), residual(of_layers[1], others)
            expected = (rest[:, None] * of_gates).mean(0) / (rest.std() * of_gates.std(0))
            np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (record["tokens"], record["videos"]) == (len(measured), 3)
    json.dumps([record, observers["gate_content"].by_layer()], allow_nan=False)


def made_video(patches: torch.Tensor) -> SeenVideo:
    """A question that shows one video of these pixels: [time, height, width in tokens, y, x], all channels alike."""
    time, height, width, side, _ = patches.shape
    pixels = patches[:, :, :, None, None].expand(-1, -1, -1, 3, 2, -1, -1)
    half = side // 2
    rows = pixels.unflatten(-1, (2, half)).unflatten(-3, (2, half))  # t h w c f ym y xm x
    rows = rows.permute(0, 1, 2, 5, 7, 3, 4, 6, 8).reshape(time * height * width * 4, -1)
    kinds = torch.full((1, time * height * width), 2)
    grid = torch.tensor([[time, 2 * height, 2 * width]])
    inputs = BatchFeature({"mm_token_type_ids": kinds, "video_grid_thw": grid, "pixel_values_videos": rows})
    vision = SimpleNamespace(spatial_merge_size=2, temporal_patch_size=2)
    config = SimpleNamespace(vision_config=vision, text_config=SimpleNamespace(num_hidden_layers=1))
    return seen_video(0, "made", Question("", inputs), config)


def test_content_is_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven patches of 2 x 3 tokens: stripes in one token from patch 3 on; all changes at 5; else nothing moves."""
    patches = torch.zeros(7, 2, 3, 8, 8)
    patches[3:5, 1, 2, :, ::2] = 1.0
    patches[5:] = 2.0
    places, whole = measures(made_video(patches))
    monkeypatch.setattr("evals.content_measures.AT_ONCE", 2000)
    torch.testing.assert_close(measures(made_video(patches))[1], whole)
    assert places.tolist() == list(range(6, 42))
    columns: Mapping[str, Any] = dict(zip((*POSITION, *CONTENT), whole.view(6, 2, 3, -1).unbind(-1), strict=False))
    assert columns["cut"][:, 0, 0].tolist() == [0, 0, 0, 0, 1, 0]
    assert columns["still"][:, 1, 1].tolist() == [1, 1, 0, 1, 0, 1]
    assert columns["motion"][:, 0, 0].tolist() == [0, 0, 0, 0, 2, 0]
    assert columns["motion"][:, 1, 2].tolist() == [0, 0, 0.5, 0, 1.5, 0]
    assert columns["edges"][:, 1, 2].tolist() == [0, 0, 0.5, 0.5, 0, 0]
    assert float(columns["edges"][:, :, :2].sum()) == 0
    assert columns["time"][:, 0, 0].tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert (columns["row"][0, :, 0].tolist(), columns["column"][0, 0].tolist()) == ([0, 1], [0, 0.5, 1])
    shifted = whole.view(6, 2, 3, -1)[..., len(POSITION) + len(CONTENT) :]
    torch.testing.assert_close(shifted[0], torch.stack([columns[name][3] for name in CONTENT], -1))


def test_a_video_of_two_patches_has_nothing_to_be_shifted_to() -> None:
    patches = torch.rand(3, 2, 3, 8, 8)
    places, found = measures(made_video(patches[:2]))
    assert (len(places), tuple(found.shape)) == (0, (0, len(POSITION) + 2 * len(CONTENT)))
    content = measures(made_video(patches))[1][:, len(POSITION) :].unflatten(1, (2, -1))
    assert not torch.equal(content[:, 0], content[:, 1])


@pytest.mark.gpu
def test_pixels_that_lie_on_a_gpu_are_measured_alike() -> None:
    here, there = (made_video(torch.rand(7, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    there.question.inputs["pixel_values_videos"] = there.question.inputs["pixel_values_videos"].cuda()
    torch.testing.assert_close(measures(there)[1], measures(here)[1])
