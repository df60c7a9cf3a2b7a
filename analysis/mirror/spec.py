"""A sweep's report at W&B as its specification: the JSON that a server keeps. Written without a server.

Made of the blocks of wandb-workspaces, W&B's own library for reports; equal records give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from analysis.mirror.tables import TABLE, run_id, sweep_run_id
from analysis.pooled import cells_of
from analysis.rows import each
from analysis.tables import to_markdown
from analysis.titles import sweep_question
from videonsa.record import without_paths
from videonsa.text import line_of

SCHEMA = 1  # of the file that holds a specification
WIDTH, HEIGHT = 24, 10  # columns of W&B's grid, and rows of a panel


def report_name(sweep: str) -> str:
    """The report's fixed name at the server, where the title is what people read: 12 digits."""
    return hashlib.sha256(f"videonsa-bench report {sweep}".encode()).hexdigest()[:12]


def make_report(
    plan: Mapping[str, Any],
    rows: pd.DataFrame,
    answer: Sequence[str],
    problems: Sequence[str],
    tables: Sequence[str],
    figures: Sequence[str],
) -> dict[str, Any]:
    """The file's content: what a server is told of the report. tables, figures: names in the sweep's run."""
    sweep = plan["sweep"]
    with _same_names(sweep):
        spec = _spec(plan, rows, answer, problems, tables, figures)
    about = {"schema": SCHEMA, "kind": "wandb report", "sweep": sweep, "run": sweep_run_id(sweep)}
    runs = [run_id(row) for row in each(cells_of(rows).drop_duplicates("id")) if row.status != "missing"]
    title = f"VideoNSA-Bench: {sweep}"[:128]
    return {
        **about,
        "runs": runs,
        "name": report_name(sweep),
        "title": title,
        "description": _about(plan),
        "spec": spec,
    }


def _about(plan: Mapping[str, Any]) -> str:
    when = {"test": "settings changed at test time", "train": "each variant trained"}.get(str(plan.get("asks")), "")
    return without_paths(line_of(" · ".join(part for part in (sweep_question(plan), when) if part)))


def _spec(
    plan: Mapping[str, Any],
    rows: pd.DataFrame,
    answer: Sequence[str],
    problems: Sequence[str],
    tables: Sequence[str],
    figures: Sequence[str],
) -> dict[str, Any]:
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.H1("Question"), wr.P(_about(plan) or plan["sweep"])]
    blocks += [wr.H1("Answer"), wr.UnorderedList(items=[line_of(line) for line in answer])]
    blocks += [wr.H1("Table"), wr.MarkdownBlock(without_paths(to_markdown(rows, plan, problems)))]
    shown = [wr.MediaBrowser(title=name.split("/")[-1], media_keys=[name], num_columns=1) for name in figures]
    blocks += _of_sweep(plan, "Figures", shown, beside=2)
    for title, names in (("Table to sort", [TABLE]), ("Questions", [name for name in tables if name != TABLE])):
        blocks += _of_sweep(plan, title, [wr.WeavePanelSummaryTable(table_name=name) for name in names], beside=1)
    blocks += _of_cells(rows)
    report = wr.Report(entity="-", project="-", title=plan["sweep"][:128], blocks=blocks, width="fluid")
    return json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def _of_sweep(plan: Mapping[str, Any], title: str, panels: list[Any], beside: int) -> list[Any]:
    """A heading, and below it what the sweep's own run shows."""
    import wandb_workspaces.reports.v2 as wr

    own = wr.Runset(name=plan["sweep"], filters=_of_ids([sweep_run_id(plan["sweep"])]))
    grid = wr.PanelGrid(runsets=[own], panels=_placed(panels, beside), hide_run_sets=True)
    return [wr.H1(title), grid] if panels else []


def _of_cells(rows: pd.DataFrame) -> list[Any]:
    """The cells' runs, a set a benchmark, whatever sweep made them."""
    import wandb_workspaces.reports.v2 as wr

    best = [wr.OrderBy(wr.SummaryMetric("accuracy"), ascending=False)]
    cells = cells_of(rows)
    there = cells[cells["status"] != "missing"].drop_duplicates("id")
    sets = [
        wr.Runset(name=str(suite), filters=_of_ids(map(run_id, each(group))), order=best)
        for suite, group in there.groupby("suite", sort=False)
    ]
    bars = wr.BarPlot(title="accuracy", metrics=["accuracy"], max_bars_to_show=100)
    cost = wr.ScatterPlot(title="accuracy against prefill time (ms)", x="prefill_ms_p50", y="accuracy")
    return [wr.H1("Runs"), wr.PanelGrid(runsets=sets, panels=_placed([bars, cost], 2))] if sets else []


def _placed(panels: list[Any], beside: int) -> list[Any]:
    """The panels, so many beside each other over the whole width."""
    import wandb_workspaces.reports.v2 as wr

    for place, panel in enumerate(panels):
        width, row = WIDTH // beside, place // beside
        panel.layout = wr.Layout(x=width * (place % beside), y=HEIGHT * row, w=width, h=HEIGHT)
    return panels


def _of_ids(ids: Any) -> str:
    return f"ID in {list(ids)!r}"


@contextmanager
def _same_names(sweep: str) -> Iterator[None]:
    """The library draws names of panels at random: here the same for the same sweep."""
    import wandb_workspaces.reports.v2  # noqa: F401  # draws some, too, as it is imported

    before = random.getstate()
    random.seed(sweep)
    try:
        yield
    finally:
        random.setstate(before)
