"""Figures are drawn without a warning, the same bytes each time, and refuse data that they cannot show."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.compared import compare
from analysis.figures import DRAWINGS, draw, module, pareto, style, ticks, tokens
from analysis.figures import budget as budget_figure
from analysis.figures.content import sentence
from analysis.figures.kernels import draw as draw_kernels
from analysis.figures.looks import LOOKS, SLIDES, look
from analysis.figures.vectors import components
from analysis.figures.vectors import draw as draw_vectors
from analysis.load import Results, find_reference, load, read_plan
from analysis.summary import sweep_data
from tests.analysis.synthetic import measurements, observed, probe, write
from tests.disks import fill, small_disk
from videonsa.arrays import ARRAYS, write_arrays
from videonsa.disk import DiskError
from videonsa.methods import registry

SWEEPS = {"budget": "tiny-budget", "branches": "tiny-branches", "tokens": "tiny-tokens", "losses": "tiny-branches"}
SWEEPS |= dict.fromkeys(("maps", "latency", "sink_places"), "observed") | {"lengths": "lengths"}
PICTURES = ("maps",)  # 256 x 256 numbers a panel are a picture
SIGNATURES = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}


@pytest.fixture(scope="session")
def data(out: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    made = {}
    for sweep in set(SWEEPS.values()) - {"observed", "lengths"}:
        plan = read_plan(out / "sweeps" / sweep)
        made[sweep] = sweep_data(plan, load(out, plan))
    rows = made["tiny-tokens"]["rows"]  # as a sweep within its frames
    names = "tokens=" + rows["tokens_per_frame"].astype(str)
    made["lengths"] = {
        "rows": rows.assign(group="frames=" + rows["frames"].astype(str), name=names, tokens_per_frame=64)
    }
    return made | {"observed": observed_data(tmp_path_factory.mktemp("observed"))}


def observed_data(out: Path) -> dict:
    """Of one probe that timed the branches, drew maps and counted sinks by place."""
    parts = ("cmp", "slc", "swa", "gated", "dense")
    layers = [{"layer": n, "latency": {name: {"ms": 2.0**n} for name in parts}} for n in range(4)]
    record = probe("a" * 12, {"name": "synth_needle"}) | {"layers": layers, "gate_content": {}}
    record |= {"latency_of": {"device": "NVIDIA H100 80GB HBM3", "tokens": 640}}
    record |= {"arrays": write_arrays(out / "probes" / "a" / ARRAYS, observed())}
    write(out / "probes" / "a" / "record.json", record)
    return sweep_data({"cells": []}, load(out))


@pytest.mark.parametrize("name", DRAWINGS)
def test_each_figure_is_written_in_three_formats_without_a_warning(name: str, data: dict, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = draw(name, data[SWEEPS.get(name, "tiny-budget")], tmp_path)
    assert [path.name for path in paths] == [f"{name}.{kind}" for kind in style.FORMATS]
    for path in paths:
        assert path.read_bytes().startswith(SIGNATURES[path.suffix[1:]])
    if name not in PICTURES:
        assert_vectors(*paths[:2])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)


def assert_vectors(pdf: Path, svg: Path) -> None:
    """Each font of the PDF is whole TrueType within it, the SVG needs none, and neither holds a picture of pixels."""
    written = pdf.read_bytes()  # dictionaries stand there as text, streams alone are packed
    fonts = written.count(b"/Type /FontDescriptor")
    assert fonts == written.count(b"/FontFile2 ") == written.count(b"/Subtype /CIDFontType2") > 0
    assert b"/Type3" not in written
    assert b"/Subtype /Image" not in written
    drawn = svg.read_bytes()
    assert b"<text" not in drawn
    assert b"<image" not in drawn


def overlapping(figure: Figure) -> list[str]:
    """Labels beside an axis that meet their neighbour, and axes and legends that leave the figure."""
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    found = []
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        places = [axes, *figure.legends]
        for name, box in ((str(place), place.get_window_extent()) for place in places):
            inside = -1 <= box.x0 <= box.x1 <= width + 1 and -1 <= box.y0 <= box.y1 <= height + 1
            found += [] if inside else [f"{name} leaves the figure"]
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        found += [
            f"{labels[n].get_text()} meets {labels[n + 1].get_text()}"
            for n in range(len(boxes) - 1)
            if boxes[n].x1 > boxes[n + 1].x0 and boxes[n].height < 30
        ]
    return found


def many_contexts(rows: pd.DataFrame) -> pd.DataFrame:
    """Seven numbers of frames on several suites, as the paper's grid has them."""
    cell = rows[rows["status"] == "done"].iloc[:1]
    return pd.concat(
        [
            cell.assign(frames=32 * 2.0**n, tokens_per_frame=tokens, suite=f"suite_{suite}")
            for n in range(7)
            for tokens in (64.0, 128.0)
            for suite in range(2)
        ]
    )


