"""A sweep's W&B report, runs and all: written for `wandb sync`, or made at the server where variables name one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.files import read_mapping
from analysis.mirror.cell import mirror
from analysis.mirror.content import Content, gather
from analysis.mirror.refusals import check_report
from analysis.mirror.server import Server, ServerError
from analysis.mirror.sweep import offline_parts, send_sweep
from analysis.mirror.tables import run_id
from analysis.pooled import cells_of
from analysis.rows import each
from analysis.summary import summarize
from videonsa import tracking
from videonsa.record import read_record, write_text
from videonsa.wandb_rules import goes_online

FILE = "wandb-report.json"


@dataclass
class Made:
    """What came of it."""

    paths: list[Path]  # the specification and the page
    lines: list[str] = field(default_factory=list)  # to be said
    whole: bool = True  # all is where it was to go

    def lose(self, reason: object, then: str) -> None:
        """Note what did not go as asked, and what is to be done then."""
        self.whole = False
        self.lines.append(f"{reason}; {then}")


def report_sweep(out: Path, sweep: Path, questions: bool = True) -> Made:
    """Make the runs and the report of a sweep, given by its folder; what has been made before is not doubled.

    questions: with tables of every question and each variant's prediction, which hold text of the benchmarks.
    Raises ReportRefused, NotAPlan, OSError. A server in trouble costs a line; all is on this disk then.
    """
    check_report()
    summarize(out, sweep)
    content = gather(out, sweep, questions)
    was = read_mapping(sweep / FILE)
    _write(sweep, {**content.report, "content": None})  # as long as its run is not whole
    made = Made([sweep / FILE, sweep / "report.html"])
    made.lines += [
        f"{name}: {table.left_out} rows had no room" for name, table in content.tables.items() if table.left_out
    ]
    server, there = _connect(content, out, made)
    _send_cells(content, out, there)
    same = was.get("content") == content.report["content"] and offline_parts(out, content.report["run"])
    kept = "offline" if same and server is None else send_sweep(content, out)
    if kept is not None:
        _write(sweep, content.report)
    if server is not None and kept == "online":
        _put_report(server, content, made)
    elif kept is None or server is not None:
        made.lose("W&B: the sweep's run was not sent", "the same command tries again")
    elif made.whole:
        made.lines.append(
            f"offline: `wandb sync {out}/wandb/offline-run-*` sends the runs, this command with a key the rest"
        )
    return made


def _write(sweep: Path, report: Mapping[str, Any]) -> None:
    write_text(sweep / FILE, json.dumps(report, indent=1) + "\n")


def _connect(content: Content, out: Path, made: Made) -> tuple[Server | None, set[str]]:
    """The server, None without one; and the cells' runs that are where they are to go."""
    if goes_online():
        try:
            server = Server()
            made.lines += server.said
            return server, server.known(content.report["runs"])
        except ServerError as error:
            tracking.SERVICE.online = False  # no run waits for it again
            made.lose(error, f"all is in {out}/wandb, and the same command sends it")
    return None, _kept(out, content.report["runs"])


def _kept(out: Path, runs: list[str]) -> set[str]:
    """Those of these runs that lie in the out folder, offline or sent."""
    return {path.stem.removeprefix("run-") for path in (out / "wandb").glob("*run-*/run-*.wandb")} & set(runs)


def _send_cells(content: Content, out: Path, there: set[str]) -> None:
    """Make the runs of the cells that have none."""
    for row in each(cells_of(content.rows).drop_duplicates("id")):
        record = read_record(out / "cells" / row.id / "record.json")
        if row.status != "missing" and record is not None and run_id(row) not in there:
            mirror(record, out, content.plan["sweep"], row.label)


def _put_report(server: Server, content: Content, made: Made) -> None:
    try:
        made.lines.append(f"report: {server.put_report(content.report)}")
    except ServerError as error:
        made.lose(error, "its runs are there, and the same command makes the report")
