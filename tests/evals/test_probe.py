"""Gates and sinks against explicit L x L attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evals.checkpoint import Checkpoint
from evals.observers.gates import Histogram
from evals.probe import probe
from evals.sinks import Keys, branch_keys, column_sums
from evals.suites import suite_settings
from videonsa.config import BRANCHES, NSASettings, SettingsError
from videonsa.kernels import nsa_attention
from videonsa.modeling import AttentionInputs

LENGTH, HEADS, KV_HEADS, SIZE = 23, 4, 2, 8
NSA = NSASettings(block_size=4, block_count=2, window=5)


@pytest.fixture(scope="module")
def inputs() -> AttentionInputs:
    torch.manual_seed(0)
    query = torch.randn(1, LENGTH, HEADS, SIZE) * 2
    key, value = torch.randn(1, LENGTH, KV_HEADS, SIZE), torch.randn(1, LENGTH, KV_HEADS, SIZE)
    return AttentionInputs(0, query, key, value, torch.rand(1, LENGTH, HEADS, 3), None)


def matrix(inputs: AttentionInputs, branch: str, nsa: NSASettings = NSA) -> Tensor:
    """What token k gives to query t: [Hq, t, k], from `nsa_attention` itself with one-hot values and gates of 1.

    Values must have the size of the keys here, so the one-hot vectors are given piece by piece.
    """
    gates = torch.zeros(1, LENGTH, HEADS, 3)
    gates[..., BRANCHES.index(branch)] = 1
    columns = []
    for start in range(0, LENGTH, SIZE):
        value = torch.eye(LENGTH)[:, start : start + SIZE]
        value = torch.nn.functional.pad(value, (0, SIZE - value.shape[1]))[None, :, None].repeat(1, 1, KV_HEADS, 1)
        output = nsa_attention(
            inputs.query,
            inputs.key,
            value,
            gates,
            block_size=nsa.block_size,
            block_count=nsa.block_count,
            window=nsa.window,
        )
        columns.append(output[0].transpose(0, 1))
    return torch.cat(columns, dim=-1)[..., :LENGTH]


@pytest.mark.parametrize("chunk", [1 << 26, 200], ids=["one-chunk", "many-chunks"])
def test_column_sums_are_those_of_the_matrix(
    chunk: int, inputs: AttentionInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videonsa.kernels.reference.CHUNK_ELEMENTS", chunk)
    sums = column_sums(inputs, NSA)
    matrices = {name: matrix(inputs, name) for name in BRANCHES}
    for name in ("slc", "swa"):
        torch.testing.assert_close(sums[name], matrices[name].sum(dim=1))
    blocks = LENGTH // NSA.block_size
    by_block = matrices["cmp"][..., : blocks * NSA.block_size].unflatten(-1, (blocks, NSA.block_size)).sum(-1)
    torch.testing.assert_close(sums["cmp"], by_block.sum(dim=1))
    gates = inputs.gates[0].permute(1, 0, 2)[..., None]  # [Hq, t, 3, 1]
    gated = sum(gates[:, :, place] * matrices[name] for place, name in enumerate(BRANCHES))
    torch.testing.assert_close(sums["gated"], gated.sum(dim=1))


def test_dense_column_sums(inputs: AttentionInputs) -> None:
    key = inputs.key[0].repeat_interleave(HEADS // KV_HEADS, dim=1)
    score = torch.einsum("thd,khd->htk", inputs.query[0], key) / SIZE**0.5
    causal = torch.ones(LENGTH, LENGTH).tril().bool()
    expected = score.masked_fill(~causal, -torch.inf).softmax(-1).sum(dim=1)
    torch.testing.assert_close(column_sums(inputs, NSA)["dense"], expected)


def test_alpha_is_a_mean_over_the_queries_that_may_see_the_key(inputs: AttentionInputs) -> None:
    keys = branch_keys(inputs, NSA)
    sums = column_sums(inputs, NSA)
    position = torch.arange(LENGTH)
    torch.testing.assert_close(keys["slc"].alpha, sums["slc"] / (LENGTH - position))
    torch.testing.assert_close(keys["swa"].alpha, sums["swa"] / (LENGTH - position).clamp(max=NSA.window))
    torch.testing.assert_close(keys["cmp"].alpha, sums["cmp"] / torch.tensor([20, 16, 12, 8, 4]))
    assert float(keys["dense"].alpha[:, -1].min()) > 0
    blocks = inputs.value[0, :20].unflatten(0, (5, 4)).mean(1)  # [J, Hkv, D]
    torch.testing.assert_close(keys["cmp"].norm, blocks.norm(dim=-1).T.repeat_interleave(2, dim=0))
    torch.testing.assert_close(keys["gated"].norm, inputs.value[0].norm(dim=-1).T.repeat_interleave(2, dim=0))


def test_a_sink_takes_much_and_carries_little() -> None:
    norm = torch.cat([torch.linspace(0.9, 1.1, 40), torch.tensor([0.1, 0.1])])[None]
    alpha = torch.full((1, 42), 0.05)
    alpha[0, [0, 40]] = 0.2  # much attention for an ordinary key and for one of the two small ones
    assert Keys(alpha, norm).sink.nonzero().tolist() == [[0, 40]]
    assert Keys(torch.zeros(2, 0), torch.zeros(2, 0)).sink.shape == (2, 0)


def test_a_planted_sink_is_found() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 64, heads, 16) for heads in (2, 1, 1))
    query[..., 0], key[..., 0] = 1.0, 0.0
    key[:, 0, :, 0] = 40.0  # every query looks at the first token, ...
    value[:, 0] *= 0.001  # ... which says nothing
    nsa = NSASettings(block_size=4, block_count=16, window=64)
    keys = branch_keys(AttentionInputs(0, query, key, value, torch.full((1, 64, 2, 3), 0.5), None), nsa)
    for name in ("slc", "swa", "dense", "gated"):
        assert keys[name].sink.nonzero().tolist() == [[0, 0], [1, 0]], name


def test_branches_left_out_have_no_keys(inputs: AttentionInputs) -> None:
    keys = branch_keys(inputs, NSASettings(block_size=4, block_count=2, window=5, branches=("swa",)))
    assert set(keys) == {"swa", "gated", "dense"}
    gate = inputs.gates[0, :, :, 2].T
    assert float(keys["gated"].alpha.max()) <= float(keys["swa"].alpha.max() * gate.max()) + 1e-6


def test_quartiles_of_a_histogram_are_those_of_the_values() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(3, 1000, 2) ** 2, torch.rand(500)
    gates = Histogram(1.0)
    gates.add(first)
    gates.add(second)
    together = torch.cat([first.flatten(), second])
    expected = torch.quantile(together, torch.tensor([0.25, 0.5, 0.75]))
    summary = gates.summary()
    assert summary["mean"] == pytest.approx(float(together.mean()), abs=1e-6)
    assert [summary[name] for name in ("q25", "median", "q75")] == pytest.approx(expected.tolist(), abs=5e-4)


def test_probe(loaded: Checkpoint, data: Path) -> None:
    suite = suite_settings("synth_needle", limit=4)
    record = probe(loaded, {"branches": "cmp+slc"}, suite, videos=2, data=data)
    layers = loaded.model.config.text_config.num_hidden_layers
    heads = loaded.model.config.text_config.num_attention_heads
    assert [layer["layer"] for layer in record["layers"]] == list(range(layers))
    first = record["layers"][0]
    assert list(first["gates"]) == ["cmp", "slc"]
    assert 0 < first["gates"]["cmp"]["q25"] <= first["gates"]["cmp"]["median"] <= first["gates"]["cmp"]["q75"] < 1
    assert first["sinks"]["slc"]["keys"] == 2 * heads * 64
    assert first["sinks"]["cmp"]["keys"] == 2 * heads * 64 // loaded.saved.block_size
    assert set(first["sinks"]) == {"cmp", "slc", "gated", "dense"}
    assert set(record["points"][0]) == {"layer", "branch", "position", "alpha", "v_norm", "sink"}
    assert all(0 <= point["position"] <= 1 and point["alpha"] <= 1.001 for point in record["points"])
    assert record["videos"] == 2
    arrays = record.pop("arrays")
    assert arrays["sinks/layers"].tolist() == list(range(layers))
    for layer in record["layers"]:
        for branch, counts in layer["sinks"].items():
            by_place = arrays[f"sinks/{branch}"][layer["layer"]]
            assert by_place.sum(1).tolist() == [counts["sinks"], counts["keys"]]
    json.dumps(record, allow_nan=False)


def test_dense_attention_has_no_gates(loaded: Checkpoint, data: Path) -> None:
    with pytest.raises(SettingsError, match="attention='dense' has no gates"):
        probe(loaded, {"attention": "dense"}, suite_settings("synth_needle", limit=4), data=data)
    loaded.use({})
