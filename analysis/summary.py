"""A sweep's table, figures and report, made once for each state of its records.

analysis.json in the sweep folder says what they were made from: the same plan, records and analysis code are not drawn
twice. Finding that out imports neither pandas nor matplotlib.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.files import write_texts
from analysis.page import version as page_version
from videonsa.identity import code_version
from videonsa.record import write_text

if TYPE_CHECKING:
    from analysis.load import Results

log = logging.getLogger("analysis")
NOTE = "analysis.json"


def summarize(out: Path, sweep: Path) -> list[Path]:
    """Write table.{txt,csv,md}, parts and recall.{md,csv}, figures/ and report.html of a sweep; the table's path first.
    The index of all sweeps, index.html of `out`, is made anew with them.

    `out` holds the records, `sweep` is the folder with plan.json. A figure with nothing to draw is left out; one that
    fails is logged with its traceback and the rest goes on. Raises NotAPlan; OSError when the folder is not writable.
    """
    out, sweep = Path(out), Path(sweep)
    key = fingerprint(out, sweep)
    if (known := _made(sweep, key)) is not None:
        return known
    from analysis.figures import DRAWINGS, fits
    from analysis.load import axes_of, load, read_plan
    from analysis.page.index import write_index
    from analysis.page.sweep import write_report
    from analysis.parts import write_parts
    from analysis.recall import write_recall

    plan = read_plan(sweep)
    results = load(out, plan)
    data = sweep_data(plan, results)
    paths = [*write_tables(plan, data, sweep), *write_parts(plan, results, sweep), *write_recall(plan, results, sweep)]
    names = [name for name in DRAWINGS if fits(name, axes_of(plan))]
    figures, whole = draw_all(names, data, sweep / "figures")
    paths += [*figures, write_report(plan, results, data["all rows"], sweep)]
    if whole:
        made = [path.relative_to(sweep).as_posix() for path in paths]
        write_text(sweep / NOTE, json.dumps({"from": key, "made": made}, indent=1) + "\n")
    write_index(out)
    return paths


def fingerprint(out: Path, sweep: Path) -> str:
    """Changes when the plan, one of its records (their content, not their dates) or the analysis code does."""
    from_plan = sweep / "plan.json"
    try:
        text = from_plan.read_bytes()
        cells = [cell for cell in json.loads(text)["cells"] if isinstance(cell, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    digest = hashlib.sha256(text + (code_version("analysis") + page_version()).encode())
    names = {f"cells/{cell.get('id')}" for cell in cells} | {f"probes/{cell.get('probe')}" for cell in cells}
    for name in sorted(names):
        path = out / name / "record.json"
        digest.update(name.encode() + (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"-"))
    return digest.hexdigest()


def _made(sweep: Path, key: str) -> list[Path] | None:
    try:
        note = json.loads((sweep / NOTE).read_text(encoding="utf-8"))
        paths = [sweep / name for name in note["made"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return paths if key and note["from"] == key and all(path.is_file() for path in paths) else None


def sweep_data(plan: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """What figures draw from: the compared `rows` that are shown, the probes' tables and arrays; for tables and pages
    `all rows`, with those of single seeds, and `problems` for the notes."""
    from analysis.compared import compare
    from analysis.load import find_reference
    from analysis.pooled import shown

    rows = compare(results, find_reference(plan, results.cells))
    tables = {"gates": results.gates, "sinks": results.sinks, "points": results.points, "recall": results.recall}
    tables |= {"losses": results.losses, "content": results.content, "latency": results.latency}
    arrays = {f"{observer} arrays": of for observer, of in results.arrays.items()}
    return {"rows": shown(rows), "all rows": rows, **tables, **arrays, "problems": results.problems}


def write_tables(plan: Mapping[str, Any], data: Mapping[str, Any], sweep: Path) -> list[Path]:
    """table.txt, .csv and .md, and seeds.md where variants have several; returns their paths."""
    from analysis import seeds
    from analysis.tables import to_csv, to_markdown, to_text

    rows, problems = data["all rows"], data["problems"]
    texts = {
        "table.txt": to_text(rows, plan, problems),
        "table.csv": to_csv(rows),
        "table.md": to_markdown(rows, plan, problems),
        "seeds.md": seeds.to_markdown(rows, plan),
    }
    return write_texts(sweep, texts)


def draw_all(names: Iterable[str], data: Mapping[str, Any], folder: Path) -> tuple[list[Path], bool]:
    """Draw these figures: their paths, and whether none failed (a failure is logged). What is not drawn is removed."""
    from analysis.figures import draw, module

    paths: list[Path] = []
    whole = True
    for name in names:
        try:
            paths += draw(name, data, folder)
            continue
        except ValueError as error:
            log.info("figure %s: %s", name, error)
        except OSError:  # of the disk, which keeps the older ones
            raise
        except Exception:
            log.exception("figure %s could not be drawn", name)
            whole = False
        for kind in module("style").FORMATS:  # an older one would show other records
            (module("style").place(folder) / f"{name}.{kind}").unlink(missing_ok=True)
    return paths, whole
