"""The four training-free sparse prefills in a model: dense where their budgets hold the prompt, densities by hand."""

from __future__ import annotations

import json

import pytest
import torch

from tests.helpers import TOLERANCE, relative_error
from tests.modeling.conftest import PAD, model, sample, shared_model  # noqa: F401
from videonsa.config import SettingsError
from videonsa.methods import registry
from videonsa.methods.head_table import HeadTable, read_table
from videonsa.modeling import metered

EXACT = TOLERANCE[torch.float32]
SMALL = {  # sizes that leave something out of a few dozen tokens
    "tri_shape": {"n_init": 2, "n_local": 5, "n_last": 3},
    "minference": {
        **{"table": "uniform", "vertical": 3, "slash": 4, "last_queries": 4, "first_columns": 1},
        **{"recent_diagonals": 2, "least_diagonals": 1, "block_size": 4},
    },
    "flexprefill": {"gamma": 0.5, "min_budget": 4, "block_size": 4},
    "xattention": {"threshold": 0.5, "stride": 2, "block_size": 4},
}
WHOLE = {  # budgets of at least the prompt
    "tri_shape": {"n_local": 500},
    "minference": {"table": "uniform", "vertical": 500, "slash": 2, "block_size": 4},
    "flexprefill": {"min_budget": 500, "block_size": 4},
    "xattention": {"threshold": 1.0, "stride": 2, "block_size": 4},
}
PARTS = (("text", 5), ("video", 5), ("text", 4), ("video", 3), ("text", 7))


def in_batch():
    """A long row and a short one, padded on the left; the short one alone."""
    alone, long = sample(("text", 3), ("video", 4), ("text", 6), seed=1), sample(*PARTS)
    missing = long["input_ids"].shape[1] - alone["input_ids"].shape[1]
    rows = {}
    for name, fill in (("input_ids", PAD), ("attention_mask", 0), ("mm_token_type_ids", 0)):
        padded = torch.nn.functional.pad(alone[name], (missing, 0), value=fill)
        rows[name] = torch.cat([long[name], padded])
    for name in ("pixel_values_videos", "video_grid_thw"):
        rows[name] = torch.cat([long[name], alone[name]])
    return rows, long, alone


@pytest.mark.parametrize("name", SMALL)
def test_whole_budgets_are_dense_and_say_density_1(model, name):  # noqa: F811
    rows, _, _ = in_batch()
    shown = rows["attention_mask"].bool()
    model.set_nsa(attention="dense")
    dense = model(**rows).logits[shown]
    model.set_method(registry.make(name, WHOLE[name]))
    with metered(model) as meters:
        assert relative_error(model(**rows).logits[shown], dense) < EXACT
    assert meters[0].report()["density"] == [1.0, 1.0]
    model.set_method(registry.make(name, SMALL[name]))
    assert relative_error(model(**rows).logits[shown], dense) > 100 * EXACT


@pytest.mark.parametrize("name", SMALL)
def test_a_padded_row_is_as_alone_and_reports_what_it_computed(model, name):  # noqa: F811
    model.set_method(registry.make(name, SMALL[name]))
    rows, *each = in_batch()
    with metered(model) as meters:
        together = model(**rows).logits
        apart = [model(**row).logits for row in each]
    for number, logits in enumerate(apart):
        assert relative_error(together[number, -logits.shape[1] :], logits[0]) < EXACT
    both, *reports = [meter.report() for meter in meters]
    lengths = [logits.shape[1] for logits in apart]
    pairs = [length * (length + 1) / 2 for length in lengths]
    for layer in range(2):
        computed = sum(report["density"][layer] * causal for report, causal in zip(reports, pairs, strict=True))
        assert both["density"][layer] == pytest.approx(computed / sum(pairs), abs=1e-5)
        assert both["density"][layer] < 1
    assert both["tokens"] == [sum(lengths)] * 2
    assert both["choice_ms"] is not None


