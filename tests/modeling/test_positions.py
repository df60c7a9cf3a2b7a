"""Positions are Qwen2.5-VL's: against a plain reading of the rule, and against outputs of transformers 4.57.1."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2VLVideoProcessor
from transformers.video_utils import VideoMetadata

from tests.helpers import relative_error
from tests.modeling.conftest import IMAGE, STOCK, VIDEO, batch, sample
from videonsa.config import NSASettings
from videonsa.modeling import VideoNSAConfig, load_model
from videonsa.modeling.positions import ModelPositions

GOLDEN = Path(__file__).parent / "golden"
SAMPLE = (("text", 3), ("video", 8), ("text", 5), ("video", 3), ("text", 4))


@pytest.fixture(scope="module")
def stock():
    """A stock checkpoint, written by transformers 4.57.1."""
    return load_model(GOLDEN / "stock_checkpoint", nsa={"attention": "dense"}, dtype=torch.float32)


@pytest.mark.parametrize("name", ["stock_one_video_4fps", "stock_batch_left_padded"])
def test_transformers_4_computes_the_same_from_frames_on(stock, name):
    golden = np.load(GOLDEN / f"{name}.npz")
    inputs = {key: torch.from_numpy(golden[key]) for key in ("input_ids", "attention_mask", "second_per_grid_ts")}
    inputs |= pixels([golden[key] for key in golden.files if key.startswith("frames")])
    assert torch.equal(inputs["video_grid_thw"], torch.from_numpy(golden["video_grid_thw"]))
    check(stock, inputs, golden)


def check(model, inputs, golden):
    """Equal positions, logits within 1e-3, equal greedy tokens."""
    positions, _ = model.model.get_rope_index(**inputs)
    assert positions.tolist() == golden["position_ids"].tolist()
    expected = torch.from_numpy(golden["logits"])
    last = expected.shape[1]
    is_token = inputs["attention_mask"][:, -last:].bool()
    with torch.no_grad():
        logits = model(**inputs).logits[:, -last:]
    assert relative_error(logits[is_token], expected[is_token]) < 1e-3
    new = golden["generated"].shape[1]
    out = model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    assert out[:, -new:].tolist() == golden["generated"].tolist()


def pixels(videos: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """What the processor makes of frames [T, H, W, 3]."""
    size = {"shortest_edge": 28**2, "longest_edge": 1 << 30}
    processor = Qwen2VLVideoProcessor(patch_size=14, temporal_patch_size=2, merge_size=2, size=size)
    about = [VideoMetadata(total_num_frames=len(frames), fps=1.0) for frames in videos]
    return processor(videos=videos, video_metadata=about, do_sample_frames=False, return_tensors="pt").data


MIXES = {
    # (text, tokens), (image, rows, columns), (video, rows, columns, patches, seconds of a patch); a line a sample
    "left": (
        (("text", 5), ("image", 2, 3), ("text", 4), ("video", 2, 2, 9, 2.75), ("video", 3, 2, 4, 0.25), ("text", 6)),
        (("text", 11),),
        (("video", 2, 4, 6, 1.5), ("text", 3), ("image", 4, 1), ("image", 2, 2), ("text", 2)),
    ),
    "right": (
        (("video", 2, 2, 12, 0.5), ("text", 9)),
        (("image", 3, 3), ("text", 30)),
        (("text", 4), ("video", 1, 2, 3, 3.5), ("text", 2), ("video", 2, 3, 5, 1.0), ("text", 1)),
    ),
}


def mixed(side: str) -> dict[str, torch.Tensor]:
    """Inputs of a stock model for the samples of one mix, padded on that side; golden/mixed_* are its outputs, made by
    `stock.py golden/stock_checkpoint INPUTS.npz OUTPUTS.npz` with two versions of transformers."""
    drawn = np.random.default_rng(len(side))
    rows = [
        [token for part in one for token in delimited(part, drawn.integers(3, 250, 30).tolist())] for one in MIXES[side]
    ]
    length = max(map(len, rows))
    room = [[0] * (length - len(row)) for row in rows]
    held = [[1] * len(row) for row in rows]
    join = (lambda row, pad: pad + row) if side == "left" else (lambda row, pad: row + pad)
    inputs = {
        "input_ids": torch.tensor([join(row, pad) for row, pad in zip(rows, room, strict=True)]),
        "attention_mask": torch.tensor([join(row, pad) for row, pad in zip(held, room, strict=True)]),
        "second_per_grid_ts": torch.tensor([part[4] for one in MIXES[side] for part in one if part[0] == "video"]),
    }
    for kind, pixel_values in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        grid = grids(MIXES[side], kind)
        inputs[f"{kind}_grid_thw"] = grid
        values = drawn.standard_normal((int(grid.prod(dim=1).sum()), 3 * 2 * 14 * 14), dtype=np.float32)
        inputs[pixel_values] = torch.from_numpy(values)
    return inputs


def delimited(part: tuple, words: list[int]) -> list[int]:
    """Token ids of a part for the stock checkpoint."""
    kind, *sizes = part
    if kind == "text":
        return words[: sizes[0]]
    image, video, start, end = 250, 251, 252, 253
    return [start, *[image if kind == "image" else video] * math.prod(sizes[:3]), end]


@pytest.mark.parametrize("side", MIXES)
@pytest.mark.parametrize(("version", "whole_seconds"), [("4.51.3", False), ("4.57.1", True)])
def test_transformers_4_computes_the_same_from_pixels_on(side, version, whole_seconds):
    golden = np.load(GOLDEN / f"mixed_{side}_{version}.npz")
    assert golden["transformers"] == version
    model = load_model(
        GOLDEN / "stock_checkpoint", nsa={"attention": "dense"}, dtype=torch.float32, whole_seconds=whole_seconds
    )
    check(model, mixed(side), golden)


class Positions(ModelPositions):
    """Positions alone, without a model."""

    def __init__(self, tokens_per_second: int) -> None:
        self.config = VideoNSAConfig(**STOCK)
        self.config.vision_config.tokens_per_second = tokens_per_second


SECONDS = [0.0625, 0.25, 0.5, 1.0, 1.5, 2.75, 10.0]  # of a temporal patch
side_of_frame = st.integers(1, 3)  # tokens
parts = st.one_of(
    st.tuples(st.just("text"), st.integers(1, 6)),
    st.tuples(st.just("image"), side_of_frame, side_of_frame),
    st.tuples(st.just("video"), side_of_frame, side_of_frame, st.integers(1, 40), st.sampled_from(SECONDS)),
)


def by_the_rule(sample, tokens_per_second):
    """Each token's id and positions, read off the rule one by one."""
    start = 0
    for kind, *sizes in sample:
        if kind == "text":
            tokens = [(7, start + n, start + n, start + n) for n in range(sizes[0])]
        else:
            height, width, *video = sizes
            patches, seconds = video or (1, 0)
            tokens = [
                (VIDEO if video else IMAGE, start + math.floor(i * seconds * tokens_per_second), start + h, start + w)
                for i in range(patches)
                for h in range(height)
                for w in range(width)
            ]
        yield from tokens
        start = max(max(token[1:]) for token in tokens) + 1


