"""Checkpoints to resume from: a folder appears whole, by a rename, or not at all; the newest few are kept.

checkpoints/000200/{progress.json, model and optimizer as accelerate writes them}
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError, safe_open

from videonsa.disk import publish, writing

log = logging.getLogger(__name__)

KEPT = 2


@contextmanager
def drafted(place: Path, needed: int, main: bool) -> Iterator[Path]:
    """A draft that several processes fill and the main one gives its name, `place`, when the block ends well.

    `needed`: bytes that will go there, about: by them a full disk is told from others, where torch says but "failed".
    One that was left half written is removed: it would fill the disk on which the next try needs its room.
    Raises DiskError when the disk is full or fails; what stood at `place` before is then untouched.
    """
    draft = place.with_name(f".{place.name}")
    with writing(place, needed):
        try:
            if main:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
            yield draft
            if main:
                shutil.rmtree(place, ignore_errors=True)
                publish(draft, place)
        except BaseException:
            if main:
                shutil.rmtree(draft, ignore_errors=True)
            raise


def save_checkpoint(
    accelerator: Accelerator, folder: Path, step: int, progress: dict[str, Any], needed: int = 0
) -> None:
    """Write the state after `step` steps, of about `needed` bytes; called by every process. Raises DiskError."""
    main = accelerator.is_main_process
    with drafted(folder / f"{step:06d}", needed, main) as draft:
        accelerator.wait_for_everyone()
        accelerator.save_state(str(draft))
        accelerator.wait_for_everyone()
        if main:
            (draft / "progress.json").write_text(json.dumps({"step": step, **progress}), encoding="utf-8")
    if main:
        for old in finished(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def restore_checkpoint(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Load the newest whole checkpoint, if there is one; returns its progress ({"step": 0} without one).

    The main process says which: on a shared file system the others may not see the newest one yet, and would go on
    from another step than it.
    """
    place = None
    if accelerator.is_main_process:
        for draft in folder.glob(".[0-9]*"):  # that a kill left
            shutil.rmtree(draft, ignore_errors=True)
        place = next(filter(is_whole, reversed(finished(folder))), None)
    newest = torch.tensor(int(place.name) if place else 0, device=accelerator.device)
    place = folder / f"{int(broadcast(newest)):06d}"
    if int(place.name) == 0:
        return {"step": 0}
    accelerator.load_state(str(place))
    return json.loads((place / "progress.json").read_text(encoding="utf-8"))


def is_whole(place: Path) -> bool:
    """Whether a checkpoint's files end where they should: disks lose what they had, copies break off."""
    broken = [file.name for file in place.iterdir() if not _ends(file)]
    if broken:
        log.warning("checkpoint %s is not taken: %s cut short", place.name, ", ".join(broken))
    return not broken


def _ends(file: Path) -> bool:
    """A file of weights or of torch.save is whole; others are not looked at."""
    if file.suffix in (".bin", ".pkl"):
        return is_zipfile(file)
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                return True
        except SafetensorError:
            return False
    return True


def finished(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first; a draft's name begins with a dot."""
    places = [place for place in folder.glob("[0-9]*") if (place / "progress.json").is_file()]
    return sorted(places, key=lambda place: int(place.name))
