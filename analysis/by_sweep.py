"""What analysis/run.py makes of each chosen sweep: tables, figures, pages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.figures import DRAWINGS, fits
from analysis.figures.looks import PAPER
from analysis.options import JOINABLE, Refused
from analysis.summary import draw_all, summarize, sweep_data, write_tables
from videonsa.commands import as_typed
from videonsa.values import one_line, unknown

if TYPE_CHECKING:
    from analysis.load import Results

LEAST_WIDTH = 60  # columns of a table, however narrow the terminal says it is


def sweep_names(out: Path) -> list[str]:
    """Of all sweeps in a folder."""
    return sorted(path.parent.name for path in (out / "sweeps").glob("*/plan.json"))


def chosen_sweeps(out: Path, wanted: Sequence[str]) -> list[str]:
    """Those that are wanted, or all. Raises Refused for a name of none."""
    known = sweep_names(out)
    for name in wanted:
        if name not in known:
            raise Refused(f"no sweep {name!r} in {out}; sweeps: {', '.join(known) or 'none'}{unknown(name, known)}")
    return list(wanted) or known


def summarize_sweep(out: Path, sweep: str) -> bool:
    """Make all of a sweep's own; False, and a line that says why, where its plan is damaged: the others are made."""
    from analysis.load import NotAPlan

    try:
        show(summarize(out, out / "sweeps" / sweep))
    except NotAPlan as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return False
    return True


def make_with_joined(names: Sequence[str], options: argparse.Namespace) -> bool:
    """Make these with rows of foreign results, of every chosen sweep that shares a benchmark with them."""
    for name in names:
        if name not in JOINABLE:
            raise Refused(f"{name} takes no --join; these do: {', '.join(JOINABLE)}")
    every = options.all and options.style == PAPER
    return make_of_sweeps(["table", "parts", "report"] if every else names, options)


def make_of_sweeps(names: Sequence[str], options: argparse.Namespace) -> bool:
    """Make these of every chosen sweep that has them; False when one failed, or a name could be made of no sweep."""
    from analysis.load import axes_of
    from analysis.sweeps import read_sweeps

    sweeps = chosen_sweeps(options.out, options.sweep)
    made = dict.fromkeys(names, False)
    whole = True
    for plan, results, place in read_sweeps(options.out, sweeps, options.join):
        data = sweep_data(plan, results)
        for name in names:
            if name in DRAWINGS and not fits(name, axes_of(plan)):
                continue
            paths, drawn = _one(name, plan, results, data, place, not options.no_media)
            show(paths)
            made[name] |= bool(paths)
            whole &= drawn
    lacking = [name for name, done in made.items() if not done and not options.all]
    for name in lacking:
        print(f"{name}: {why_not(name, sweeps, options.out)}", file=sys.stderr)
    return whole and not lacking


def make_reports(options: argparse.Namespace) -> bool:
    """Make the W&B report of every chosen sweep; False when something of one is not where it was to go."""
    from analysis.mirror.report import report_sweep

    if options.join:
        raise Refused("wandb shows what was run here: without --join")
    whole = True
    sweeps = chosen_sweeps(options.out, options.sweep)
    if not sweeps:
        raise Refused(why_not("wandb", sweeps, options.out))
    for sweep in sweeps:
        made = report_sweep(options.out, options.out / "sweeps" / sweep, not options.no_questions)
        show(made.paths)
        print("\n".join(made.lines), file=sys.stdout if made.whole else sys.stderr)
        whole &= made.whole
    return whole


def _one(name: str, plan: dict, results: Results, data: dict, folder: Path, pictures: bool) -> tuple[list[Path], bool]:
    if name in DRAWINGS:
        return draw_all([name], data, folder / "figures")
    if name == "table":
        _print_table(plan, data)
        return write_tables(plan, data, folder), True
    if name == "report":
        from analysis.load import axes_of
        from analysis.page.sweep import write_report

        draw_all([figure for figure in DRAWINGS if fits(figure, axes_of(plan))], data, folder / "figures")
        return [write_report(plan, results, data["all rows"], folder, pictures)], True
    if name in ("parts", "recall_table"):
        from analysis.parts import write_parts
        from analysis.recall import write_recall

        write = write_parts if name == "parts" else write_recall
        paths = write(plan, results, folder)
        for path in paths[:1]:
            print(path.read_text(encoding="utf-8").rstrip())
        return paths, True
    from analysis.paper import write_beside

    return write_beside(data["rows"], folder), True


def _print_table(plan: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from rich.console import Console

    from analysis.tables import rich_table

    console, shown = Console(), rich_table(data["all rows"], plan, data["problems"])
    least = console.measure(shown, options=console.options.update(max_width=1000)).minimum
    console.width = max(console.width, LEAST_WIDTH, least)  # a number that is cut is another
    console.print(shown)


def show_beside(options: argparse.Namespace) -> None:
    """Print the table of each chosen sweep that has this variant, for its reference. Raises Refused where none has."""
    from analysis.sweeps import read_sweeps

    sweeps = chosen_sweeps(options.out, options.sweep)
    known: dict[str, None] = {}
    for plan, results, _ in read_sweeps(options.out, sweeps, options.join):
        variants = list(map(str, results.cells["variant"]))
        known |= dict.fromkeys(variants)
        if options.reference in variants:
            plan = {**plan, "reference": options.reference}
            _print_table(plan, sweep_data(plan, results))
    if options.reference not in known:
        named = f"variants: {', '.join(known) or 'none'}{unknown(options.reference, list(known))}"
        raise Refused(f"no variant {options.reference!r} in {', '.join(sweeps) or options.out}; {named}")


def why_not(name: str, sweeps: Sequence[str], out: Path) -> str:
    """Why nothing of this name was made of these sweeps."""
    if not sweeps:
        return f"no sweep in {out}; run `{as_typed('python ablations/run.py --grid budget')}` first"
    if name == "published":
        return f"nothing in {', '.join(sweeps)} is asked as in the paper"
    if name == "parts":
        return f"no record of {', '.join(sweeps)} has sub-scores"
    drawing = DRAWINGS.get(name.removesuffix("_table"))  # what recall_table needs is what recall does
    axes = drawing.axes if drawing else ()
    need = f"a sweep that varies {' or '.join(axes)}" if axes else "finished cells"
    need = drawing.needs.format(name=name) if drawing and drawing.needs else need
    return f"nothing to draw in {', '.join(sweeps)}: it needs {need}"


def show(paths: Sequence[Path]) -> None:
    """Print what was made, a line each."""
    for path in paths:
        print(path)
