"""The benchmark's own claims: operation counts, the gate that refuses a wrong kernel, its data, its columns."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from videonsa.bench import __main__ as bench
from videonsa.bench import choices, command, methods, model, providers, public, question, reading, release, rows
from videonsa.bench.case import Case, flops, make_inputs, visible_keys
from videonsa.bench.check import CheckFailed, check, sample, without_ties
from videonsa.kernels.reference import attention_probabilities

ROOT = Path(__file__).parents[2]
CASE = Case(200, 6, 2, 16, 16, 3, 20, "float32", "random")
COLUMNS_ASKED = (
    "provider, semantics, stage, mode, timing, length, heads, kv_heads, head_dim, block_size, block_count, window, "
    "dtype, data, ms_p20, ms_p50, ms_p80, peak_gib, tflops, gpu, torch, triton, commit"
)


def inputs_of(case: Case):
    return make_inputs(case, torch.device("cpu"))


def test_pairs_equal_those_that_the_reference_attends_to():
    inputs = inputs_of(CASE)
    counted = dict.fromkeys(("cmp", "slc", "swa"), 0)
    chunks = attention_probabilities(
        inputs.query, inputs.key, block_size=16, block_count=3, window=20, branches=tuple(counted), scale=CASE.scale
    )
    for _, probabilities in chunks:
        for name, weights in probabilities.items():
            counted[name] += int((weights[0, 0, 0] > 0).sum())
    assert {name: visible_keys(CASE)[name] for name in counted} == counted
    assert visible_keys(CASE)["dense"] == 200 * 201 // 2


def test_backward_counts_five_products_and_forward_two():
    assert flops(CASE, "all", "bwd") == 2.5 * flops(CASE, "all", "fwd")
    assert flops(CASE, "topk", "fwd") == 0.5 * flops(CASE, "cmp", "fwd")


@pytest.mark.parametrize("data", ["random", "video"])
def test_the_reference_passes_the_gate(data):
    case = Case(200, 6, 2, 16, 16, 3, 20, "float32", data)
    errors = check("reference", providers.attention("reference", case), inputs_of(case), case, dense=False)
    assert set(errors) == {"output", "query", "key", "value", "gates"}


def test_tied_queries_are_left_out_of_the_gate():
    inputs = inputs_of(CASE)
    position = sample(CASE, torch.device("cpu"))
    assert torch.equal(without_ties(position, inputs, CASE), position)
    tied = inputs._replace(query=torch.zeros_like(inputs.query))  # all blocks are then equally important
    few = (CASE.block_count) * CASE.block_size  # up to here every visible block is chosen
    assert without_ties(position, tied, CASE).tolist() == position[position < few].tolist()


@pytest.mark.parametrize("wrong", ["window", "future", "nan"])
def test_the_gate_refuses_a_kernel_that_is_wrong(wrong):
    exact = providers.attention("reference", CASE)

    def attention(query, key, value, gates):
        if wrong == "window":
            return providers.attention("reference", Case(200, 6, 2, 16, 16, 3, 19, "float32", "random"))(
                query, key, value, gates
            )
        if wrong == "future":
            return exact(query, key, value.roll(-1, 1), gates)
        return exact(query, key, value, gates) / torch.zeros(())

    with pytest.raises(CheckFailed, match="output"):
        check("wrong", attention, inputs_of(CASE), CASE, dense=False)


def test_dense_attention_passes_the_gate():
    def attention(query, key, value, gates):
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2)

    assert "gates" not in check("dense", attention, inputs_of(CASE), CASE, dense=True)


def test_sampled_positions_hold_the_ends_and_fit_short_sequences():
    assert {0, 15, 16, 199} <= set(sample(CASE, torch.device("cpu")).tolist())
    assert sample(Case(1, 1, 1, 16, 16, 3, 20, "float32", "random"), torch.device("cpu")).tolist() == [0]


def test_neighbours_of_video_data_share_more_of_their_choice_than_random_ones():
    shared = {}
    for data in ("random", "video"):
        case = Case(1024, 2, 1, 16, 16, 9, 20, "float32", data)
        inputs = inputs_of(case)
        chunks = attention_probabilities(
            inputs.query, inputs.key, block_size=16, block_count=9, window=20, branches=("slc",), scale=case.scale
        )
        _, probabilities = next(chunks)
        chosen = (probabilities["slc"][0, 0, 0] > 0).unflatten(-1, (64, 16)).any(-1)
        late = torch.arange(600, 1000)
        late = late[late % 16 != 15]  # neighbours of one block
        shared[data] = float((chosen[late] & chosen[late + 1]).sum() / chosen[late].sum())
    assert shared["video"] > shared["random"] + 0.15, shared


def test_rows_have_the_columns_asked_for(tmp_path):
    assert ", ".join(bench.COLUMNS) == COLUMNS_ASKED
    path = tmp_path / "folder" / "rows.csv"
    about = dict.fromkeys(command.SOFTWARE, "X")
    row = {**dict.fromkeys(bench.COLUMNS, 1.0), "provider": "triton"}
    table = command.table(bench.COLUMNS, path, about)
    table.add({name: value for name, value in row.items() if name not in about})
    command.table(bench.COLUMNS, path, about).add(row, row)
    with path.open() as file:
        found = list(csv.DictReader(file))
    assert [row["provider"] for row in found] == ["triton"] * 3
    assert {row["gpu"] for row in found} == {"X"}


def test_a_file_holds_rows_of_one_card_and_of_the_same_columns(tmp_path):
    path = tmp_path / "rows.csv"
    assert rows.refusal(path, bench.COLUMNS, "A") is None
    rows.append([{**dict.fromkeys(bench.COLUMNS, 1), "gpu": "A"}], bench.COLUMNS, path)
    assert rows.refusal(path, bench.COLUMNS, "A") is None
    assert "holds rows of A, and this is B" in rows.refusal(path, bench.COLUMNS, "B")
    assert "has other columns" in rows.refusal(path, bench.COLUMNS[1:], "A")


RECORDED = {
    "h200": bench, "h100": bench, "methods": methods, "model_h200": model, "question": question,
    "release_h200": release, "release_h100": release, "reading": reading,
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_files_have_the_columns_of_the_command(name):
    with (ROOT / "benchmarks" / f"{name}.csv").open() as file:
        found = csv.DictReader(file)
        assert tuple(found.fieldnames) == RECORDED[name].COLUMNS
        if name == "h200":
            named = {(row["provider"], row["semantics"]) for row in found}
            assert named == {(name, providers.semantics(name)) for name in ("triton", "sdpa_cudnn", "sdpa_flash")}


def test_a_group_of_heads_padded_with_zeros_computes_the_same():
    """So fla's kernels take 28/4 heads as 64/4: a head of zeros weighs all blocks alike."""
    inputs = [tensor.double() for tensor in inputs_of(CASE)[:4]]
    wanted = providers.attention("reference", CASE)(*inputs)
    query, gates = (public.pad_groups(tensor, CASE.kv_heads, 16) for tensor in (inputs[0], inputs[3]))
    found = providers.attention("reference", CASE)(query, inputs[1], inputs[2], gates)
    assert found.shape[2] == 32
    assert torch.allclose(public.first_of_groups(found, CASE.kv_heads, CASE.heads), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("provider", public.NEEDS)
def test_a_public_kernel_that_is_not_installed_is_refused_in_one_line(provider, monkeypatch, capsys):
    monkeypatch.setattr(public.importlib.util, "find_spec", lambda name: None)
    assert bench.main(["--lengths", "64", "--providers", "triton", provider]) == 2
    error = capsys.readouterr().err
    assert f"provider {provider} needs the package {' and '.join(public.NEEDS[provider])}" in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("timed", [bench, choices, methods, model, question, release], ids=lambda each: each.__name__)
def test_without_a_device_it_says_so(timed, capsys):
    assert timed.main([]) == 2
    assert "measures on CUDA, and torch finds no CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
def test_choices_that_differ_from_float64_are_ties(capsys):
    assert choices.main(["--length", "3000", "--seeds", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2


@pytest.mark.gpu
def test_a_run_writes_every_stage(tmp_path):
    from videonsa.kernels import tiling

    path = tmp_path / "rows.csv"
    stages = list(providers.STAGES)
    arguments = ["--lengths", "4096", "--providers", "triton", "sdpa_cudnn", "--stages", *stages, "--out", str(path)]
    with tiling.selection("listed"):  # masked.py's way has no stages of its own
        assert bench.main(arguments) == 0
    with path.open() as file:
        found = {(row["provider"], row["stage"], row["mode"]) for row in csv.DictReader(file)}
    assert {("triton", stage, "fwd") for stage in stages} | {("sdpa_cudnn", "all", "bwd")} <= found