def grids(samples, kind):
    """Patches of each image or video, [n, 3]; None without one."""
    rows = [[*(part[3:4] or [1]), 2 * part[1], 2 * part[2]] for one in samples for part in one if part[0] == kind]
    return torch.tensor(rows) if rows else None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(parts, min_size=1, max_size=6), min_size=1, max_size=4),
    st.sampled_from(["left", "right"]),
    st.sampled_from([1, 2, 25]),
)
def test_positions_follow_the_rule(samples, side, tokens_per_second):
    rows = [torch.tensor(list(by_the_rule(one, tokens_per_second))).T for one in samples]
    length = max(row.shape[1] for row in rows)
    padded = [
        torch.nn.functional.pad(
            row, (length - row.shape[1], 0) if side == "left" else (0, length - row.shape[1]), value=-1
        )
        for row in rows
    ]
    ids, expected = torch.stack(padded, dim=1).split([1, 3])
    positions, deltas = Positions(tokens_per_second).get_rope_index(
        ids[0],
        image_grid_thw=grids(samples, "image"),
        video_grid_thw=grids(samples, "video"),
        second_per_grid_ts=[part[4] for one in samples for part in one if part[0] == "video"],
        attention_mask=(ids[0] >= 0).long(),
    )
    assert torch.equal(positions, expected.masked_fill(expected < 0, 1))
    largest = [int(row[1:].max()) for row in rows]
    assert deltas.tolist() == [[most + 1 - row.shape[1]] for most, row in zip(largest, rows, strict=True)]


