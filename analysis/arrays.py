"""What observers left beside a probe's record, arrays of numbers: whose there are, and reading them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videonsa.arrays import NoArrays, read_arrays


def holds(said: Mapping[str, Any], name: str) -> bool:
    """Whether the record's `arrays` say that there is one, OBSERVER/NAME, or any of an OBSERVER."""
    return any(held == name or held.startswith(f"{name}/") for held in said.get("held") or ())


def of_observer(out: Path, probe: str, said: Mapping[str, Any], observer: str) -> dict[str, Any]:
    """The arrays of one observer, by their names there. Raises NoArrays, a ValueError, where the file is another."""
    every = read_arrays(out / "probes" / probe, said)
    return {
        name.removeprefix(f"{observer}/"): array for name, array in every.items() if holds({"held": [name]}, observer)
    }


def of_first(
    out: Path, probes: Mapping[str, Mapping[str, Any]], observer: str, problems: list[str]
) -> tuple[str, dict[str, Any]]:
    """The first of these probes that has any and its `of_observer`, ("", {}) where none has; probes: what their records
    say."""
    for probe, said in probes.items():
        if holds(said, observer):
            try:
                return probe, of_observer(out, probe, said, observer)
            except NoArrays as error:
                problems.append(str(error))
    return "", {}
