"""The paper's benchmarks, made ready to be asked.

    python -m evals.data prepare vsibench tomato          # fetch from the Hugging Face hub, unpack, check
    python -m evals.data prepare vsibench --dry-run       # only say what is needed
    python -m evals.data prepare vsibench --local DIR     # use what is on disk: a copy of the repository, or its videos

A fetch or an unpacking that was stopped goes on when the same command is given again.
"""

from __future__ import annotations

if __name__ == "__main__":
    from videonsa.bootstrap import ensure_environment

    ensure_environment()

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evals.data.catalog import CATALOG, shipped_task
from evals.data.prepare import needed, prepare, report
from evals.shipped import make_loadable
from videonsa.config import SettingsError
from videonsa.lock import LockHeld
from videonsa.options import Parser, folder, text
from videonsa.values import one_line

ALL = "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit codes: 0 all is there, 1 something is missing, 2 wrong input, 130 interrupted."""
    parser = Parser(
        prog="python -m evals.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["prepare"])
    parser.add_argument("suites", nargs="+", type=text, metavar="SUITE", help=f"{', '.join(CATALOG)}, or {ALL}")
    parser.add_argument("--local", type=folder, metavar="DIR", help="fetch nothing: what is needed lies here")
    parser.add_argument("--dry-run", action="store_true", help="say what is needed; fetch and change nothing")
    parser.add_argument("--all", action="store_true", help="name every missing video")
    asked = parser.parse_args(arguments)
    make_loadable()
    names = list(CATALOG) if ALL in asked.suites else list(dict.fromkeys(asked.suites))
    try:
        for name in names:
            shipped_task(name)
    except SettingsError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2
    try:
        ready = [_one(name, asked.local, asked.dry_run, asked.all) for name in names]
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0 if all(ready) else 1


def _one(name: str, local: Path | None, dry_run: bool, everything: bool) -> bool:
    for line in needed(name, local):
        print(line, flush=True)
    if dry_run:
        return True
    try:
        found, done = prepare(name, local)
    except LockHeld as error:
        print(one_line(f"  error: another process makes {name} ready ({error})"), file=sys.stderr)
        return False
    except (SettingsError, OSError) as error:
        print(one_line(f"  error: {error}"), file=sys.stderr)
        return False
    print("\n".join([*done, *report(name, found, everything)]), flush=True)
    return found.without == 0


if __name__ == "__main__":
    os.environ.setdefault("LOGURU_LEVEL", "CRITICAL")  # the tasks' own words on each missing file
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # a table of questions takes no time
    sys.exit(main())
