"""Do gates follow what a video shows, or only depth? What layer, head, position and content explain of them."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, PercentFormatter

from analysis.figures import style
from analysis.figures.probes import first_probe

PARTS = {"layer": "#444444", "head": "#999999", "position": style.YELLOW, "content": style.PURPLE}
REST = "#E4E4E4"
NAMES = ("time", "row", "column", "motion", "cut", "still", "edges")
MAP, RANGE, UNKNOWN = "RdBu_r", Normalize(-0.5, 0.5), "#AAAAAA"  # a measure that does not vary has no correlation
WHOLE = -1  # in place of a layer: all of them
LITTLE = 0.01  # of the variance: content that explains less is not followed, whatever chance explains


def draw(content: pd.DataFrame) -> Figure:
    """Of the first probe, from Results.content: a row a layer (-1: all together) and branch. ValueError without any."""
    content = content[content["share_content"].notna()] if len(content) else content
    if not len(content):
        raise ValueError("no probe with gates and content")
    here, label = first_probe(content)
    whole, layers = here[here["layer"] == WHOLE], here[here["layer"] != WHOLE]
    branches = [name for name in style.BRANCH_NAMES if name in set(whole["branch"])]
    figure = style.new_figure(style.TEXT_WIDTH, 4.4)
    figure.suptitle(f"Of {style.drawable(label)}\n" * bool(label) + sentence(whole), fontsize=7.5)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.15], squeeze=False)[:, 0]
    bars, lines = upper.subplots(1, 2, width_ratios=[1.25, 1])
    _bars(bars, whole.set_index("branch").loc[branches])
    _lines(lines, layers, branches)
    panels = lower.subplots(1, len(branches), squeeze=False, sharey=True)[0]
    for axes, branch in zip(panels, branches, strict=True):
        _partial(axes, layers[layers["branch"] == branch])
        axes.set_title(style.BRANCH_NAMES[branch])
    style.colour_bar(lower, RANGE, list(panels), "partial correlation", MAP, pad=0.015, aspect=25)
    return figure


def sentence(whole: pd.DataFrame) -> str:
    """The answer, as a mean over branches."""
    means = whole[[f"share_{name}" for name in (*PARTS, "shifted")]].astype(float).mean()
    depth = means["share_layer"] + means["share_head"]
    content, chance = means["share_content"], means["share_shifted"]
    if content < LITTLE or content < 2 * chance:
        follows = "Gates follow depth, not content"
    elif content < depth:
        follows = (
            "Gates follow depth first, and content a little" if content < 0.1 else "Gates follow depth and content"
        )
    else:
        follows = "Gates follow content more than depth"
    more = f"position {100 * means['share_position']:.1f} %, what the video shows {100 * content:.1f} % on top"
    lead = f"{follows}. Of their variance"
    return f"{lead}\nlayer and head explain {100 * depth:.0f} %, {more} ({100 * chance:.1f} % by chance)."


def _bars(axes: Axes, whole: pd.DataFrame) -> None:
    """Shares of a branch's variance, one after the other."""
    for place, (_, row) in enumerate(whole.iterrows()):
        left = 0.0
        for part, colour in PARTS.items():
            size = max(0.0, float(row[f"share_{part}"]))
            axes.barh(place, size, left=left, color=colour, height=0.55, label=part if not place else None)
            left += size
        axes.barh(place, max(0.0, 1 - left), left=left, color=REST, height=0.55, label=None if place else "the rest")
        text = f"content {100 * row['share_content']:.1f} %, chance {100 * row['share_shifted']:.1f} %"
        axes.text(1.0, place - 0.33, text, ha="right", va="bottom", fontsize=5.5, color="#444444")
    axes.set_yticks(range(len(whole)), [style.BRANCH_NAMES[str(branch)] for branch in whole.index])
    axes.set_ylim(len(whole) - 0.5, -0.75)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("variance of gates over layers, heads and tokens")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.45, 1.0), columnspacing=1.0)


def _lines(axes: Axes, layers: pd.DataFrame, branches: list[str]) -> None:
    for branch in branches:
        rows = layers[layers["branch"] == branch].sort_values("layer")
        colour = style.BRANCH_COLOURS[branch]
        axes.plot(rows["layer"], rows["share_content"], color=colour, marker=style.BRANCH_MARKERS[branch], ms=3.0,
                  label=style.BRANCH_NAMES[branch])  # fmt: skip
        axes.plot(rows["layer"], rows["share_shifted"], color=colour, lw=0.7, ls=":")
    axes.plot([], [], color=style.GREY, lw=0.7, ls=":", label="by chance")
    axes.set_ylim(0, None)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("layer")
    axes.set_ylabel("content, of a layer's variance")
    axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.45, 1.0), columnspacing=1.0)


def _partial(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.sort_values("layer")
    values = rows[[f"partial_{name}" for name in NAMES]].astype(float).to_numpy()
    style.heat(axes, values.T, RANGE, MAP, UNKNOWN)
    axes.set_yticks([place + 0.5 for place in range(len(NAMES))], labels=NAMES)
    axes.xaxis.set_major_locator(MultipleLocator(max(1, len(values) // 5), offset=0.5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value - 0.5:.0f}"))
    axes.set_xlabel("layer")