@pytest.mark.parametrize("name", LOOKS)
def test_labels_have_room_on_a_page_and_on_a_slide(name: str, rows: pd.DataFrame) -> None:
    lengths = [2.0**n for n in range(10, 21)]
    table = measurements().query("length == 1024")
    long = pd.concat([table.assign(length=length, ms_p50=length) for length in lengths])
    with look(name), style.style():
        for figure in (tokens.draw(many_contexts(rows)), draw_kernels(long)):
            assert overlapping(figure) == []
            assert figure.get_figheight() <= style.PAGE_HEIGHT
            wide = figure.get_figwidth() / figure.get_figheight()
            assert wide == pytest.approx(16 / 9, abs=0.001) if name == SLIDES else figure.get_figwidth() <= 5.5


def test_a_figure_for_slides_fills_one(data: dict, tmp_path: Path) -> None:
    with look(SLIDES):
        pdf, svg, png = draw("accuracy", data["tiny-budget"], tmp_path)
    assert_vectors(pdf, svg)
    assert {path.parent for path in (pdf, svg, png)} == {tmp_path / "slides"}
    assert b'width="960pt" height="540pt" viewBox="0 0 ' in svg.read_bytes()
    assert struct.unpack(">II", png.read_bytes()[16:24]) == (2560, 1440)


@pytest.mark.long
@pytest.mark.parametrize("name", DRAWINGS)
def test_each_figure_for_slides_is_drawn_without_a_warning(name: str, data: dict, tmp_path: Path) -> None:
    with warnings.catch_warnings(), look(SLIDES):
        warnings.simplefilter("error")
        paths = draw(name, data[SWEEPS.get(name, "tiny-budget")], tmp_path)
    assert all(path.read_bytes().startswith(SIGNATURES[path.suffix[1:]]) for path in paths)
    if name not in PICTURES:
        assert_vectors(*paths[:2])


@pytest.mark.parametrize("name", ["budget", "sink_points"])
def test_the_same_records_give_the_same_bytes(name: str, data: dict, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in draw(name, data["tiny-budget"], tmp_path / "1")]
    again = [path.read_bytes() for path in draw(name, data["tiny-budget"], tmp_path / "2")]
    assert first == again


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_to_draw_is_a_value_error(name: str, tmp_path: Path, plan: dict) -> None:
    with pytest.raises(ValueError, match=r"^(no|fewer)"):
        draw(name, sweep_data(plan, load(tmp_path, plan)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "suites"),
    [("accuracy", 1), ("accuracy", 8), ("budget", 1), pytest.param("budget", 5, marks=pytest.mark.long)],
)
def test_any_number_of_suites(name: str, suites: int, results: Results, plan: dict, tmp_path: Path) -> None:
    one = results.cells["suite"] == "synth_needle"
    cells = pd.concat([results.cells[one].assign(suite=f"suite_{i}") for i in range(suites)])
    rows = compare(Results(cells, results.questions, *[results.gates] * 3, ()), find_reference(plan, results.cells))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(name, {"rows": rows}, tmp_path)


def test_every_text_of_the_budget_figure_lies_inside_it(rows: pd.DataFrame) -> None:
    with style.style():
        figure = budget_figure.draw(rows)
        figure.draw_without_rendering()
        width, height = figure.canvas.get_width_height()
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert -1 <= box.x0 <= box.x1 <= width + 1
            assert -1 <= box.y0 <= box.y1 <= height + 1


