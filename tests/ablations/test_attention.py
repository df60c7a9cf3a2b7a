"""Methods in grids: asked by name, their settings where they are asked alone, in identities and records."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations.cell import Cell, make_cells
from ablations.grid import load_grid
from ablations.profile import load_profile
from ablations.reference import find_reference
from videonsa.config import SettingsError


def planned(text: str, tmp_path: Path, **changes: object) -> dict[str, Cell]:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{text}\nsuites: [synth_needle]\n")
    grid = load_grid(str(path), "tiny", {key.replace("__", "."): value for key, value in changes.items()})
    cells = make_cells(grid, load_profile("tiny"))
    return {cell.label: cell for cell in cells}


def test_names_of_nsa_are_the_same_cells_as_its_fields(tmp_path: Path) -> None:
    named = planned("axes: {method: [dense, paper, release]}", tmp_path)
    fields = planned(
        "axes: {a: [{nsa.attention: dense, label: dense}, {label: paper}, {nsa.semantics: release, label: release}]}",
        tmp_path,
    )
    assert {label: cell.id for label, cell in named.items()} == {label: cell.id for label, cell in fields.items()}
    assert all("method" not in cell.settings for cell in named.values())


def test_a_method_stands_in_records_and_identity_with_its_own_fields_alone(tmp_path: Path) -> None:
    text = "base: {tri_shape.n_local: 8, nsa.window: 4}\naxes: {method: [dense, tri_shape]}"
    cells = planned(text, tmp_path)
    own = {"n_init": 128, "n_local": 8, "n_last": 100, "backend": "auto"}
    assert cells["tri_shape"].settings["method"] == {"name": "tri_shape", **own}
    assert {"method tri_shape", "sparse"} <= set(cells["tri_shape"].inputs["code"])
    assert not {"method tri_shape", "sparse"} & set(cells["dense"].inputs["code"])
    again = planned(text, tmp_path, nsa__window=8)  # of NSA: where another method attends it does nothing
    assert again["tri_shape"].id == cells["tri_shape"].id
    assert planned(text, tmp_path, tri_shape__n_local=9)["tri_shape"].id != cells["tri_shape"].id
    assert planned(text, tmp_path, tri_shape__n_local=9)["dense"].id == cells["dense"].id


def test_differences_of_positions_act_beside_every_method(tmp_path: Path) -> None:
    text = "axes: {method: [tri_shape]}"
    plain, seconds = (planned(text, tmp_path, nsa__semantics=name)["tri_shape"] for name in ("paper", "grid_seconds"))
    release = planned(text, tmp_path, nsa__semantics="release")["tri_shape"]
    assert plain.id != seconds.id == release.id


def test_another_method_is_no_reference(tmp_path: Path) -> None:
    text = "base: {train.nsa.attention: dense}\naxes: {method: [tri_shape, dense]}\nsuites: [synth_needle]\n"
    (tmp_path / "mine.yaml").write_text(text)
    grid, profile = load_grid(str(tmp_path / "mine.yaml"), "tiny"), load_profile("tiny")
    assert find_reference(grid, profile, make_cells(grid, profile)) == "dense"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {method: [tri_shap]}", r"method='tri_shap' is not valid: choose one of .*; did you mean tri_shape"),
        ("base: {tri_shape.n_local: 8}\naxes: {nsa.window: [4]}", r"tri_shape.n_local is not valid: no variant asks"),
        ("axes: {tri_shape.n_locl: [8]}", r"unknown setting 'tri_shape.n_locl'; known: tri_shape.n_init"),
        ("base: {method: tri_shape}\naxes: {tri_shape.n_local: [0]}", r"tri_shape.n_local=0 is not valid: a whole"),
        ("base: {method: fastv}\naxes: {nsa.attention: [nsa]}", r"nsa.attention='nsa' is not valid: method='fastv'"),
        ("asks: train\naxes: {method: [fastv]}", r"method='fastv' is not valid: training is NSA's or dense"),
        ("axes: {method: [vscan]}", r"vscan.layer=14 is not valid: the model has 3 layers, so give one from 1 to 2"),
        ("axes: {method: [7]}", r"method='7' is not valid: choose one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        planned(text, tmp_path)
    assert "\n" not in str(raised.value)


def test_asks_train_takes_the_names_of_nsa(tmp_path: Path) -> None:
    cells = planned("asks: train\naxes: {method: [dense, paper]}", tmp_path)
    assert [cell.training.nsa.attention for cell in cells.values()] == ["dense", "nsa"]


def test_a_table_of_another_shape_is_refused_when_it_is_planned_and_one_that_fits_counts_by_content(
    tmp_path: Path,
) -> None:
    with pytest.raises(SettingsError, match=r"28 layers of 28 query heads, the model has 3 of 4; .*head_patterns"):
        planned("axes: {method: [dense, minference]}", tmp_path)
    text, cells = '{{"patterns": [[2, 4], [1, {}]], "heads": ["0000", "0100", "0001"]}}', []
    for name, slash in (("one", 8), ("same", 8), ("other", 9)):
        (tmp_path / f"{name}.json").write_text(text.format(slash))
        table = str(tmp_path / f"{name}.json")
        cells.append(planned("axes: {method: [minference]}", tmp_path, minference__table=table)["minference"])
    assert cells[0].id == cells[1].id != cells[2].id
    assert cells[0].settings["method"]["table"] == str(tmp_path / "one.json")
