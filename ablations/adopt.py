"""--adopt: finished records of an earlier form of identities get their new names, where they can stand. No torch.

A record can stand when each input that its number is asked to have today is shown by it (ablations/evidence.py) and is
the one that is asked. Nothing is computed, and nothing is deleted: a folder gets another name, its record the new
identity, and where it was called otherwise. The rest are listed with what is missing or other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime

from ablations.cell import Cell
from ablations.history import Earlier, open_ends, read_history
from ablations.inputs import identity_record
from ablations.plan import Sweep, write_plan
from ablations.records import KINDS, folder_of
from ablations.state import read_state
from videonsa.lock import Lock
from videonsa.record import read_record, write_record

NAMES = {"training": "training", "evaluation": "cell", "probe": "probe"}


def adopt(sweep: Sweep, cells: Iterable[Cell]) -> str:
    """Give new names to what can stand for these cells; returns what was done, a line each. Raises LockHeld."""
    with Lock(sweep.folder / "lock"):
        history = read_history(sweep)
        found = [history.nearest(what) for what in open_ends(sweep, read_state(sweep), cells)]
        earlier = [one for one in found if one is not None]
        for one in earlier:
            if one.counts:
                rename(sweep, one)
        if any(one.counts for one in earlier):
            write_plan(sweep)
    lines = [_line(one) for one in earlier]
    stand = sum(one.counts for one in earlier)
    return "\n".join([*lines, f"{stand} of {len(earlier)} finished records stand under their new names"])


def rename(sweep: Sweep, earlier: Earlier) -> None:
    """Its record with the new identity first, then the folder's new name: cut short, the same command goes on."""
    what, old = earlier.what, earlier.folder
    record = read_record(old / "record.json")
    assert record is not None
    note = {"id": record["id"], "version": earlier.version, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    record |= {"id": what.id, "identities": what.identities, "identity": identity_record(what.inputs)}
    record["adopted"] = record.get("adopted") or note
    new = folder_of(sweep.out, what)
    if new.exists():  # of an attempt that failed
        os.replace(new, new.with_name(f".{new.name}.{note['id']}"))
    write_record(old / "record.json", record)
    os.rename(old, new)


def _line(earlier: Earlier) -> str:
    what = earlier.what
    name = str(what) if isinstance(what, Cell) else f"{NAMES[KINDS[type(what)]]} {earlier.folder.name}"
    if earlier.counts:
        return f"  adopted  {name}: {earlier.folder.name} is {what.id} now"
    return f"  not      {name} ({earlier.folder.name}): {'; '.join([*earlier.changed, *earlier.missing])}"
