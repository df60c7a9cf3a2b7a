"""Checkpoints to resume from: a folder appears whole, by a rename, or not at all; the newest few are kept.

checkpoints/000200/{progress.json, model and optimizer as accelerate writes them}
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

KEPT = 2


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, progress: dict[str, Any]) -> None:
    """Write the state after `step` steps; called by every process."""
    draft, place = folder / f".{step:06d}", folder / f"{step:06d}"
    if accelerator.is_main_process:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(draft))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (draft / "progress.json").write_text(json.dumps({"step": step, **progress}), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        for old in finished(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def restore_checkpoint(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Load the newest checkpoint, if there is one; returns its progress ({"step": 0} without one).

    The main process says which: on a shared file system the others may not see the newest one yet, and would go on
    from another step than it.
    """
    places = finished(folder)
    newest = torch.tensor(int(places[-1].name) if places else 0, device=accelerator.device)
    place = folder / f"{int(broadcast(newest)):06d}"
    if int(place.name) == 0:
        return {"step": 0}
    accelerator.load_state(str(place))
    return json.loads((place / "progress.json").read_text(encoding="utf-8"))


def finished(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first; a draft's name begins with a dot."""
    places = [place for place in folder.glob("[0-9]*") if (place / "progress.json").is_file()]
    return sorted(places, key=lambda place: int(place.name))
