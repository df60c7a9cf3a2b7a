"""The search of MInference's table: heads made by hand get the pattern that they were made for; the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evals.checkpoint import Checkpoint
from evals.head_patterns import Search, fit_table, main
from evals.suites import suite_settings
from videonsa.config import SettingsError
from videonsa.methods import registry
from videonsa.methods.contract import LayerCall, Method, make_batch
from videonsa.modeling import metered

LENGTH, SIZE = 48, 16
SIZES = {"last_queries": 8, "first_columns": 0, "recent_diagonals": 1, "least_diagonals": 1, "block_size": 1}
PATTERNS = ((4, 1), (0, 6), (0, 40))


def settings(**changes):
    return registry.make("minference", {"table": "uniform", **SIZES, **changes})


def made_heads() -> LayerCall:
    """Head 0 attends to keys 3, 11, 20 and 31 alone; head 1 to the six latest keys."""
    column = torch.zeros(LENGTH, SIZE)
    column[[3, 11, 20, 31], 0] = 40.0
    angle = torch.arange(LENGTH) * 2 * torch.pi / 400
    latest = torch.stack([angle.cos(), angle.sin()], 1) * 400
    key = torch.stack([column, torch.nn.functional.pad(latest, (0, SIZE - 2))], 1)[None]
    query = torch.zeros(1, LENGTH, 2, SIZE)
    query[0, :, 0, 0] = 1.0
    query[0, :, 1, :2] = latest / 400
    value = torch.randn(1, LENGTH, 2, SIZE, generator=torch.Generator().manual_seed(0))
    return LayerCall(0, query, key, value, query, 1.0, SimpleNamespace())


def searched(patterns=PATTERNS) -> Search:
    search, method = Search(settings(), patterns), Method(None, None)
    method.batch = make_batch(torch.ones(1, LENGTH, dtype=torch.bool))
    search.look(method, made_heads())
    return search


def test_a_head_gets_the_pattern_that_it_was_made_for():
    search = searched()
    assert search.table(density=0.5).heads == ((0, 1),)
    kept = search.summary(search.table(density=0.5))
    columns = LENGTH + sum(LENGTH - 1 - key for key in (3, 11, 20, 31))
    diagonals = sum(LENGTH - distance for distance in range(6))
    causal = LENGTH * (LENGTH + 1) / 2
    assert kept["density"] == pytest.approx((columns + diagonals) / 2 / causal)
    assert kept["error"] < 0.2


def test_a_wider_pattern_is_taken_where_the_share_allows_it_and_the_sparsest_where_none_is_allowed():
    assert searched().table(density=1.0).heads[0][1] == 2
    assert searched(((0, 40), (0, 45), (0, 30))).table(density=0.01).heads == ((2, 2),)


def test_patterns_that_are_all_dense_are_refused():
    with pytest.raises(SettingsError, match=r"all dense at 48 tokens: give smaller ones"):
        searched(((48, 1), (1, 60))).table(0.5)


def test_a_fitted_table_is_one_that_the_model_can_be_asked_with(loaded: Checkpoint, data: Path, tmp_path: Path):
    suite = suite_settings("synth_order", frames=16, tokens_per_frame=4, limit=2)
    patterns = ((2, 4), (8, 2), (4, 12))
    sizes = {"last_queries": 4, "first_columns": 1, "recent_diagonals": 2, "least_diagonals": 1, "block_size": 4}
    table = fit_table(loaded, suite, 0.5, patterns=patterns, prompts=2, sizes=sizes, data=data)
    text = loaded.model.config.text_config
    assert [len(heads) for heads in table["heads"]] == [text.num_attention_heads] * text.num_hidden_layers
    assert table["made_by"]["prompts"] == 2
    assert table["made_by"]["checkpoint"] == loaded.identity
    assert 0 < table["kept"]["density"] < 1
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    loaded.use({}, registry.make("minference", {"table": str(file), **sizes}))
    with metered(loaded.model) as meters:
        loaded.model(input_ids=torch.arange(3, 63)[None], use_cache=False)
    assert max(meters[0].report()["density"]) < 1
    loaded.use({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--density", "2"], "give a share above 0 and at most 1"),
        (["--density", "0.2", "--patterns", "8"], "give COLUMNS,DIAGONALS, such as 30,800"),
        (["--density", "0.2", "--set", "minference.table=uniform"], "is not valid: minference.KEY=VALUE"),
        (["--density", "0.2", "--set", "minference.size=4"], "unknown setting 'minference.size'"),
        (["--density", "0.2", "--set", "suite.frame=4"], "unknown setting 'frame'"),
    ],
)
def test_wrong_options_are_one_line(options, message, folder: Path, tmp_path: Path, capsys):
    try:
        code = main([str(folder), "--suite", "synth_order", "--out", str(tmp_path / "table.json"), *options])
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr().err
    assert code == 2
    assert message in said
    assert len(said.splitlines()) == 1
