"""--retry-failed --set KEY=VALUE: failed cells run again with other settings, in the sweep that they are of. No torch.

Such a cell is another cell: its identity, its label in the table and its record name its actual settings. The sweep's
amended.json lists them; the records of the failures stay where they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from ablations.cell import Cell
from ablations.plan import AMENDED, Sweep, read_amended, sweep_name
from ablations.profile import Profile
from ablations.settings import OF_GRIDS
from ablations.state import FAILED, INTERRUPTED, read_state
from videonsa.config import SettingsError
from videonsa.record import write_text

OTHER_CELLS = (*OF_GRIDS, "checkpoint")


def planned_changes(changes: Mapping[str, Any], grid: str, source: str, profile: Profile, out: Path) -> dict[str, Any]:
    """Those of --set that a sweep was planned with before, as many as can be; all when there is no such sweep.

    So the same command with --retry-failed retries the same sweep, and what is new is for the failed cells alone.
    """
    for size in range(len(changes), -1, -1):
        for keys in combinations(changes, size):
            part = {key: changes[key] for key in keys}
            if (out / "sweeps" / sweep_name(grid, source, profile, part) / "plan.json").is_file():
                return part
    return dict(changes)


def amended_sweep(sweep: Sweep, chosen: list[Cell], others: Mapping[str, Any], make: Callable[..., Sweep]) -> Sweep:
    """The sweep with these settings for those of the chosen cells that have failed. Writes nothing.

    Raises SettingsError for a setting that would make other cells, that is not valid, or when no cell has failed.
    """
    for key in others:
        if key in OTHER_CELLS:
            raise SettingsError(f"--retry-failed --set {key}: that asks for other cells; leave out --retry-failed")
    state = read_state(sweep)
    failed = [cell for cell in chosen if state.cells[cell.id] in (FAILED, INTERRUPTED)]
    if not failed:
        what = " ".join(f"--set {key}" for key in others)
        raise SettingsError(f"--retry-failed {what}: no cell of {sweep.name} has failed; leave out --retry-failed")
    amended = dict(read_amended(sweep.folder))
    for cell in failed:
        amended[cell.place] = {**amended.get(cell.place, {}), **others}
    return make(amended=amended)


def write_amended(sweep: Sweep) -> None:
    """Keep which cells have other settings than the grid gives them; under the sweep's lock."""
    rows = {cell.place: dict(cell.amended) for cell in sweep.cells if cell.amended}
    write_text(sweep.folder / AMENDED, json.dumps(rows, indent=1) + "\n")