def watch_positions(model):
    """The positions that the decoder is given, call by call."""
    seen = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"][-3:]), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("side", ["left", "right"])
def test_prefill_decoding_and_recomputation_agree(model, side):
    samples = [sample(*SAMPLE), sample(("text", 9), ("video", 6), seed=1), sample(("text", 5), seed=2)]
    inputs = batch(samples, side) | {"second_per_grid_ts": torch.tensor([2.5, 0.4, 7.0])}
    length = inputs["input_ids"].shape[1]
    expected, _ = model.model.get_rope_index(**inputs)
    ends = (expected.masked_fill(inputs["attention_mask"] == 0, 0)).amax(dim=(0, 2)) + 1
    added = ends[:, None] + torch.arange(3)
    seen = watch_positions(model)
    out = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(torch.cat(seen, dim=-1), torch.cat([expected, added.expand(3, -1, -1)], dim=-1))
    seen.clear()

    cache = model(**inputs, use_cache=True).past_key_values
    for number in range(1, 4):
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, number), value=1)
        step = {"input_ids": out[:, length + number - 1 :][:, :1], "attention_mask": mask, "past_key_values": cache}
        model(**step, use_cache=True)
    assert torch.equal(torch.cat(seen, dim=-1), torch.cat([expected, added.expand(3, -1, -1)], dim=-1))
    seen.clear()

    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 3))
    model(**inputs | {"input_ids": out[:, :-1], "attention_mask": mask, "mm_token_type_ids": types})
    assert torch.equal(seen[0], torch.cat([expected, added.expand(3, -1, -1)], dim=-1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_token_goes_on_as_alone_beside_a_longer_prompt(model, side):
    """Its position is 0, and padding has position 1."""
    seen = watch_positions(model)
    inputs = batch([sample(("text", 1), seed=2), sample(*SAMPLE)], side)
    model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert [positions[0, 0, -1].item() for positions in seen[1:]] == [1, 2]


def test_token_ids_alone_say_what_is_vision(model):
    inputs = sample(("text", 2), ("video", 3), ("text", 4), ("image", 2), ("video", 5), ("text", 1))
    without = {name: tensor for name, tensor in inputs.items() if name != "mm_token_type_ids"}
    assert torch.equal(model(**without).logits, model(**inputs).logits)
    options = {"max_new_tokens": 3, "do_sample": False}
    assert model.generate(**without, **options).tolist() == model.generate(**inputs, **options).tolist()


def test_a_text_call_after_a_video_does_not_remember_it(model):
    text = sample(("text", 6))
    expected = model(**text, use_cache=True)
    step = {"input_ids": torch.tensor([[7]]), "use_cache": True}
    after = model(**step, past_key_values=expected.past_key_values).logits
    model(**sample(*SAMPLE))
    again = model(**text, use_cache=True)
    assert torch.equal(model(**step, past_key_values=again.past_key_values).logits, after)


def test_a_later_video_stands_behind_the_cache(model):
    """Dense attention takes vision tokens in any call."""
    model.set_nsa(attention="dense")
    whole = sample(*SAMPLE) | {"second_per_grid_ts": torch.tensor([2.5, 0.4])}
    expected = model(**whole).logits
    first = 3 + 8 * 4 + 2 + 2  # tokens up to the middle of the text between the videos
    calls = []
    for tokens, video in ((slice(0, first), 0), (slice(first, None), 1)):
        patches = whole["video_grid_thw"].prod(dim=1).tolist()
        calls.append(
            {
                "input_ids": whole["input_ids"][:, tokens],
                "pixel_values_videos": whole["pixel_values_videos"].split(patches)[video],
                "video_grid_thw": whole["video_grid_thw"][video : video + 1],
                "second_per_grid_ts": whole["second_per_grid_ts"][video : video + 1],
            }
        )
    one = model(**calls[0], use_cache=True)
    two = model(**calls[1], past_key_values=one.past_key_values)
    assert relative_error(torch.cat([one.logits, two.logits], dim=1), expected) < 1e-5


@pytest.mark.parametrize("attention", ["nsa", "dense"])
def test_grid_seconds_gives_every_patch_a_second(model, attention):
    inputs = sample(*SAMPLE) | {"second_per_grid_ts": torch.tensor([2.5, 0.4])}
    seen = watch_positions(model)
    for semantics in ("paper", "grid_seconds", "release", "release-grid_seconds"):
        model.set_nsa(semantics=semantics, attention=attention)
        model(**inputs)
    clock, equal, release, release_by_clock = seen
    ones, _ = model.model.get_rope_index(**inputs | {"second_per_grid_ts": None})
    assert torch.equal(equal, ones)
    assert torch.equal(release, ones)
    assert torch.equal(clock, release_by_clock)
    assert not torch.equal(clock, ones)
    times = clock[0, 0, inputs["input_ids"][0] == VIDEO].unique().tolist()
    assert times[:8] == [4 + math.floor(2.5 * patch) for patch in range(8)]


def test_grid_seconds_alone_leaves_the_attention_to_the_fast_kernels():
    assert NSASettings(semantics="grid_seconds", backend="triton").semantics == "grid_seconds"


@pytest.mark.parametrize(
    ("version", "cut"),
    [(None, False), ("4.49.0", False), ("4.52.4", True), ("4.57.1", True), ("5.2.0", True), ("5.3.0", False)],
)
def test_whole_seconds_are_what_wrote_the_checkpoint(version, cut):
    config = VideoNSAConfig(**STOCK, transformers_version=version)
    assert config.whole_seconds == cut
    assert VideoNSAConfig.from_dict(config.to_dict()).whole_seconds == cut
    assert not VideoNSAConfig(**STOCK, transformers_version=version, whole_seconds=False).whole_seconds


def test_a_checkpoint_that_cuts_seconds_says_so_and_can_be_told_otherwise(caplog):
    loaded = load_model(GOLDEN / "stock_checkpoint")
    assert "whole_seconds=False counts the fraction" in caplog.text
    caplog.clear()
    counting = load_model(GOLDEN / "stock_checkpoint", whole_seconds=False)
    assert "whole_seconds" not in caplog.text
    video = {"mm_token_type_ids": torch.full((1, 4), 2), "video_grid_thw": torch.tensor([[4, 2, 2]])}
    for model, times in ((loaded, [0, 2, 4, 6]), (counting, [0, 3, 6, 9])):
        positions, _ = model.model.get_rope_index(**video, second_per_grid_ts=[1.5])
        assert positions[0, 0].tolist() == times


def test_what_does_not_fit_is_said_in_one_line():
    video = {"mm_token_type_ids": torch.full((1, 5), 2), "video_grid_thw": torch.tensor([[2, 4, 4]])}
    with pytest.raises(ValueError, match="a video has 5 tokens in the prompt; its grid makes 8"):
        Positions(1).get_rope_index(**video)
    with pytest.raises(ValueError, match="the seconds of 0 videos; video_grid_thw has 1"):
        Positions(1).get_rope_index(**video, second_per_grid_ts=[])
    with pytest.raises(ValueError, match="input_ids or mm_token_type_ids"):
        Positions(1).get_rope_index()
