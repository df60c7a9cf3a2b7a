#!/usr/bin/env python
"""Tables, figures and reports from records.

python analysis/run.py budget gates sinks              # these figures, of every sweep that has them
python analysis/run.py table --sweep tiny-budget       # one sweep's table, shown and written
python analysis/run.py table --sweep tiny-branches --reference slc+swa   # shown beside another variant than the grid's
python analysis/run.py parts --sweep tiny-budget       # the same for the benchmarks' sub-scores
python analysis/run.py table --join FOLDER=LABEL       # a row more: what lmms-eval wrote elsewhere with --log_samples
python analysis/run.py budget fig3 --style slides      # figures of 16:9, in folders named slides
python analysis/run.py table1 fig7                     # the paper's own, of all records, beside the published numbers
python analysis/run.py wandb --sweep tiny-budget       # one sweep's W&B runs and report
python analysis/run.py --all                           # everything of every sweep, of measurements, and of the paper
python analysis/run.py report --no-media               # a page of each sweep to share, without videos' frames
python analysis/run.py index                           # one page over all sweeps
python analysis/run.py --list                          # names, sweeps, and how much of the paper's items there is
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: its names would hide packages
    from videonsa.bootstrap import ended, ensure_environment

    ensure_environment()

from analysis.figures import DRAWINGS, fits, module  # noqa: E402
from analysis.figures.looks import LOOKS, PAPER, look  # noqa: E402
from analysis.items import catalog  # noqa: E402
from analysis.page.index import write_index  # noqa: E402
from analysis.summary import draw_all, summarize, sweep_data, write_tables  # noqa: E402
from videonsa.commands import as_typed, in_checkout  # noqa: E402
from videonsa.disk import DiskError  # noqa: E402
from videonsa.options import Parser, folder, text  # noqa: E402
from videonsa.values import one_line, unknown  # noqa: E402

__all__ = ["main", "summarize"]
OTHERS = {
    "table": "variants x suites with intervals and paired tests, as text, CSV and Markdown",
    "parts": "the benchmarks' sub-scores with intervals, as Markdown and CSV",
    "recall_table": "what of dense attention each method's keys keep, as Markdown and CSV",
    "report": "one HTML file: tables, figures, the questions that variants answer differently, failures, provenance",
    "index": "one HTML file over all sweeps of the folder",
    "published": "the paper's numbers beside ours, where a sweep asks the same",
    "wandb": "a sweep's report at W&B with its runs, or what `wandb sync` takes",
    "kernels": "latency and memory of the kernels against length (benchmarks/h200.csv)",
    "appendix": "every table and figure of the paper that we know, ours beside the published numbers, as HTML and PDF",
    "prefills": "milliseconds of each sparse prefill beside dense attention (benchmarks/methods.csv)",
    "training": "step time and memory of training against length (benchmarks/training.csv)",
}
JOINABLE = ("table", "parts", "report", *DRAWINGS)  # what may have rows of foreign results
ITEMS = "table1 to table37, fig1 to fig29"
RUNS = Path("runs")
LEAST_WIDTH = 60  # columns of a table, however narrow the terminal says it is
BENCHMARKS = ROOT / "benchmarks" if in_checkout() else Path("benchmarks")  # a wheel brings none
MEASURED = (
    ("--benchmark", "h200.csv", "kernels"),
    ("--methods-benchmark", "methods.csv", "prefills"),
    ("--training-benchmark", "training.csv", "training"),
)


class Refused(Exception):
    """The request cannot be met. The message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parse(arguments)
    try:
        if options.list:
            print(_list(options))
            return 0
        with look(options.style):
            return _make(options)
    except DiskError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 1
    except (Refused, ValueError, OSError) as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join([ITEMS, *OTHERS, *DRAWINGS])
    parser = Parser(
        prog=as_typed("python analysis/run.py"),
        description=as_typed(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", type=str.lower, help=f"what to make: {names}")
    parser.add_argument("--all", action="store_true", help="everything that the records allow")
    parser.add_argument("--list", action="store_true", help="names of figures and tables, and the sweeps there are")
    parser.add_argument("--out", type=folder, help=f"folder of the records, and of what is made (default: {RUNS})")
    parser.add_argument("--sweep", type=text, action="append", default=[], help="only this sweep (may be repeated)")
    what = "a row more, of samples that lmms-eval wrote with --log_samples: FOLDER or FOLDER=LABEL (may be repeated)"
    parser.add_argument("--join", type=text, action="append", default=[], help=what)
    what = "with `table`: compare with this variant, by its label, not with the grid's reference; shown, not written"
    parser.add_argument("--reference", type=text, metavar="VARIANT", help=what)
    what = "with `report`: a copy to share, report-no-media.html, without the frames of the benchmarks' videos"
    parser.add_argument("--no-media", action="store_true", help=what)
    parser.add_argument(
        "--no-questions", action="store_true", help="wandb: without the benchmarks' questions and answers"
    )
    what = "what figures are for: a paper, or slides (16:9, larger letters and lines, in folders named slides)"
    parser.add_argument("--style", choices=LOOKS, default=PAPER, help=what)
    what = "folder of measurements for the paper's items (default: benchmarks)"
    parser.add_argument("--measured", type=folder, help=what)
    for name, file, figure in MEASURED:
        what = f"measurements for the figure `{figure}`"
        parser.add_argument(name, type=folder, default=BENCHMARKS / file, help=what)
    options = parser.parse_args(arguments)
    _refuse_idle(parser, options)
    if not (options.names or options.all or options.list):
        parser.error(f"say what to make: {names}; or --all, or --list")
    from_records = options.all or options.list or not {figure for _, _, figure in MEASURED}.issuperset(options.names)
    for option, default in (("out", RUNS), ("measured", BENCHMARKS)):
        given, read = getattr(options, option), option == "measured" or from_records  # else it is made
        if read and given is not None and not given.is_dir():
            parser.error(f"--{option} {given}: there is no such folder")
        setattr(options, option, given or default)
    return options


def _refuse_idle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a line about an option that would do nothing beside these names."""
    if options.no_media and "report" not in options.names:
        parser.error("--no-media makes another copy of the report: say `report --no-media`")
    if options.no_questions and "wandb" not in options.names:
        parser.error("--no-questions makes the W&B report without them: say `wandb --no-questions`")
    if options.reference is not None and (options.names != ["table"] or options.all):
        parser.error("--reference compares a table's rows with another variant: say `table --reference VARIANT` alone")
    if options.list and (options.names or options.all):
        parser.error("--list tells all names, and makes nothing: say it without any")
    if options.sweep and options.names and not options.all:
        whole = {*catalog().items, "index", "appendix", *(figure for _, _, figure in MEASURED)}
        if whole.issuperset(options.names):
            parser.error(f"--sweep is for what is made sweep by sweep; of all records is {', '.join(options.names)}")


def _list(options: argparse.Namespace) -> str:
    from analysis.items.found import find
    from analysis.items.make import listing

    known = OTHERS | {name: drawing.what for name, drawing in DRAWINGS.items()}
    width = max(map(len, known))
    lines = ["Names:", *(f"  {name:<{width}}  {what}" for name, what in known.items())]
    lines += [f"Sweeps in {options.out}:", *(f"  {name}" for name in _sweep_names(options.out) or ["none yet"])]
    found = find(options.out, options.measured)
    return "\n".join([*lines, "The paper's tables and figures, by name:", *listing(found), *found.problems])


def _sweep_names(out: Path) -> list[str]:
    return sorted(path.parent.name for path in (out / "sweeps").glob("*/plan.json"))


def _chosen_sweeps(out: Path, wanted: Sequence[str]) -> list[str]:
    known = _sweep_names(out)
    for name in wanted:
        if name not in known:
            raise Refused(f"no sweep {name!r} in {out}; sweeps: {', '.join(known) or 'none'}{unknown(name, known)}")
    return list(wanted) or known


def _make(options: argparse.Namespace) -> int:
    _check(options.names)
    names = list(dict.fromkeys(options.names))
    given = vars(options)
    measurements = {figure: given[name.strip("-").replace("-", "_")] for name, _, figure in MEASURED}
    if options.style != PAPER:
        names = _figures(names, options, measurements)
    if options.reference is not None:
        _show_beside(options)
        return 0
    if options.join:
        return 0 if _joined(names, options) else 1
    whole = read = True
    if options.all and options.style == PAPER:
        sweeps = _chosen_sweeps(options.out, options.sweep)
        there = [name for name, path in measurements.items() if path.is_file()]
        if not sweeps and not there:
            raise Refused(
                f"no sweep in {options.out} and no measurements in {' or '.join(map(str, measurements.values()))}"
            )
        for sweep in sweeps:
            read &= _summarized(options.out, sweep)
        names = [*there, "index", *(["wandb"] if "wandb" in names else [])]
    for name in [name for name in names if name in measurements]:
        names.remove(name)
        read &= _draw_measured(name, measurements[name], options.out / "figures")
    items = [name for name in names if name in catalog().items]
    appendix = "appendix" in names or (options.all and not options.sweep and options.style == PAPER)
    if items or appendix:
        whole &= _items(items, options, appendix)
    if "index" in names:
        _show([write_index(options.out)])
    if "wandb" in names:
        whole &= _reports(options)
    if names := [name for name in names if name not in items and name not in ("appendix", "index", "wandb")]:
        whole &= _from_sweeps(names, options)
    return (0 if whole else 1) if read else 2


def _summarized(out: Path, sweep: str) -> bool:
    """Make all of a sweep's own; False, and a line that says why, where its plan is damaged: the others are made."""
    from analysis.load import NotAPlan

    try:
        _show(summarize(out, out / "sweeps" / sweep))
    except NotAPlan as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return False
    return True


def _check(names: Sequence[str]) -> None:
    known = [*OTHERS, *DRAWINGS]
    for name in names:
        if name not in known and name not in catalog().items:
            listed = ", ".join([*known, ITEMS])
            raise Refused(f"unknown name {name!r}; names: {listed}{unknown(name, [*known, *catalog().items])}")


def _figures(names: Sequence[str], options: argparse.Namespace, measurements: Mapping[str, Path]) -> list[str]:
    """These names, each of a figure; with --all, the figures of sweeps and of measurements."""
    drawn = [name for name, item in catalog().items.items() if item.draws]
    for name in names:
        if name not in (*DRAWINGS, *measurements, *drawn):
            known = ", ".join([*DRAWINGS, *measurements, *drawn])
            raise Refused(f"{name} is no figure, --style does nothing to it; figures: {known}")
    there = [name for name, path in measurements.items() if path.is_file() and not options.join]
    if options.all and not there and not _sweep_names(options.out):
        raise Refused(f"no sweep in {options.out} and no measurements to draw")
    return [*DRAWINGS, *there] if options.all else list(names)


def _joined(names: Sequence[str], options: argparse.Namespace) -> bool:
    """Make these with rows of foreign results, of every chosen sweep that shares a benchmark with them."""
    for name in names:
        if name not in JOINABLE:
            raise Refused(f"{name} takes no --join; these do: {', '.join(JOINABLE)}")
    every = options.all and options.style == PAPER
    return _from_sweeps(["table", "parts", "report"] if every else names, options)


def _items(names: Sequence[str], options: argparse.Namespace, appendix: bool) -> bool:
    """Make these of the paper's items, or all as one file; False when one of these could not be made."""
    from analysis.items.appendix import write_appendix
    from analysis.items.found import find
    from analysis.items.make import make
    from analysis.items.written import to_markdown

    found = find(options.out, options.measured)
    made = make(list(catalog().items) if appendix else names, found)
    asked = [one for one in made if one.item.name in names]
    for one in asked:
        if options.style == PAPER:
            print(to_markdown(one.page))
        _show(one.paths)
    _show(write_appendix(made, found) if appendix else [])
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return all(one.whole for one in asked)


def _reports(options: argparse.Namespace) -> bool:
    """Make the W&B report of every chosen sweep; False when something of one is not where it was to go."""
    from analysis.mirror.report import report_sweep

    if options.join:
        raise Refused("wandb shows what was run here: without --join")
    whole = True
    sweeps = _chosen_sweeps(options.out, options.sweep)
    if not sweeps:
        raise Refused(_why_not("wandb", sweeps, options.out))
    for sweep in sweeps:
        made = report_sweep(options.out, options.out / "sweeps" / sweep, not options.no_questions)
        _show(made.paths)
        print("\n".join(made.lines), file=sys.stdout if made.whole else sys.stderr)
        whole &= made.whole
    return whole


def _draw_measured(name: str, measurements: Path, folder: Path) -> bool:
    """Draw a figure of measurements; False, and a line that says why, where these cannot be read."""
    drawer, style = module(name), module("style")
    try:
        with style.style():
            _show(style.save(drawer.draw(drawer.read(measurements)), folder, name))
    except ValueError as error:
        option = next(option for option, _, figure in MEASURED if figure == name)
        print(f"error: {name}: {error} ({option} FILE names another table)", file=sys.stderr)
        return False
    return True


def _from_sweeps(names: Sequence[str], options: argparse.Namespace) -> bool:
    """Make these of every chosen sweep that has them; False when one failed, or a name could be made of no sweep."""
    from analysis.load import axes_of
    from analysis.sweeps import read_sweeps

    sweeps = _chosen_sweeps(options.out, options.sweep)
    made = dict.fromkeys(names, False)
    whole = True
    for plan, results, place in read_sweeps(options.out, sweeps, options.join):
        data = sweep_data(plan, results)
        for name in names:
            if name in DRAWINGS and not fits(name, axes_of(plan)):
                continue
            paths, drawn = _one(name, plan, results, data, place, not options.no_media)
            _show(paths)
            made[name] |= bool(paths)
            whole &= drawn
    lacking = [name for name, done in made.items() if not done and not options.all]
    for name in lacking:
        print(f"{name}: {_why_not(name, sweeps, options.out)}", file=sys.stderr)
    return whole and not lacking


def _one(name: str, plan: dict, results: object, data: dict, folder: Path, pictures: bool) -> tuple[list[Path], bool]:
    if name in DRAWINGS:
        return draw_all([name], data, folder / "figures")
    if name == "table":
        _print_table(plan, data)
        return write_tables(plan, data, folder), True
    if name == "report":
        from analysis.load import axes_of
        from analysis.page.sweep import write_report

        draw_all([figure for figure in DRAWINGS if fits(figure, axes_of(plan))], data, folder / "figures")
        return [write_report(plan, results, data["all rows"], folder, pictures)], True  # type: ignore[arg-type]
    if name in ("parts", "recall_table"):
        from analysis.parts import write_parts
        from analysis.recall import write_recall

        write = write_parts if name == "parts" else write_recall
        paths = write(plan, results, folder)  # type: ignore[arg-type]
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


def _show_beside(options: argparse.Namespace) -> None:
    """Print the table of each chosen sweep that has this variant, for its reference. Raises Refused where none has."""
    from analysis.sweeps import read_sweeps

    sweeps = _chosen_sweeps(options.out, options.sweep)
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


def _why_not(name: str, sweeps: Sequence[str], out: Path) -> str:
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


def _show(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)


if __name__ == "__main__":
    sys.exit(ended(main()))
