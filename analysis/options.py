"""What analysis/run.py can be asked for: its names, its options, and which of them do nothing beside others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from analysis.figures import DRAWINGS
from analysis.figures.looks import LOOKS, PAPER
from analysis.items import catalog
from videonsa.commands import as_typed, in_checkout
from videonsa.options import Parser, folder, text
from videonsa.values import unknown

ROOT = Path(__file__).resolve().parent.parent
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
BENCHMARKS = ROOT / "benchmarks" if in_checkout() else Path("benchmarks")  # a wheel brings none
MEASURED = (
    ("--benchmark", "h200.csv", "kernels"),
    ("--methods-benchmark", "methods.csv", "prefills"),
    ("--training-benchmark", "training.csv", "training"),
)


class Refused(Exception):
    """The request cannot be met. The message is one line."""


def parse(arguments: Sequence[str] | None, about: str) -> argparse.Namespace:
    """about: the command's own words on itself."""
    names = ", ".join([ITEMS, *OTHERS, *DRAWINGS])
    parser = Parser(
        prog=as_typed("python analysis/run.py"),
        description=as_typed(about),
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


def check_names(names: Sequence[str]) -> None:
    """Raises Refused for a name of nothing."""
    known = [*OTHERS, *DRAWINGS]
    for name in names:
        if name not in known and name not in catalog().items:
            listed = ", ".join([*known, ITEMS])
            raise Refused(f"unknown name {name!r}; names: {listed}{unknown(name, [*known, *catalog().items])}")