def test_the_legend_of_many_methods_with_long_names_lies_inside_the_figure() -> None:
    names = [*registry.names(), "of_another_package_with_a_very_long_name", "another_method", "and_a_third_one"]
    values = np.linspace(0.1, 0.9, len(names))
    table = pd.DataFrame({"method": names, "density": values, "prefill_ms": 10 * values, "accuracy": values[::-1]})
    table = table.assign(low=values[::-1] - 0.05, high=values[::-1] + 0.05, block_means=0.0, attention_fraction=values)
    table = table.assign(status="done", suite="synth_order", group=None)
    with style.style():
        figure = pareto.draw(table)
        figure.draw_without_rendering()
        box, (width, height) = figure.legends[0].get_window_extent(), figure.canvas.get_width_height()
    assert -1 <= box.x0 <= box.x1 <= width + 1
    assert -1 <= box.y0 <= box.y1 <= height + 1
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(shown)) == len(names) + 1
    assert "tri_shape" in shown


@pytest.mark.parametrize("name", ["gates", "sinks", "latency"])
def test_of_many_probes_the_first_are_shown_and_it_is_said(name: str, data: dict) -> None:
    one = data["observed" if name == "latency" else "tiny-budget"][name]
    several = pd.concat(one.assign(probe=f"{number:012x}", label=f"variant {number}") for number in range(14))
    with style.style():
        figure = module(name).draw(several)
        figure.draw_without_rendering()
    assert [axes.get_title().partition("\n")[0] for axes in figure.axes] == [f"variant {n}" for n in range(12)]
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "12 of 14 probes shown"
    assert legend.get_window_extent().y0 >= 0


@pytest.mark.parametrize("name", ["gates", "sinks", "latency"])
def test_every_value_of_every_probe_is_inside_its_panel(name: str, data: dict) -> None:
    one = data["observed" if name == "latency" else "tiny-budget"][name]
    value = {"gates": "q75", "sinks": "ratio", "latency": "ms"}[name]
    one = one[one["probe"] == one["probe"].iloc[0]]
    larger = one.assign(probe="f" * 12, label="larger", **{value: 30 * one[value].astype(float)})
    with style.style():
        figure = module(name).draw(pd.concat([larger, one]))  # the last one does not decide
        figure.draw_without_rendering()
    lines = [(axes, line) for axes in figure.axes for line in axes.get_lines() if line.get_marker() not in ("None", "")]
    assert len(lines) > 2
    for axes, line in lines:
        heights = np.asarray(line.get_ydata(), dtype=float)
        low, high = axes.get_ylim()
        assert ((low <= heights) & (heights <= high)).all()
    assert overlapping(figure) == []


def test_sinks_of_several_sizes_are_on_a_logarithmic_axis_that_has_zero(data: dict) -> None:
    sinks = data["tiny-budget"]["sinks"]
    with style.style():
        wide, narrow = (module("sinks").draw(rows) for rows in (sinks, sinks[sinks["branch"] == "gated"]))
    assert (wide.axes[0].get_yscale(), narrow.axes[0].get_yscale()) == ("symlog", "linear")
    assert wide.axes[0].get_ylim()[0] == narrow.axes[0].get_ylim()[0] == 0
    assert [label.get_text() for label in wide.axes[0].get_yticklabels()][:3] == ["0", "0.01", "0.1"]


def test_a_legend_has_the_branches_that_the_first_probe_lacks(data: dict) -> None:
    gates = data["tiny-budget"]["gates"]
    first = gates["probe"].iloc[0]
    with style.style():
        figure = module("gates").draw(gates[(gates["probe"] != first) | (gates["branch"] != "cmp")])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["compression", "selection", "window", "median"]


def test_saturated_gates_are_explained(data: dict) -> None:
    gates = data["tiny-budget"]["gates"]
    with style.style():
        figures = [module("gates").draw(rows) for rows in (gates, gates.assign(q25=0.0001, q75=0.9999))]
    titles = [figure.legends[0].get_title().get_text() for figure in figures]
    assert titles == ["", "quartiles at 0 and 1: at least a quarter of gates shut, a quarter open"]


