"""Maps, sums of columns and times of a layer, against whole matrices of plain torch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evals.branches import attend, parts
from evals.checkpoint import Checkpoint
from evals.observers.contract import SeenLayer, SeenVideo
from evals.observers.latency import milliseconds
from evals.observers.maps import Maps, attention_maps, causal_pairs, chosen, spans
from evals.observers.sinks import by_place
from evals.probe import prefill, probe, questions
from evals.sinks import branch_keys, kernels_serve, sums_by_chunks, sums_by_gradient
from evals.suites import suite_settings
from tests.helpers import TOLERANCE, attention_inputs, relative_error
from videonsa.config import BRANCHES, NSASettings
from videonsa.modeling import AttentionInputs

SUBSETS = [("cmp", "slc", "swa"), ("cmp",), ("slc", "swa"), ("swa",)]


def layer(length: int, **more: object) -> AttentionInputs:
    made = attention_inputs(length, **more)  # type: ignore[arg-type]
    return AttentionInputs(0, made["query"], made["key"], made["value"], made["gates"], None)


def matrices(inputs: AttentionInputs, nsa: NSASettings) -> dict[str, Tensor]:
    """What token k gets from query t, [Hq, t, k] of each part; a block's share falls on its tokens in equal parts."""
    query, key = inputs.query[0].double().transpose(0, 1), inputs.key[0].double().transpose(0, 1)
    heads, length, size = query.shape
    group, block = heads // len(key), nsa.block_size
    at = torch.arange(length)
    causal = at <= at[:, None]
    score = query @ key.repeat_interleave(group, 0).mT / size**0.5
    found = {"dense": softmax(score, causal), "swa": softmax(score, causal & (at > at[:, None] - nsa.window))}
    blocks = length // block
    mean = key[:, : blocks * block].unflatten(1, (blocks, block)).mean(2).repeat_interleave(group, 0)
    by_block = softmax(query @ mean.mT / size**0.5, (torch.arange(blocks) + 1) * block - 1 <= at[:, None])
    found["cmp"] = torch.zeros_like(score)
    found["cmp"][..., : blocks * block] = by_block.repeat_interleave(block, 2) / block
    chosen = torch.zeros(heads, length, length, dtype=torch.bool)
    for first in range(0, heads, group):
        importance = by_block[first : first + group].sum(0)
        for t in range(length):
            seen = (t + 1) // block - ((t + 1) % block == 0)  # blocks before its own
            best = importance[t, :seen].argsort(descending=True, stable=True)[: nsa.block_count - 1].tolist()
            for j in [*best, t // block]:
                chosen[first : first + group, t, j * block : (j + 1) * block] = True
    found["slc"] = softmax(score, chosen & causal)
    gates = inputs.gates[0].double().permute(2, 1, 0)[..., None]
    found["gated"] = sum(gates[BRANCHES.index(name)] * found[name] for name in nsa.branches)
    return {part: found[part] for part in parts(nsa)}


def softmax(score: Tensor, visible: Tensor) -> Tensor:
    return score.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()


@settings(max_examples=30, deadline=None)
@given(
    length=some.integers(1, 40),
    bins=some.integers(1, 45),
    heads=some.sampled_from([(2, 2), (4, 2), (3, 1)]),
    sizes=some.tuples(some.integers(1, 9), some.integers(1, 4), some.integers(1, 50)),
    branches=some.sampled_from(SUBSETS),
    static=some.booleans(),
)
def test_maps_and_sums_are_those_of_whole_matrices(length, bins, heads, sizes, branches, static):
    inputs = layer(length, heads=heads[0], kv_heads=heads[1], seed=length * 50 + bins)
    if static:
        inputs.gates[:] = torch.tensor([0.25, 1.5, 0.0])
    nsa = NSASettings(block_size=sizes[0], block_count=sizes[1], window=sizes[2], branches=branches)
    whole = matrices(inputs, nsa)
    maps, sums = attention_maps(inputs, nsa, bins), sums_by_gradient(inputs, nsa)
    assert list(maps) == list(sums) == list(sums_by_chunks(inputs, nsa)) == list(whole)
    place = torch.arange(length) * min(bins, length) // length
    of_bin = (torch.arange(min(bins, length))[:, None] == place).double()  # [n, N]
    pairs = of_bin @ torch.ones(length, length).tril().double() @ of_bin.T
    for part, matrix in whole.items():
        expected = of_bin @ matrix.mean(0) @ of_bin.T / pairs  # NaN where a bin has no pair
        torch.testing.assert_close(maps[part], expected.float(), equal_nan=True, msg=part)
        columns = matrix.sum(1)
        if part == "cmp":
            columns = columns[:, : length // sizes[0] * sizes[0]].unflatten(1, (-1, sizes[0])).sum(2)
        torch.testing.assert_close(sums[part], columns.float())


def test_a_map_keeps_every_probability(monkeypatch: pytest.MonkeyPatch):
    """Rows of one token add up to 1 (cmp: where a block is seen), whatever the chunks and the bins of a pass."""
    monkeypatch.setattr("videonsa.kernels.reference.CHUNK_ELEMENTS", 300)
    nsa = NSASettings(block_size=4, block_count=2, window=5)
    maps = attention_maps(layer(23), nsa, bins=23)
    rows = {part: values.nansum(1) for part, values in maps.items()}
    for part in ("slc", "swa", "dense"):
        torch.testing.assert_close(rows[part], torch.ones(23))
    torch.testing.assert_close(rows["cmp"], (torch.arange(23) >= 3).float())
    assert bool(maps["dense"].isnan().eq(torch.ones(23, 23).triu(1).bool()).all())
    assert causal_pairs(torch.tensor([2, 3])).nan_to_num().tolist() == [[3, 0], [6, 6]]


class Largest(TorchDispatchMode):
    """The most numbers of a tensor that was made while it lasts."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(of.numel() for of in tree_leaves(made) if isinstance(of, Tensor))])
        return made


def test_no_tensor_grows_with_the_square_of_the_tokens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("videonsa.kernels.reference.CHUNK_ELEMENTS", 4096)
    inputs, nsa = layer(192, heads=2, kv_heads=1), NSASettings(block_size=16, block_count=2, window=32)
    with Largest() as seen:
        attention_maps(inputs, nsa, bins=8)
        branch_keys(inputs, nsa)
    assert 3000 < seen.most <= 8192, "all pairs of all heads are 73,728"


def test_sums_do_not_depend_on_values_and_serve_what_the_kernels_serve():
    inputs, nsa = layer(20), NSASettings(block_size=16, block_count=2, window=5)
    broken = AttentionInputs(0, inputs.query, inputs.key, inputs.value * torch.nan, inputs.gates, None)
    for part, found in sums_by_gradient(broken, nsa).items():
        torch.testing.assert_close(found, sums_by_chunks(inputs, nsa)[part])
    with torch.inference_mode():  # as in a probe
        assert sums_by_gradient(layer(20), nsa)["slc"].isfinite().all()
    assert not kernels_serve(inputs, nsa), "they are on CUDA alone"


def seen(kinds: list[int], grids: list[list[int]], index: int = 0) -> SeenVideo:
    """A question of these tokens (0 text, 2 video) and videos."""
    inputs = {"mm_token_type_ids": torch.tensor([kinds]), "video_grid_thw": torch.tensor(grids)}
    return SeenVideo(index, "made", SimpleNamespace(inputs=inputs), layers=3, merge=2, frames=2)  # type: ignore[arg-type]


def test_spans_say_where_text_stands_and_videos_begin():
    video = seen([0, 0, *[2] * 8, 0, 0, 0, *[2] * 4, 0], [[2, 4, 4], [1, 4, 4]])
    nsa = NSASettings(block_size=4, block_count=2, window=5)
    said = spans(SeenLayer(layer(12), nsa, torch.arange(12)), video)
    assert (said["tokens"], said["block_size"], said["frame"], said["starts"]) == ([12], [4], [4], [0, 8])
    assert dict(zip(said["text_at"], said["text_tokens"], strict=True)) == {0: 2, 8: 3, 12: 1}
    # As some semantics see it: the first token taken for text, two of text for vision.
    said = spans(SeenLayer(layer(13), nsa, torch.tensor([*range(1, 8), -1, -1, 8, 9, 10, 11])), video)
    assert (said["tokens"], said["starts"], said["text_at"]) == ([13], [0, 9], [0, 9, 13])


def test_maps_are_of_three_layers_of_the_first_video():
    assert [chosen(count) for count in (1, 2, 3, 28)] == [(0,), (0, 1), (0, 1, 2), (0, 14, 27)]
    nsa = NSASettings(block_size=4, block_count=2, window=5, branches=("slc", "swa"))
    observer, inputs = Maps(nsa), layer(12)
    assert list(observer.arrays()) == ["layers"]
    for index in (4, 7):
        for number in range(3):
            given = AttentionInputs(number, inputs.query * (1 + index), inputs.key, inputs.value, inputs.gates, None)
            observer.look(SeenLayer(given, nsa, torch.arange(12)), seen([0, *[2] * 12], [[3, 4, 4]], index))
    arrays = observer.arrays()
    given = AttentionInputs(0, inputs.query * 5, inputs.key, inputs.value, inputs.gates, None)
    for part, values in attention_maps(given, nsa).items():
        assert arrays[part].shape == (3, 12, 12)
        torch.testing.assert_close(torch.from_numpy(arrays[part][2]), values, equal_nan=True)
    assert "cmp" not in arrays
    assert arrays["layers"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("keys", [0, 1, 16, 64, 200])
def test_sinks_are_counted_where_they_stand(keys: int):
    sink = torch.zeros(2, keys, dtype=torch.bool)
    sink[:, keys // 2 :] = True
    found, every = by_place(sink)
    assert (int(found.sum()), int(every.sum())) == (int(sink.sum()), 2 * keys)
    assert int(found[:31].sum()) == 0
    assert int(every.max()) <= 2 * -(-keys // 64)


def test_a_probe_of_these_observers(loaded: Checkpoint, data: Path):
    suite = suite_settings("synth_needle", limit=4)
    record = probe(loaded, {}, suite, videos=2, data=data, observers=["maps", "latency"])
    layers = loaded.model.config.text_config.num_hidden_layers
    assert set(record["layers"][0]) == {"layer", "latency"}
    for here in record["layers"]:
        assert list(here["latency"]) == ["cmp", "slc", "swa", "gated", "dense"]
        assert all(part["ms"] > 0 and part["videos"] == 2 for part in here["latency"].values())
    assert record["latency_of"]["tokens"] == 64
    assert " thread" in record["latency_of"]["device"]
    arrays = record["arrays"]
    assert arrays["maps/layers"].tolist() == list(chosen(layers))
    _, question = next(questions(loaded, suite, 1, data))
    captured: list[AttentionInputs] = []
    watch = SimpleNamespace(video=SimpleNamespace(question=question), look=lambda *_: None, append=captured.append)
    prefill(loaded, watch)  # type: ignore[arg-type]
    whole = matrices(captured[-1], loaded.use({}))
    for part, matrix in whole.items():
        expected = matrix.mean(0).masked_fill(torch.ones(64, 64).triu(1).bool(), torch.nan).float()
        found = torch.from_numpy(arrays[f"maps/{part}"][-1])
        torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-6, rtol=1e-4)


def test_what_is_timed_has_run_once_before():
    calls: list[int] = []
    assert milliseconds(lambda: calls.append(len(calls)), torch.device("cpu")) >= 0
    assert calls == [0, 1, 2, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("length", [3001, 8192])
def test_kernels_give_the_sums_and_maps_of_plain_torch(length: int):
    made = attention_inputs(length, heads=28, kv_heads=4, size=128, dtype=torch.bfloat16)
    made["query"] *= 2
    inputs = AttentionInputs(0, *(made[name].cuda() for name in ("query", "key", "value", "gates")), None)
    nsa = NSASettings(block_size=64, block_count=8, window=256)
    plain = NSASettings(block_size=64, block_count=8, window=256, backend="reference")
    assert kernels_serve(inputs, nsa)
    assert not kernels_serve(inputs, plain)
    by_chunks = sums_by_chunks(inputs, nsa)
    for part, found in sums_by_gradient(inputs, nsa).items():
        assert relative_error(found, by_chunks[part]) < TOLERANCE[torch.bfloat16], part
    fast, slow = attention_maps(inputs, nsa), attention_maps(inputs, plain)
    for part, found in fast.items():
        assert relative_error(found.nan_to_num(), slow[part].nan_to_num()) < TOLERANCE[torch.bfloat16], part
    assert milliseconds(lambda: attend(inputs, nsa, "dense"), inputs.query.device) > 0
