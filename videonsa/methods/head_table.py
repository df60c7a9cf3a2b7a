"""Tables of MInference: how many columns and diagonals each query head of a model keeps. Imports no torch.

A file is JSON: {"patterns": [[columns, diagonals], ...], "heads": ["0120...", ...]}, with one text a layer, and in it
one digit a query head (0-9, then a-z): the place of its pattern. What else it holds says where it comes from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videonsa.config import require
from videonsa.identity import identity
from videonsa.limits import is_whole
from videonsa.places import place
from videonsa.values import SettingsError

PUBLISHED = {"qwen2.5-7b": Path(__file__).with_name("minference_qwen2_5_7b.json")}  # its text model's
UNIFORM = "uniform"  # no table: one pattern for all heads
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
SEARCH = "python -m evals.head_patterns CHECKPOINT --out TABLE.json"


@dataclass(frozen=True)
class HeadTable:
    """Patterns by layer and query head."""

    patterns: tuple[tuple[int, int], ...]  # (columns, diagonals)
    heads: tuple[tuple[int, ...], ...]  # [layers][query heads] place of the head's pattern

    def layer(self, number: int) -> tuple[list[int], list[int]]:
        """Columns and diagonals of each query head of a layer."""
        patterns = [self.patterns[place] for place in self.heads[number]]
        return [columns for columns, _ in patterns], [diagonals for _, diagonals in patterns]

    def check_model(self, name: str, layers: int, query_heads: int) -> None:
        """Raise SettingsError for a model of another shape; `name`: of the table."""
        shape = (len(self.heads), len(self.heads[0]))
        valid = f"it is of {shape[0]} layers of {shape[1]} query heads, the model has {layers} of {query_heads}"
        ways = f"`{SEARCH}` makes a table of a checkpoint, table={UNIFORM} needs none"
        require(shape == (layers, query_heads), "minference.table", name, f"{valid}; {ways}")

    def as_json(self) -> dict[str, Any]:
        """As a file holds it."""
        heads = ["".join(DIGITS[place] for place in layer) for layer in self.heads]
        return {"patterns": [list(pattern) for pattern in self.patterns], "heads": heads}


def read_table(name: str) -> HeadTable:
    """A published table by its name, or a file. Raises SettingsError, in one line, for one that is none."""
    path = PUBLISHED.get(name) or place(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = ", ".join((UNIFORM, *PUBLISHED))
        raise SettingsError(f"table={name!r} is not valid: {known}, or a file of `{SEARCH}` ({error})") from None
    try:
        patterns = tuple(_pattern(entry) for entry in content["patterns"])
        heads = tuple(tuple(_place(digit, len(patterns)) for digit in layer) for layer in content["heads"])
        if not heads or not heads[0] or {len(layer) for layer in heads} != {len(heads[0])}:
            raise ValueError("heads: one text a layer, all equally long")
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"table={name!r} is no table of `{SEARCH}`: {type(error).__name__}: {error}") from None
    return HeadTable(patterns, heads)


def _pattern(entry: Any) -> tuple[int, int]:
    columns, diagonals = entry
    if not (is_whole(columns, 0) and is_whole(diagonals, 1)):
        raise ValueError(f"pattern {entry!r}: columns of at least 0, diagonals of at least 1")
    return columns, diagonals


def _place(digit: Any, patterns: int) -> int:
    found = DIGITS.find(digit) if isinstance(digit, str) and digit else -1
    if not 0 <= found < patterns:
        raise ValueError(f"head {digit!r}: a digit below {patterns}")
    return found


def table_text(field: str, given: Any) -> str:
    """The setting `table`, checked: the name, or the whole path of the file, wherever a job starts."""
    if not isinstance(given, str) or not given.strip():
        raise SettingsError(f"{field}={given!r} is not valid: {', '.join((UNIFORM, *PUBLISHED))}, or a file")
    if given == UNIFORM:
        return given
    try:
        read_table(given)
    except SettingsError as error:
        raise SettingsError(f"{field.rpartition('.')[0]}.{error}") from None
    return given if given in PUBLISHED else str(place(given).absolute())


def table_content(given: str) -> str:
    """What the setting `table` stands for in an identity: not where the file lies, but what it holds."""
    if given == UNIFORM:
        return given
    table = read_table(given)
    return identity({"heads": [table.layer(number) for number in range(len(table.heads))]})
