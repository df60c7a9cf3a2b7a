"""The figures by name. Knowing their names imports no matplotlib; drawing does."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Drawing:
    """One figure of a sweep."""

    what: str  # one line for --list
    function: (
        str  # "module:function" below analysis.figures; takes one DataFrame, or arrays; ValueError: nothing to draw
    )
    source: str  # "rows" (analysis.compared.compare), a table of Results, or "OBSERVER arrays"
    axes: tuple[str, ...] = ()  # a sweep has this figure when it varies one of these settings; (): every sweep
    needs: str = ""  # what there must be to draw, with {name}; '': a sweep that varies these axes, or finished cells


PROBE, OBSERVER = "a finished probe", "a probe that observes it (--set probe.observers={name})"
BEGUN = "two trainings with steps"
LENGTHS = "a sweep whose groups (a grid's within) are context lengths"
GRID = "a sweep that varies both tokens_per_frame and frames or fps"
DRAWINGS: Mapping[str, Drawing] = {
    "accuracy": Drawing("accuracy of every variant with its interval", "accuracy:draw", "rows"),
    "budget": Drawing("window x block count, equal-budget curves", "budget:draw", "rows", ("block_count", "window")),
    "branches": Drawing("accuracy of each subset of branches", "accuracy:draw_branches", "rows", ("branches",)),
    "lengths": Drawing("accuracy against the length of the context", "lengths:draw", "rows", ("frames",), LENGTHS),
    "tokens": Drawing("frames x tokens a frame", "tokens:draw", "rows", ("frames", "fps", "tokens_per_frame"), GRID),
    "cost": Drawing("accuracy against share of dense attention and prefill time", "cost:draw", "rows"),
    "pareto": Drawing("accuracy against pairs computed and prefill time by method", "pareto:draw", "rows", ("method",)),
    "gates": Drawing("gates by layer, mean and quartiles", "gates:draw", "gates", needs=PROBE),
    "gate_content": Drawing(
        "whether gates follow what videos show, or depth", "content:draw", "content", needs=OBSERVER
    ),
    "sinks": Drawing("sink ratio by layer per branch", "sinks:draw", "sinks", needs=PROBE),
    "sink_places": Drawing(
        "density of sinks over the video, of the first probe", "sinks:draw_positions", "sinks arrays", needs=PROBE
    ),
    "maps": Drawing(
        "attention maps of the last layer, of the first probe with any",
        "maps:draw_layer",
        "maps arrays",
        needs=OBSERVER,
    ),
    "latency": Drawing("milliseconds of each branch by layer", "latency:draw", "latency", needs=OBSERVER),
    "recall": Drawing("dense attention that each method's keys keep, by layer", "recall:draw", "recall", needs=PROBE),
    "losses": Drawing("loss of each training by step, where there are several", "losses:draw", "losses", needs=BEGUN),
    "sink_points": Drawing("value norm against attention of sampled keys", "sinks:draw_points", "points", needs=PROBE),
}


def fits(name: str, axes: set[str]) -> bool:
    """Whether a sweep that varies these settings has this figure."""
    wanted = DRAWINGS[name].axes
    return not wanted or bool(axes & set(wanted))


def draw(name: str, data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw one figure into folder/<name>.{pdf,svg,png}. Raises ValueError when the data has nothing to draw."""
    style = module("style")
    place, _, function = DRAWINGS[name].function.partition(":")
    drawer = getattr(module(place), function)
    with style.style():
        return style.save(drawer(data[DRAWINGS[name].source]), folder, name)


def module(name: str) -> ModuleType:
    """A module of this folder, imported when it is asked for."""
    with _own_matplotlib():
        return importlib.import_module(f"analysis.figures.{name}")


@contextmanager
def _own_matplotlib() -> Iterator[None]:
    """matplotlib is imported as it is, where nobody has imported it yet: no MPLBACKEND, no matplotlibrc of anybody.

    It reads them while it is imported, first a file in the current folder, and some of what can stand there ends it.
    """
    spec = find_spec("matplotlib")
    if "matplotlib" in sys.modules or spec is None or spec.origin is None:
        yield
        return
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # what it says of its caches and of fonts helps nobody
    own, exists = Path(spec.origin).parent / "mpl-data" / "matplotlibrc", os.path.exists
    not_here = patch("os.path.exists", lambda place: place != own.name and exists(place))
    with patch.dict(os.environ, MATPLOTLIBRC=str(own)), not_here:
        os.environ.pop("MPLBACKEND", None)
        yield
