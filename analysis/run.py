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

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: its names would hide packages
    from videonsa.bootstrap import ended, ensure_environment

    ensure_environment()

from analysis.by_sweep import (  # noqa: E402
    chosen_sweeps,
    make_of_sweeps,
    make_reports,
    make_with_joined,
    show,
    show_beside,
    summarize_sweep,
    sweep_names,
)
from analysis.figures import DRAWINGS, module  # noqa: E402
from analysis.figures.looks import PAPER, look  # noqa: E402
from analysis.items import catalog  # noqa: E402
from analysis.options import MEASURED, OTHERS, Refused, check_names, parse  # noqa: E402
from analysis.page.index import write_index  # noqa: E402
from analysis.summary import summarize  # noqa: E402
from videonsa.disk import DiskError  # noqa: E402
from videonsa.values import one_line  # noqa: E402

__all__ = ["main", "summarize"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parse(arguments, __doc__ or "")
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


def _list(options: argparse.Namespace) -> str:
    from analysis.items.found import find
    from analysis.items.make import listing

    known = OTHERS | {name: drawing.what for name, drawing in DRAWINGS.items()}
    width = max(map(len, known))
    lines = ["Names:", *(f"  {name:<{width}}  {what}" for name, what in known.items())]
    lines += [f"Sweeps in {options.out}:", *(f"  {name}" for name in sweep_names(options.out) or ["none yet"])]
    found = find(options.out, options.measured)
    return "\n".join([*lines, "The paper's tables and figures, by name:", *listing(found), *found.problems])


def _make(options: argparse.Namespace) -> int:
    check_names(options.names)
    names = list(dict.fromkeys(options.names))
    given = vars(options)
    measurements = {figure: given[name.strip("-").replace("-", "_")] for name, _, figure in MEASURED}
    if options.style != PAPER:
        names = _figures(names, options, measurements)
    if options.reference is not None:
        show_beside(options)
        return 0
    if options.join:
        return 0 if make_with_joined(names, options) else 1
    whole = read = True
    if options.all and options.style == PAPER:
        sweeps = chosen_sweeps(options.out, options.sweep)
        there = [name for name, path in measurements.items() if path.is_file()]
        if not sweeps and not there:
            raise Refused(
                f"no sweep in {options.out} and no measurements in {' or '.join(map(str, measurements.values()))}"
            )
        for sweep in sweeps:
            read &= summarize_sweep(options.out, sweep)
        names = [*there, "index", *(["wandb"] if "wandb" in names else [])]
    for name in [name for name in names if name in measurements]:
        names.remove(name)
        read &= _draw_measured(name, measurements[name], options.out / "figures")
    items = [name for name in names if name in catalog().items]
    appendix = "appendix" in names or (options.all and not options.sweep and options.style == PAPER)
    if items or appendix:
        whole &= _items(items, options, appendix)
    if "index" in names:
        show([write_index(options.out)])
    if "wandb" in names:
        whole &= make_reports(options)
    if names := [name for name in names if name not in items and name not in ("appendix", "index", "wandb")]:
        whole &= make_of_sweeps(names, options)
    return (0 if whole else 1) if read else 2


def _figures(names: Sequence[str], options: argparse.Namespace, measurements: Mapping[str, Path]) -> list[str]:
    """These names, each of a figure; with --all, the figures of sweeps and of measurements."""
    drawn = [name for name, item in catalog().items.items() if item.draws]
    for name in names:
        if name not in (*DRAWINGS, *measurements, *drawn):
            known = ", ".join([*DRAWINGS, *measurements, *drawn])
            raise Refused(f"{name} is no figure, --style does nothing to it; figures: {known}")
    there = [name for name, path in measurements.items() if path.is_file() and not options.join]
    if options.all and not there and not sweep_names(options.out):
        raise Refused(f"no sweep in {options.out} and no measurements to draw")
    return [*DRAWINGS, *there] if options.all else list(names)


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
        show(one.paths)
    show(write_appendix(made, found) if appendix else [])
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return all(one.whole for one in asked)


def _draw_measured(name: str, measurements: Path, folder: Path) -> bool:
    """Draw a figure of measurements; False, and a line that says why, where these cannot be read."""
    drawer, style = module(name), module("style")
    try:
        with style.style():
            show(style.save(drawer.draw(drawer.read(measurements)), folder, name))
    except ValueError as error:
        option = next(option for option, _, figure in MEASURED if figure == name)
        print(f"error: {name}: {error} ({option} FILE names another table)", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(ended(main()))
