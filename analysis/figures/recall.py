"""Recall by layer: the share of dense attention probability on the keys that each method keeps, a line a method.

Dotted in the same colour: the keys of highest probability, as many for each query as the method keeps. What lies
between the two lines is lost by the choice, and what lies above the dotted one by its size. Queries of a kind that keep
all of it everywhere, as NSA's text queries do by construction, have no panels: a line says so.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.probes import COLUMNS, left_out
from analysis.figures.probes import MOST as PANELS

QUERIES = {"vision": "vision queries", "text": "text queries"}
OURS = {"nsa": "NSA"}
MOST = 3  # probes of two kinds of queries; a sweep with more shows its first ones and says so
ALL = 0.9995  # 100 % in a figure
LINES = len(style.SERIES)  # methods that a colour and a marker tell apart; further ones have dashes


def draw(recall: pd.DataFrame) -> Figure:
    """From Results.recall: a panel a probe and kind of queries. Raises ValueError when there is none."""
    recall = recall[recall["part"].isin(list(QUERIES))] if len(recall) else recall
    probes = list(dict.fromkeys(recall["probe"])) if len(recall) else []
    if not probes:
        raise ValueError("no probe with recall")
    kinds, note = _kinds(recall)
    most, columns = (MOST, len(kinds)) if len(kinds) > 1 else (PANELS, COLUMNS)
    shown = probes[:most]
    places = [(probe, kind) for probe in shown for kind in kinds]
    figure, panels, columns = style.layer_panels(len(places), columns, "dense attention kept (%)")
    titles = style.probe_titles(recall, columns)
    named = _named(recall[recall["probe"].isin(shown)])
    for (probe, kind), axes in zip(places, panels, strict=True):
        _panel(axes, recall[(recall["probe"] == probe) & (recall["part"] == kind)], list(named))
        axes.set_title(f"{titles[probe]}: {QUERIES[kind]}" if len(kinds) > 1 else titles[probe])
    labels = style.names(named.values(), style.TEXT_WIDTH / 3 - 0.4)
    handles = [Line2D([], [], **_look(i)) for i in range(len(labels))]
    handles.append(Line2D([], [], color=style.GREY, ls=":", lw=0.9))
    style.legend(figure, handles, [*labels, "best keys, as many"], 4, (note, left_out(most, len(probes))), grow=True)
    return figure


def _kinds(recall: pd.DataFrame) -> tuple[list[str], str]:
    """The kinds of queries that are drawn, and what is to be said of them: those that keep all everywhere are not."""
    there = [kind for kind in QUERIES if kind in set(recall["part"])]
    least = recall.groupby("part")[["mass", "best"]].min().astype(float).min(axis=1)
    drawn = [kind for kind in there if least[kind] < ALL] or there
    whole = [f"{QUERIES[kind]}: 100 % in every layer" for kind in there if kind not in drawn]
    return drawn, "; ".join([f"shown: {QUERIES[drawn[0]]}", *whole]) if len(drawn) == 1 else ""


def _named(recall: pd.DataFrame) -> dict[str, str]:
    """Method -> what the legend calls it: its variant, where that is the same in all panels."""
    variants = recall.groupby("method", sort=False)["variant"].unique()
    called = {str(method): str(of[0]) if len(of) == 1 else str(method) for method, of in variants.items()}
    return {method: OURS.get(name, name) for method, name in called.items()}


def _panel(axes: Axes, here: pd.DataFrame, methods: list[str]) -> None:
    for method, rows in here.groupby("method", sort=False):
        rows, look = rows.sort_values("layer"), _look(methods.index(str(method)))
        axes.plot(rows["layer"], 100 * rows["best"].astype(float), color=look["color"], ls=":", lw=0.9)
        look["ms"] = style.marker_size(len(rows))
        axes.plot(rows["layer"], 100 * rows["mass"].astype(float), clip_on=False, **look)
    axes.set_ylim(0, 105)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _look(number: int) -> dict:
    return {
        "color": style.SERIES[number % LINES],
        "marker": style.MARKERS[number % LINES],
        "ls": "-" if number < LINES else "--",
        "ms": 3.2,
        "lw": 0.9,
    }
