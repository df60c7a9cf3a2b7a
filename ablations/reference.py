"""Which variant a sweep's others are compared with, where its grid does not name one. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from ablations.cell import Cell, Training, make_training
from ablations.grid import Grid, Variant
from ablations.profile import Profile
from videonsa.config import TrainSettings


def find_reference(grid: Grid, profile: Profile, cells: Sequence[Cell]) -> str | None:
    """The grid's `reference`, else the label of the variant that is asked as its model was made.

    Of several such, the one whose model most variants share, then the one that shows videos as the training did; with
    `asks: train` the one that is trained as the profile and the grid's base say. None when that leaves not exactly one.
    """
    if grid.reference is not None:
        return grid.reference
    planned = [cell for cell in cells if not cell.amended]
    found = [cell for cell in planned if cell.method is None and cell.nsa == cell.training.made]
    if grid.asks == "train":
        plain = {_plain(grid, profile, cell).id for cell in planned[:1]}
        found = [cell for cell in found if cell.training.id in plain]
    for narrow in (_of_the_shared_model, _as_seen_in_training):
        if len(_labels(found)) > 1:
            found = narrow(found, planned)
    labels = _labels(found)
    return labels[0] if len(labels) == 1 else None


def _labels(cells: Collection[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.label for cell in cells))


def _plain(grid: Grid, profile: Profile, cell: Cell) -> Training:
    """The training of the profile's recipe with the grid's base alone."""
    base = {**grid.base, "checkpoint": None}
    return make_training(Variant("base", base), grid, profile, cell.seed, cell.training.facts)


def _of_the_shared_model(found: list[Cell], planned: Sequence[Cell]) -> list[Cell]:
    sharing = Counter(model for model, _ in {(_model(cell.training), cell.label) for cell in planned})
    most = [model for model, count in sharing.items() if count == max(sharing.values())]
    return [cell for cell in found if _model(cell.training) == most[0]] if len(most) == 1 else found


def _model(training: Training) -> tuple[str | None, TrainSettings | None]:
    """What tells models apart, but for the seed of their training."""
    return training.checkpoint, training.settings and replace(training.settings, seed=0)


def _as_seen_in_training(found: list[Cell], planned: Sequence[Cell]) -> list[Cell]:
    """Cells of as many frames as the training's longest videos, and of its tokens a frame: those of a block."""
    return [
        cell
        for cell in found
        if cell.training.settings
        and cell.suite.frames == max(cell.training.settings.frames)
        and cell.suite.tokens_per_frame == cell.training.nsa.block_size
    ]
