"""A random model of a few hundred thousand parameters, and inputs with videos, images and text."""

from __future__ import annotations

import pytest
import torch

from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration

IMAGE, VIDEO, VISION_START, VISION_END, PAD = 290, 291, 292, 293, 0
STOCK = {
    "text_config": {
        "vocab_size": 300,
        "hidden_size": 56,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        "initializer_range": 0.2,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "vision_config": {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "window_size": 112,
        "out_hidden_size": 56,
        "fullatt_block_indexes": [0],
        "tokens_per_second": 1,
        "initializer_range": 0.2,
    },
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="session")
def shared_model():
    torch.manual_seed(0)
    config = VideoNSAConfig(**STOCK, block_size=4, block_count=2, window=6)
    return VideoNSAForConditionalGeneration(config).eval().requires_grad_(False)


@pytest.fixture
def model(shared_model):
    """The shared model; its settings are put back afterwards."""
    before = shared_model.config.nsa
    yield shared_model
    shared_model.config.set_nsa(before)
    shared_model.set_method(None)
    shared_model.config.static_gates = None


def sample(*parts: tuple[str, int | tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Model inputs of parts ("text", tokens), ("video", 2-frame patches of 4 tokens) and ("image", 4-token rows); a
    video's or an image's size may also be given whole, in tokens: (time, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    ids, grids, pixels = [], {"video": [], "image": []}, {"video": [], "image": []}
    for kind, count in parts:
        if kind == "text":
            ids += torch.randint(3, 200, (count,), generator=generator).tolist()
            continue
        if isinstance(count, tuple):
            grid = [count[0], 2 * count[1], 2 * count[2]]
        else:
            grid = [count, 4, 4] if kind == "video" else [1, 2 * count, 8]
        patches = grid[0] * grid[1] * grid[2]
        ids += [VISION_START, *[VIDEO if kind == "video" else IMAGE] * (patches // 4), VISION_END]
        grids[kind].append(grid)
        pixels[kind].append(torch.randn(patches, 3 * 2 * 14 * 14, generator=generator))
    input_ids = torch.tensor([ids])
    types = (input_ids == IMAGE).int() + 2 * (input_ids == VIDEO).int()
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "mm_token_type_ids": types}
    if grids["video"]:
        inputs["pixel_values_videos"] = torch.cat(pixels["video"])
        inputs["video_grid_thw"] = torch.tensor(grids["video"])
        inputs["second_per_grid_ts"] = torch.ones(len(grids["video"]))
    if grids["image"]:
        inputs["pixel_values"] = torch.cat(pixels["image"])
        inputs["image_grid_thw"] = torch.tensor(grids["image"])
    return inputs


def batch(samples: list[dict[str, torch.Tensor]], side: str) -> dict[str, torch.Tensor]:
    """Several samples in one batch, padded on one side."""
    length = max(s["input_ids"].shape[1] for s in samples)
    inputs: dict[str, torch.Tensor] = {}
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        rows = [s[name][0] for s in samples]
        room = [length - len(row) for row in rows]
        rows = [
            torch.nn.functional.pad(row, (n, 0) if side == "left" else (0, n))
            for row, n in zip(rows, room, strict=True)
        ]
        inputs[name] = torch.stack(rows)
    for name in ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts", "pixel_values", "image_grid_thw"):
        held = [s[name] for s in samples if name in s]
        if held:
            inputs[name] = torch.cat(held)
    return inputs


def pack(model, rows: list[list[dict[str, torch.Tensor]]], side: str = "right") -> dict[str, torch.Tensor]:
    """Samples packed into rows: position ids [4, B, L] start again with each; rows shorter than the longest are padded
    on a side, and only then is there a mask."""
    ids, positions, everyone = [], [], [one for row in rows for one in row]
    for row in rows:
        ids.append(torch.cat([one["input_ids"][0] for one in row]))
        positions.append(torch.cat([positions_of(model, one) for one in row], dim=-1))
    length = max(map(len, ids))
    mask = torch.stack([_pad(torch.ones_like(row), length, side) for row in ids])
    inputs = batch(everyone, "right") | {
        "input_ids": torch.stack([_pad(row, length, side) for row in ids]),
        "position_ids": torch.stack([_pad(places, length, side) for places in positions], dim=1),
        "attention_mask": None if mask.all() else mask,
        "use_cache": False,
    }
    return inputs | {"mm_token_type_ids": None}


def positions_of(model, one: dict[str, torch.Tensor]) -> torch.Tensor:
    """Text positions and the three axes of a sample alone, [4, L]."""
    text = torch.arange(one["input_ids"].shape[1])[None]
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    if "image_grid_thw" not in one and "video_grid_thw" not in one:
        return text.repeat(4, 1)
    axes, _ = model.model.get_rope_index(**{name: one[name] for name in names if name in one})
    return torch.cat([text, axes[:, 0]])


def _pad(tokens: torch.Tensor, length: int, side: str) -> torch.Tensor:
    room = length - tokens.shape[-1]
    return torch.nn.functional.pad(tokens, (room, 0) if side == "left" else (0, room))
