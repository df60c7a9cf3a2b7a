"""Reading the records of an out folder. What is no whole record of ours is named, and left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

from analysis.rows import SCORES, SUMMARY
from videonsa.record import SCHEMA, read_record

NUMBERS = (*(name for name in SCORES if name not in ("metric", "accuracy")), *SUMMARY.values())  # of cells, or None


def folders(parent: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none where it is not there."""
    return sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def below_out(path: Path) -> str:
    """A record's place as others are told it, from its out folder on: cells/0123abcd/record.json."""
    return "/".join(path.parts[-3:])


def read_kind(path: Path, kind: str, problems: list[str]) -> dict[str, Any] | None:
    """A whole record of this kind, done or failed; None where there is none: `problems` then says what else it is."""
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except OSError as error:
        problems.append(f"{below_out(path)}: cannot be read ({type(error).__name__})")
        return None
    except RecursionError:
        record = None
    if record is None:
        problems.append(f"{below_out(path)}: not a whole record, left out")
    elif record["kind"] != kind or record.get("schema") != SCHEMA or record["status"] not in ("done", "failed"):
        given = f"kind {record['kind']!r}, schema {record.get('schema')!r}, status {record['status']!r}"
        problems.append(f"{below_out(path)}: not a record of this kind ({given}), left out")
    else:
        return record
    return None


def is_number(value: object) -> TypeGuard[float]:
    """JSON's true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked(row: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The row without numbers that are none; one that is done without an accuracy from 0 to 1 is shown as failed."""
    other = [name for name in NUMBERS if not (row.get(name) is None or is_number(row[name]))]
    parts = row.get("parts")
    if parts is not None and not (isinstance(parts, dict) and all(isinstance(one, dict) for one in parts.values())):
        other.append("parts")
    if other:
        problems.append(f"cell {row['id']}: its record's {', '.join(other)} cannot be read, left out")
        row = {**row, **dict.fromkeys(other)}
    accuracy = row["accuracy"]
    if row["status"] != "done" or (is_number(accuracy) and 0 <= accuracy <= 1):
        return row
    problems.append(f"cell {row['id']}: its record says done but has no accuracy; shown as failed")
    failed = {"status": "failed", "error_type": "NoAccuracy", "error": "the record has no accuracy"}
    return {**row, **failed, "accuracy": None}
