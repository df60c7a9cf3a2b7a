"""The paper's tables and figures by name, as analysis/paper/items.yaml declares them. To know them takes no pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent.parent / "paper" / "items.yaml"
KINDS = ("scores", "settings", "cells", "probes", "measured", "no_data")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Item:
    """One table or figure of the paper. The file says what its fields mean."""

    name: str
    kind: str  # one of KINDS, or UNKNOWN
    of: Any = None  # what the file says of the kind
    shows: str = ""
    grids: Sequence[str] = ()
    set: str = ""
    command: str = ""  # of a measurement
    draws: str = ""
    why: str = ""

    @property
    def title(self) -> str:
        """'Table 1', 'Figure 7'."""
        kind, number = ("Table", self.name[5:]) if self.name.startswith("table") else ("Figure", self.name[3:])
        return f"{kind} {number}"

    @property
    def number(self) -> int:
        """Its number among its kind."""
        return int(self.title.split()[1])


@dataclass(frozen=True)
class Catalog:
    """The whole file."""

    items: Mapping[str, Item]
    methods: Mapping[str, Mapping[str, Any]]
    only_in: Mapping[str, str]
    sampling: Mapping[str, Mapping[str, Any]]
    contradictions: Sequence[Contradiction]


@dataclass(frozen=True)
class Contradiction:
    """Where the paper disagrees with itself, of these rows of its tables."""

    tables: Sequence[int]
    says: str
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False

    def holds(self, row: Any) -> bool:
        """Whether it is about this row of reference.csv."""
        return row.table in self.tables and all(getattr(row, name) in values for name, values in self.where.items())


@lru_cache
def catalog() -> Catalog:
    """What the file declares."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    items = {name: _item(name, said) for name, said in content.pop("items").items()}
    contradictions = [Contradiction(**said) for said in content.pop("contradictions")]
    return Catalog(items=items, contradictions=contradictions, **content)


def _item(name: str, said: Mapping[str, Any]) -> Item:
    kind = next((kind for kind in KINDS if kind in said), UNKNOWN)
    rest = {key: value for key, value in said.items() if key != kind}
    return Item(name=name, kind=kind, of=said.get(kind), **rest)
