"""Checkpoints to resume from: a folder appears whole, by a rename, or not at all; the newest few are kept.

checkpoints/000200/{progress.json, .metadata, __0_0.distcp, ...}: weights and AdamW's numbers by name, each process's
part as torch.distributed.checkpoint writes it. Any number of processes reads it back, whether they share the weights or
each has all.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from videonsa.disk import publish, writing

log = logging.getLogger(__name__)


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
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    step: int,
    progress: dict[str, Any],
    needed: int = 0,
    keep: int = 1,
) -> None:
    """Write the state after `step` steps, of about `needed` bytes; called by every process. The newest `keep` stay, the
    others go once it is complete. Raises DiskError."""
    main = accelerator.is_main_process
    with drafted(folder / f"{step:06d}", needed, main) as draft:
        accelerator.wait_for_everyone()
        with _first_failure():
            dcp.save(_state(model, optimizer), checkpoint_id=draft, no_dist=not dist.is_initialized())
        accelerator.wait_for_everyone()
        if main:
            files = {file.name: file.stat().st_size for file in draft.iterdir()}
            told = {"step": step, **progress, "files": files}
            (draft / "progress.json").write_text(json.dumps(told), encoding="utf-8")
    if main:
        earlier = [place for place in finished(folder) if int(place.name) < step]  # a later one may be a damaged one
        for old in earlier[: max(0, len(earlier) - keep + 1)]:
            remove(old)
    accelerator.wait_for_everyone()


def remove(place: Path) -> None:
    """Remove a checkpoint, or all of them; where a kill comes between, what is left has no checkpoint's name."""
    draft = place.with_name(f".{place.name}")
    shutil.rmtree(draft, ignore_errors=True)
    with suppress(FileNotFoundError):
        place.rename(draft)
    shutil.rmtree(draft, ignore_errors=True)


def restore_checkpoint(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path
) -> dict[str, Any]:
    """Load the newest whole checkpoint, if there is one; returns its progress ({"step": 0} without one).

    The main process says which: on a shared file system the others may not see the newest one yet, and would go on
    from another step than it.
    """
    place = None
    if accelerator.is_main_process:
        for draft in (*folder.glob(".[0-9]*"), folder.with_name(".final")):  # that a kill left
            shutil.rmtree(draft, ignore_errors=True)
        place = next(filter(is_whole, reversed(finished(folder))), None)
    newest = torch.tensor(int(place.name) if place else 0, device=accelerator.device)
    place = folder / f"{int(broadcast(newest)):06d}"
    if int(place.name) == 0:
        return {"step": 0}
    names = dcp.FileSystemReader(place).read_metadata().state_dict_metadata
    _fill(model, optimizer, names)
    with _first_failure():
        dcp.load(_state(model, optimizer), checkpoint_id=place, no_dist=not dist.is_initialized())
    return json.loads((place / "progress.json").read_text(encoding="utf-8"))


@contextmanager
def _first_failure() -> Iterator[None]:
    """torch gathers the processes' exceptions in one that is no Exception; the first of them says why."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is in one process
            yield
    except CheckpointException as gathered:
        raise next(iter(gathered.failures.values()))[0] from None


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that learn: the others are what the run started from."""
    weights = getattr(model, "module", model).named_parameters()
    return {name: weight for name, weight in weights if weight.requires_grad}


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and what AdamW keeps of each: its `step` and two moments, once it has moved."""
    state = {}
    for name, weight in _named(model).items():
        state[f"weights.{name}"] = weight.detach()
        for key, value in optimizer.state.get(weight, {}).items():
            state[f"adamw.{key}.{name}"] = value
    return state


def _fill(model: nn.Module, optimizer: torch.optim.Optimizer, names: Iterable[str]) -> None:
    """Give the optimizer the tensors, of zeros, that a checkpoint of these names holds."""
    weights = _named(model)
    for name in names:
        part, _, rest = name.partition(".")
        if part == "adamw":
            key, _, name = rest.partition(".")
            weight = weights[name]
            zeros = torch.zeros((), device=weight.device) if key == "step" else torch.zeros_like(weight.detach())
            optimizer.state[weight][key] = zeros


def is_whole(place: Path) -> bool:
    """Whether a checkpoint's files are as long as they were: disks lose what they had, copies break off."""
    files = json.loads((place / "progress.json").read_text(encoding="utf-8")).get("files", {})
    broken = [name for name, size in files.items() if _size(place / name) != size]
    if broken:
        log.warning("checkpoint %s is not taken: %s cut short", place.name, ", ".join(broken))
    return not broken


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def finished(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first; a draft's name begins with a dot."""
    places = [place for place in folder.glob("[0-9]*") if (place / "progress.json").is_file()]
    return sorted(places, key=lambda place: int(place.name))