def test_a_figure_of_one_of_several_probes_says_of_which(data: dict) -> None:
    points, arrays = data["tiny-budget"]["points"], data["observed"]["sinks arrays"]
    assert "label" not in arrays
    with style.style():
        several, one = (module("sinks").draw_points(rows) for rows in (points, points[points["label"] == "b=1 w=24"]))
        places = module("sinks").draw_positions(arrays | {"label": "paper"})
    assert [figure.get_suptitle() for figure in (several, one, places)] == ["of b=1 w=24", "", "of paper"]


def test_lines_decide_what_is_in_sight_of_losses(data: dict) -> None:
    losses = data["tiny-branches"]["losses"]
    one = losses[losses["training"] == "a" * 12].iloc[:1]
    steps = np.arange(1, 401)
    noisy = np.where(steps % 40, 0.5, 1e-4)  # a step in forty tells next to nothing
    rows = [one.assign(training=name, variant=name, start=None, step=step, loss=loss * factor, is_reference=name == "a")
            for name, factor in (("a", 1.0), ("b", 1.1)) for step, loss in zip(steps, noisy, strict=True)]  # fmt: skip
    with style.style():
        figure = module("losses").draw(pd.concat(rows))
    low, high = figure.axes[0].get_ylim()
    assert 0.4 < low < high < 0.6
    assert figure.axes[1].get_ylim() == pytest.approx((-0.004, 0.054), abs=0.003)


