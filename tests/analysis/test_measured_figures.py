"""Figures of measurements (benchmarks/) show what their tables say, and a bad table is one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
import pytest

from analysis.figures import prefills, style, training
from analysis.figures.kernels import draw as draw_kernels
from analysis.figures.kernels import read
from tests.analysis.synthetic import measurements


def test_kernels_are_drawn_from_measurements(tmp_path: Path) -> None:
    measurements().to_csv(tmp_path / "m.csv", index=False)
    with warnings.catch_warnings(), style.style():
        warnings.simplefilter("error")
        paths = style.save(draw_kernels(read(tmp_path / "m.csv")), tmp_path, "kernels")
    assert all(path.stat().st_size > 1000 for path in paths)


def test_prefills_are_drawn_at_the_longest_length(tmp_path: Path) -> None:
    rows = [
        {"method": method, "data": data, "length": length, "density": 1 / length, "choice_ms": choice, "gpu": "a_$GPU$"}
        | {"total_ms": length / 100, "density_x_dense_ms": length / 200}
        for method, choice in (("dense", None), ("paper", None), ("tri_shape", 1.0))
        for data in ("lifelike", "random")
        for length in (1000, 4000)
    ]
    pd.DataFrame([*rows, {**rows[-1], "total_ms": 7.0}]).to_csv(tmp_path / "m.csv", index=False)
    with warnings.catch_warnings(), style.style():
        warnings.simplefilter("error")
        figure = prefills.draw(prefills.read(tmp_path / "m.csv"))
        paths = style.save(figure, tmp_path, "prefills")
    lifelike, random = figure.axes
    assert [label.get_text() for label in lifelike.get_yticklabels()] == ["tri_shape", "NSA, ours", "dense, cuDNN"]
    assert [bar.get_width() for bar in random.containers[0]] == [7.0, 40.0, 40.0]
    assert figure.get_suptitle() == "4,000 tokens, a_$GPU$; beside a bar: density"
    assert all(path.stat().st_size > 1000 for path in paths)


def test_trainings_have_their_bound_and_what_is_counted(tmp_path: Path) -> None:
    rows = [
        {
            "model": "3b",
            "gpus": gpus,
            "data_parallel": gpus,
            "sequence_parallel": 1,
            "attention": attention,
            "gpu": "$G$",
        }
        | {"tokens": tokens, "step_s": tokens / 1000, "bound_step_s": tokens / 1500, "peak_gib": 40, "counted_gib": 44}
        for gpus in (1, 2)
        for attention in ("nsa", "dense")
        for tokens in (8192, 32768)
    ]
    failed = dict.fromkeys(("step_s", "bound_step_s", "peak_gib")) | {"status": "out of memory"}
    pd.DataFrame([*rows, rows[-1] | failed]).to_csv(tmp_path / "m.csv", index=False)
    with warnings.catch_warnings(), style.style():
        warnings.simplefilter("error")
        figure = training.draw(training.read(tmp_path / "m.csv"))
        paths = style.save(figure, tmp_path, "training")
    assert [axes.get_title() for axes in figure.axes[::2]] == [
        "3B's shape, 1 GPU",
        "3B's shape, 2 GPUs (2 data × 1 sequence)",
    ]
    times, memory = figure.axes[2:]
    nsa, bound, dense, _ = times.lines
    assert list(nsa.get_ydata()) == [8.192, 32.768]
    assert list(bound.get_ydata()) == pytest.approx([8192 / 1500, 32768 / 1500])
    assert list(dense.get_xdata()) == [8192]  # the longer one's last row was not measured
    assert [list(line.get_ydata()) for line in memory.lines] == [[40, 40], [], [40], [44]]
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("reader", [read, prefills.read, training.read])
@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_a_bad_table_of_measurements_is_one_line(tmp_path: Path, content: str | None, reader) -> None:
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"m\.csv: no "):
        reader(path)
