"""The figures by name. Knowing their names imports no matplotlib; drawing does."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Drawing:
    """One figure of a sweep."""

    what: str  # one line for --list
    function: str  # "module:function" below analysis.figures; takes one DataFrame, ValueError: nothing to draw
    source: str  # "rows" (analysis.tables.compare), or "gates", "sinks", "points" of analysis.load.Results
    axes: tuple[str, ...] = ()  # a sweep has this figure when it varies one of these settings; (): every sweep


DRAWINGS: Mapping[str, Drawing] = {
    "accuracy": Drawing("accuracy of every variant with its interval", "accuracy:draw", "rows"),
    "budget": Drawing("window x block count, equal-budget curves", "budget:draw", "rows", ("block_count", "window")),
    "branches": Drawing("accuracy of each subset of branches", "accuracy:draw_branches", "rows", ("branches",)),
    "tokens": Drawing("frames x tokens a frame", "tokens:draw", "rows", ("frames", "fps", "tokens_per_frame")),
    "cost": Drawing("accuracy against share of dense attention and prefill time", "cost:draw", "rows"),
    "gates": Drawing("gates by layer, mean and quartiles", "gates:draw", "gates"),
    "sinks": Drawing("sink ratio by layer per branch", "sinks:draw", "sinks"),
    "sink_points": Drawing("value norm against attention of sampled keys", "sinks:draw_points", "points"),
}


def fits(name: str, axes: set[str]) -> bool:
    """Whether a sweep that varies these settings has this figure."""
    wanted = DRAWINGS[name].axes
    return not wanted or bool(axes & set(wanted))


def draw(name: str, data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw one figure into folder/<name>.{pdf,svg,png}. Raises ValueError when the data has nothing to draw."""
    from analysis.figures import style

    module, _, function = DRAWINGS[name].function.partition(":")
    drawer = getattr(importlib.import_module(f"analysis.figures.{module}"), function)
    with style.style():
        return style.save(drawer(data[DRAWINGS[name].source]), folder, name)