def test_losses_of_several_seeds_are_compared_with_the_same_seed_of_the_reference(data: dict) -> None:
    one = data["tiny-branches"]["losses"].iloc[:1].assign(start=None)
    rows = [
        one.assign(training=f"{name}{seed}", variant=name, seed=seed, is_reference=name == "a", step=step, loss=loss)
        for name, more in (("a", 0.0), ("b", 0.5))
        for seed in (0, 1)
        for step in range(1, 41)
        for loss in [1 + seed + more * (1 + seed)]
    ]
    with style.style():
        figure = module("losses").draw(pd.concat(rows))
    left, right = figure.axes
    assert [set(line.get_ydata().round(6)) for line in right.lines] == [{0.0}, {0.0}, {0.5}, {1.0}]
    assert right.get_ylabel() == "loss over that of a, same seed"
    assert len(left.lines) == 4, "no single steps"
    assert len({line.get_color() for line in left.lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.legends[0].get_title().get_text() == "a line a training seed"
    with style.style():
        lacking = module("losses").draw(pd.concat([one for one in rows if one["training"].iloc[0] != "a1"]))
    assert [set(line.get_ydata().round(6)) for line in lacking.axes[1].lines] == [{0.0}, {0.5}], "of seed 0 alone"


def test_text_queries_that_keep_all_have_a_line_in_place_of_panels(data: dict) -> None:
    recall = data["tiny-budget"]["recall"]
    nsa = recall[recall["method"] == "nsa"]
    with style.style():
        both, one = (module("recall").draw(rows) for rows in (recall, nsa))
    assert [axes.get_title() for axes in both.axes][:2] == ["b=1 w=24: vision queries", "b=1 w=24: text queries"]
    assert [axes.get_title() for axes in one.axes][:2] == ["b=1 w=24", "b=4 w=12"]
    assert len(one.axes) == 9
    assert one.legends[0].get_title().get_text() == "shown: vision queries; text queries: 100 % in every layer"
    assert [text.get_text() for text in one.legends[0].get_texts()] == ["NSA", "best keys, as many"]


def test_variants_of_the_same_tokens_have_panels_of_their_own(data: dict) -> None:
    rows = data["tiny-tokens"]["rows"].query("suite == 'synth_needle' and status == 'done'")
    others = rows.assign(method="dense", label="dense " + rows["label"], is_reference=False)
    rows = rows.assign(label="paper " + rows["label"])
    with style.style():
        figure = tokens.draw(pd.concat([rows, others]))
        assert overlapping(figure) == []
    assert [axes.get_title() for axes in figure.axes[:2]] == ["needle (synthetic)\npaper", "needle (synthetic)\ndense"]
    with pytest.raises(ValueError, match="no grid of frames"):
        tokens.draw(pd.concat([rows, others.assign(method="paper")]))  # nothing tells them apart
    with pytest.raises(ValueError, match="no grid of frames"):
        tokens.draw(rows[rows["tokens_per_frame"] == 4])


@pytest.mark.parametrize(
    ("count", "text"),
    [(640, "640"), (1254, "1.2K"), (8192, "8K"), (10_000, "9.8K"), (32_768, "32K"), (131_072, "128K")],
)
def test_k_is_1024_tokens(count: float, text: str) -> None:
    assert ticks.short(count) == text


def test_equal_budget_curves_go_through_their_settings(rows: pd.DataFrame) -> None:
    with style.style():
        figure = budget_figure.draw(rows)
    (curve,) = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 50][:1]
    windows, counts = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    np.testing.assert_allclose(4 * counts + windows, 24)  # the training budget: block size 4, b=5, w=4


@pytest.mark.parametrize(
    ("values", "kept"),
    [([2, 4, 8, 12, 16, 24], [2, 4, 8, 16, 24]), ([7], [7]), ([3, 5, 6, 7], [3, 5, 7]), ([1, 1.1], [1])],
)
def test_ticks_keep_powers_of_two_and_their_distance(values: list[float], kept: list[float]) -> None:
    assert ticks.thinned(values, 1.4) == kept


def test_what_is_compared_with_has_the_first_colour() -> None:
    names, is_reference = pd.Series(["a", "b", "c", "b"]), pd.Series([False, True, False, True])
    assert style.reference_first(names, is_reference) == ["b", "a", "c"]


COST_RANGES = [(25.2, 43.9), (17.4, 33.1), (3, 4.8), (9, 700), (7e-4, 135), (1e-9, 100)]


@pytest.mark.parametrize(("least", "most"), COST_RANGES)
def test_ticks_of_a_cost_have_room(least: float, most: float) -> None:
    shown = [tick for tick in ticks.FewTicks(10, subs=(1, 2, 5)).tick_values(least, most) if least <= tick <= most]
    assert 2 <= len(shown) <= 6
    if most / least > 1e4:
        apart = np.diff(np.log10(shown))
        np.testing.assert_allclose(apart, apart[0])


@pytest.mark.parametrize(
    ("count", "most", "columns"),
    [(1, 3, 1), (3, 3, 3), (4, 3, 2), (4, 4, 4), (5, 3, 3), (5, 4, 3), (7, 3, 3), (9, 4, 3)],
)
def test_panels_fill_the_fewest_rows_evenly(count: int, most: int, columns: int) -> None:
    assert style.side_by_side(count, most, 1.8, 2.0) == columns


def test_a_full_disk_keeps_the_older_figure(tmp_path: Path) -> None:
    def figure() -> Figure:
        return style.panels(1, 1, 2, 1)[0]

    with small_disk(tmp_path / "disk", "size=256k") as disk, style.style():
        before = {path: path.read_bytes() for path in style.save(figure(), disk, "one")}
        filling = fill(disk)
        with pytest.raises(DiskError, match=r"one.pdf: No space left on device; disk .*/disk: 0 B free"):
            style.save(figure(), disk, "one")
        filling.unlink()
        assert {path: path.read_bytes() for path in disk.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "shifted", "words"),
    [(0.03, 0.02, "follow depth, not content"), (0.03, 0.005, "content a little"), (0.9, 0.01, "more than depth")],
)
def test_whether_gates_follow_content_is_said_beside_what_chance_explains(
    content: float, shifted: float, words: str
) -> None:
    shares = {"layer": 0.05, "head": 0.04, "position": 0.01, "content": content, "shifted": shifted}
    said = sentence(pd.DataFrame([{f"share_{name}": share for name, share in shares.items()}]))
    assert words in said
    assert "layer and head explain 9 %" in said
    assert f"{100 * content:.1f} % on top ({100 * shifted:.1f} % by chance)" in said


def test_videos_lie_by_the_first_two_principal_components() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(12, 4)) @ np.diag([5, 3, 1, 0.1])
    places, shares = components(vectors)
    centred = vectors - vectors.mean(0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    np.testing.assert_allclose(np.abs(places), np.abs(centred @ directions[:, :-3:-1]), atol=1e-9)
    np.testing.assert_allclose(shares, variances[:-3:-1] / variances.sum())
    with pytest.raises(ValueError, match="fewer than three videos"):
        draw_vectors({"a": {"cmp": vectors[:1]}, "b": {"cmp": vectors[:1]}})