def test_density_of_tri_shape_by_hand(model):  # noqa: F811
    model.set_method(registry.make("tri_shape", SMALL["tri_shape"]))
    prompt = sample(*PARTS)
    length = prompt["input_ids"].shape[1]
    with metered(model) as meters:
        model(**prompt)
    seen = [i + 1 if i >= length - 3 else min(i + 1, 5 + min(2, max(0, i - 4))) for i in range(length)]
    assert meters[0].report()["density"] == pytest.approx([sum(seen) / (length * (length + 1) / 2)] * 2, abs=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_decoding_is_dense(model, name):  # noqa: F811
    """A token after the prompt sees all of it, so that it is given what a dense step over this cache gives."""
    prompt = sample(*PARTS)
    model.set_method(registry.make(name, SMALL[name]))
    prefill = model(**prompt, use_cache=True)
    token = prefill.logits[:, -1:].argmax(-1)
    length = prompt["input_ids"].shape[1]
    more = {"attention_mask": torch.ones(1, length + 1, dtype=torch.long), "past_key_values": prefill.past_key_values}
    with metered(model) as meters:
        step = model(input_ids=token, **more).logits
    assert not meters
    model.set_method(None)
    model.set_nsa(attention="dense")
    prefill.past_key_values.crop(-1)
    assert relative_error(model(input_ids=token, **more).logits, step) < EXACT


def test_text_alone_is_sparse_too(model):  # noqa: F811
    model.set_method(registry.make("xattention", SMALL["xattention"]))
    with metered(model) as meters:
        model(**sample(("text", 40)))
    assert max(meters[0].report()["density"]) < 1


# --- tables of MInference


def test_the_published_table():
    table = read_table("qwen2.5-7b")
    counts = dict.fromkeys(table.patterns, 0)
    for columns, diagonals in (table.layer(number) for number in range(28)):
        for pattern in zip(columns, diagonals, strict=True):
            counts[pattern] += 1
    assert counts == {
        **{(1000, 6096): 411, (3500, 100): 202, (30, 800): 91},
        **{(500, 700): 50, (100, 800): 24, (100, 750): 6},
    }
    assert (table.layer(0)[0][0], table.layer(0)[1][0]) == (3500, 100)
    assert (table.layer(5)[0][0], table.layer(5)[1][0]) == (30, 800)


def write(path, patterns, heads):
    path.write_text(json.dumps({"patterns": patterns, "heads": heads, "made_by": "hand"}))
    return str(path)


def test_a_table_is_used_by_layer_and_head(model, tmp_path):  # noqa: F811
    """Of 2 layers of 7 heads the first head of the second layer is dense, the others see a diagonal each."""
    sizes = {"first_columns": 0, "recent_diagonals": 1, "least_diagonals": 1, "block_size": 1}
    table = write(tmp_path / "table.json", [[0, 1], [900, 1]], ["0000000", "1000000"])
    model.set_method(registry.make("minference", {"table": table, **sizes}))
    prompt = sample(*PARTS)
    length = prompt["input_ids"].shape[1]
    with metered(model) as meters:
        model(**prompt)
    causal = length * (length + 1) / 2
    assert meters[0].report()["density"] == pytest.approx([length / causal, (6 * length / causal + 1) / 7], abs=1e-6)


def test_a_table_of_another_model_is_refused_with_what_makes_one(model):  # noqa: F811
    with pytest.raises(SettingsError, match=r"28 layers of 28 .* model has 2 of 7; `python -m evals.head_patterns"):
        model.set_method(registry.make("minference", {}))


def test_a_table_counts_by_its_content(tmp_path):
    one = write(tmp_path / "one.json", [[3, 4], [5, 6]], ["01", "10"])
    same = write(tmp_path / "same.json", [[5, 6], [3, 4]], ["10", "01"])
    other = write(tmp_path / "other.json", [[3, 4], [5, 6]], ["01", "11"])
    inputs = [registry.make("minference", {"table": table}).inputs() for table in (one, same, other)]
    assert inputs[0] == inputs[1] != inputs[2]
    assert "one.json" not in json.dumps(inputs[0])
    assert HeadTable(((3, 4), (5, 6)), ((0, 1), (1, 0))).as_json()["heads"] == ["01", "10"]


@pytest.mark.parametrize(
    ("patterns", "heads", "message"),
    [
        ([[1, 2]], ["01"], "head '1': a digit below 1"),
        ([[1, 0]], ["00"], "diagonals of at least 1"),
        ([[1, 2]], ["00", "0"], "all equally long"),
        ([[1, 2]], [], "one text a layer"),
        ([1], ["0"], "TypeError"),
    ],
)
def test_a_wrong_table_is_told_in_one_line(tmp_path, patterns, heads, message):
    with pytest.raises(SettingsError, match=message) as error:
        registry.make("minference", {"table": write(tmp_path / "table.json", patterns, heads)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("minference", {"table": "no.json"}, "uniform, qwen2.5-7b, or a file of"),
        ("minference", {"slash": 8}, "only with minference.table=uniform"),
        ("xattention", {"stride": 3}, "xattention.stride=3 is not valid: a divisor of block_size=128"),
        ("flexprefill", {"max_budget": 512}, "flexprefill.min_budget=1024 is not valid: at most max_budget=512"),
        ("xattention", {"block_size": 4, "stride": 2, "backend": "triton"}, "xattention.block_size=4 .* one of 16, 32"),
        ("tri_shape", {"n_local": 0}, "tri_shape.n_local=0 is not valid: a whole number of at least 1"),
    ],
)
def test_wrong_settings_are_told(name, values, message):
    with pytest.raises(SettingsError, match=message):
        registry.make(name, values)
