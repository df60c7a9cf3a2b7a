"""The faster vision tower against the stock one: outputs and gradients, frames of any shape, many pieces at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from tests.helpers import TOLERANCE, relative_error
from videonsa.modeling import vision
from videonsa.modeling.vision import PiecewiseTower, pieces, shares_of, speed_up_vision

GRIDS = {
    "square": [[3, 16, 16]],
    "16:9": [[3, 12, 20]],
    "portrait": [[2, 20, 12]],
    "one token": [[1, 2, 2]],
    "videos and images": [[3, 4, 4], [2, 12, 20], [1, 10, 6], [4, 4, 4], [1, 2, 38]],
}


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=3, hidden_size=32, intermediate_size=44, num_heads=2, window_size=112, out_hidden_size=24,
        fullatt_block_indexes=[1], initializer_range=0.3,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    stock = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    faster = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    faster.load_state_dict(stock.state_dict())
    speed_up_vision(faster)
    assert type(faster) is PiecewiseTower
    return stock, faster


def pixels_of(grids, dtype=torch.float32):
    patches = sum(time * height * width for time, height, width in grids)
    return torch.randn(patches, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0)).to(dtype)


def outputs_and_gradients(tower, grids, pixels):
    """What the tower returns, and the gradients of every weight."""
    tower.zero_grad()
    output = tower(pixels, grid_thw=torch.tensor(grids, device=pixels.device))
    weights = torch.randn(output.pooler_output.shape, generator=torch.Generator().manual_seed(1))
    (output.pooler_output.float() * weights.to(pixels.device)).sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in tower.named_parameters() if weight.grad is not None}
    return {"features": output.pooler_output, "states": output.last_hidden_state, **gradients}


def compare(stock, faster, grids, dtype=torch.float32, device="cpu"):
    pixels = pixels_of(grids, dtype).to(device)
    ours, theirs = (outputs_and_gradients(tower, grids, pixels) for tower in (faster, stock))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if not name.endswith("qkv.bias"):  # a key's bias has no gradient but rounding
            assert relative_error(ours[name].detach(), expected.detach()) < TOLERANCE[dtype], name


@pytest.mark.parametrize("most", [vision.PATCHES, 100], ids=["one piece", "pieces"])
@pytest.mark.parametrize("name", GRIDS)
def test_outputs_and_gradients_are_those_of_the_stock_tower(towers, name, most, monkeypatch):
    monkeypatch.setattr(vision, "PATCHES", most)
    monkeypatch.setattr(vision, "TRAINED", most * towers[1].config.hidden_size)
    compare(*towers, GRIDS[name])


def test_training_goes_on_after_inference_on_the_same_sizes(towers):
    grids = GRIDS["16:9"]
    vision.make_layout.cache_clear()
    with torch.inference_mode():
        towers[1](pixels_of(grids), grid_thw=torch.tensor(grids))
    compare(*towers, grids)


def test_pieces_keep_the_order_and_hold_no_more_than_they_may():
    grids = [[5, 2, 2], [1, 4, 4], [3, 2, 4], [2, 10, 10]]
    cut = list(pieces(grids, 16))
    assert cut == [((4, 2, 2),), ((1, 2, 2),), ((1, 4, 4),), ((2, 2, 4),), ((1, 2, 4),), ((1, 10, 10),), ((1, 10, 10),)]
    assert list(pieces(grids, 10**6)) == [tuple(map(tuple, grids))]


def test_memory_holds_the_activations_of_one_piece_alone(towers, monkeypatch):
    """The largest tensor that any layer makes is that of a piece, however long the video is."""
    monkeypatch.setattr(vision, "PATCHES", 64)
    seen = []
    for block in (blocks := towers[1].blocks):
        block.mlp.gate_proj.register_forward_hook(lambda layer, args, output: seen.append(len(output)))
    try:
        with torch.no_grad():
            towers[1](pixels_of([[40, 4, 4]]), grid_thw=torch.tensor([[40, 4, 4]]))
    finally:
        for block in blocks:
            block.mlp.gate_proj._forward_hooks.clear()
    assert set(seen) == {64}


def test_who_asks_for_all_hidden_states_gets_the_stock_towers(towers):
    grids = GRIDS["16:9"]
    asked = {"grid_thw": torch.tensor(grids), "output_hidden_states": True}
    stock, faster = (tower(pixels_of(grids), **asked).hidden_states for tower in towers)
    assert len(stock) == len(faster) > 0
    assert all(
        relative_error(a.detach(), b.detach()) < TOLERANCE[torch.float32] for a, b in zip(faster, stock, strict=True)
    )


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True], ids=["half", "autocast"])
@pytest.mark.parametrize("name", GRIDS)
def test_on_a_card(name, autocast):
    """In half precision, or trained over float32 weights: windows in one call, fused parts, inner columns filled up."""
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=2, hidden_size=160, intermediate_size=428, num_heads=2, window_size=112, out_hidden_size=64,
        fullatt_block_indexes=[1],
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    exact = Qwen2_5_VisionTransformerPretrainedModel(config).eval().cuda()
    weights = torch.float32 if autocast else torch.bfloat16
    faster = copy.deepcopy(exact).to(weights)
    speed_up_vision(faster)
    grids = GRIDS[name]
    pixels = pixels_of(grids, torch.bfloat16).cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        ours = outputs_and_gradients(faster, grids, pixels)
        stock = outputs_and_gradients(copy.deepcopy(exact).to(weights), grids, pixels)
    true = outputs_and_gradients(exact, grids, pixels.float())
    for part, expected in true.items():  # no farther from float32 than the stock tower in bfloat16
        error, allowed = (relative_error(each[part].detach(), expected.detach()) for each in (ours, stock))
        assert error < max(1.5 * allowed, TOLERANCE[torch.bfloat16]), part


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_shares_hold_every_temporal_patch_once_and_are_about_equal(grids, count):
    shares = shares_of(grids, count)
    each = [(1, height, width) for time, height, width in grids for _ in range(time)]
    assert [(1, *grid[1:]) for share in shares for grid in share for _ in range(grid[0])] == each
    sizes = [sum(time * height * width for time, height, width in share) for share in shares]
    assert max(sizes) <= sum(sizes) / count + max(height * width for _, height, width in grids)
