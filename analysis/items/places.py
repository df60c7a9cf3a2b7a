"""The places of an item: each number that it should have, what of ours fills it, and the command where nothing does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.items import Item, catalog
from videonsa.commands import as_typed

DONE, FAILED, MISSING, ALONE = "done", "failed", "missing", "alone"  # ALONE: nothing of ours is asked for
PROFILE = "paper"
RUNS = Path("runs")  # the out folder of commands that name none
OUT, MEASURED = "OUT", "MEASURED"
STAND_INS = {OUT: "the folder of these records", MEASURED: "the folder of measurements"}


@dataclass(frozen=True)
class Ours:
    """One number of ours."""

    value: float | None
    text: str
    source: str  # a cell's id, or a file of measurements
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Place:
    """One number of an item."""

    row: str
    column: str
    state: str
    published: str = ""
    value: float | None = None  # the published one
    ours: tuple[Ours, ...] = ()
    cells: tuple[str, ...] = ()  # ids of the records that fill it
    part: str = ""  # the sub-score of theirs that does; "": their accuracy
    detail: str = ""  # settings of ours that the paper does not state
    marks: tuple[str, ...] = ()  # what to know of it
    command: str = ""  # fills it where nothing does


def commands(places: Sequence[Place]) -> list[str]:
    """What fills those that are not filled."""
    return list(dict.fromkeys(place.command for place in places if place.state in (MISSING, FAILED) and place.command))


def status(item: Item, places: Sequence[Place]) -> str:
    """'complete: 8 of 8 cells', 'partly: 12 of 69 cells, 1 failed', 'nothing yet: ...', or why it has no places."""
    states = [place.state for place in places if place.state != ALONE]
    if not states:
        return _why_none(item)
    done, failed = states.count(DONE), states.count(FAILED)
    kind = {"measured": "measurement", "probes": "probe"}.get(item.kind, "cell")
    share = f"{done} of {len(states)} {kind}{'s' * (len(states) > 1)}" + (f", {failed} failed" if failed else "")
    return f"{'complete' if done == len(states) else 'partly' if done else 'nothing yet'}: {share}"


def _why_none(item: Item) -> str:
    return f"nothing to make: {item.of}" if item.kind == "no_data" else "its contents are not known to us"


def sweep_command(item: Item, out: Path, method: str = "", suite: str = "", label: str = "") -> str:
    """The sweep that fills a place of this method; `suite`: on that alone; `label`: of the variant that is probed."""
    only = catalog().only_in.get(method)
    grid = only if only in item.grids else item.grids[0]
    asked = (suite and f"suites={suite}", label and shlex.quote(f"probe.label={label}"), item.set)
    chosen = "".join(f" --set {one}" for one in asked if one)
    where = "" if out.resolve() == RUNS.resolve() else f" --out {shared(out, OUT)}"
    return as_typed(f"python ablations/run.py --grid {grid} --profile {PROFILE}{chosen}{where}")


def shared(folder: Path, stand_in: str) -> str:
    """A folder as it stands in a command that others read: as it is typed here; its stand-in for an absolute path."""
    here = folder.resolve()
    if here.is_relative_to(Path.cwd()):
        return shlex.quote(str(here.relative_to(Path.cwd())))
    return stand_in if folder.is_absolute() else shlex.quote(str(folder))


def stand_ins(commands: Sequence[str]) -> str:
    """What the stand-ins in these commands mean: 'OUT: the folder of these records'; empty where they have none."""
    here = [name for name in STAND_INS if any(f" {name}" in command for command in commands)]
    return "; ".join(f"{name}: {STAND_INS[name]}" for name in here)
