"""What the methods that keep some of the vision tokens share. Attention among the tokens that are left is dense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from videonsa.methods.contract import Batch, Item, Method
from videonsa.methods.tokens import top


class Compression(Method):
    """Drops vision tokens, before layer 0 (`compress`) or before a later one (`enters`)."""

    def prepare(self, embeds: Tensor) -> Tensor:
        """Raises ValueError for samples packed into a row."""
        if len(self.batch.samples) > len(embeds):
            raise ValueError(
                f"method {self.settings.name} drops tokens of prompts that have a row each; these are packed"
            )
        self.entering: Tensor | None = None
        for clock in {id(item.clock): item.clock for item in self.items if item.clock is not None}.values():
            self.meter.chose(0, clock)
        with self.meter.choice(0):
            return self.compress(embeds)

    def compress(self, embeds: Tensor) -> Tensor:
        """Embeddings [B, L, hidden] in and out; `self.entering` tells which of them layer 0 gets, bool [B, L]."""
        return embeds

    def enters(self, layer: int, hidden_states: Tensor, module: Any) -> Tensor | None:
        """What `compress` has chosen."""
        return self.entering if layer == 0 else None


@dataclass(frozen=True)
class Media:
    """An image or a video of the prompt and the places of its tokens."""

    row: int
    places: Tensor  # [time * height * width]
    item: Item


class FromTower(Compression):
    """Keeps equally many tokens of each temporal patch, by what the vision tower said of them."""

    def compress(self, embeds: Tensor) -> Tensor:
        embeds, kept = embeds.clone(), self.batch.is_token & ~self.batch.is_vision
        for media in find_media(self.batch, self.items):
            time, height, width = media.item.grid
            seen = {name: found.unflatten(0, (time, -1)).to(embeds.device) for name, found in media.item.seen.items()}
            places = media.places.view(time, height * width)
            chosen, merged = self.merge(embeds[media.row, places], seen, (height, width))
            places = places.gather(1, chosen)
            embeds[media.row, places] = merged.to(embeds.dtype)
            kept[media.row, places] = True
        self.entering = kept
        return embeds

    def merge(self, tokens: Tensor, seen: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Of the tokens [T, n, hidden] of T temporal patches, n = height * width: which are kept, [T, k], ascending,
        and what they are from here on, [T, k, hidden]. `seen` as in `Method.watch`, [T, n, ...]."""
        raise NotImplementedError


def find_media(batch: Batch, items: list[Item]) -> list[Media]:
    """The prompt's images and videos. Raises ValueError where the tower did not encode them under this method."""
    found = []
    for kind in (1, 2):
        assert batch.kinds is not None
        rows, places = (batch.kinds == kind).nonzero(as_tuple=True)
        of_kind = [item for item in items if item.kind == kind]
        sizes = [prod(item.grid) for item in of_kind]
        if sum(sizes) != len(rows):
            raise ValueError(
                f"{len(rows)} tokens of the prompt's {'images' if kind == 1 else 'videos'} and {sum(sizes)} that the "
                "vision tower was watched for: give pixels, so that it encodes them under the method that is asked"
            )
        parts = zip(of_kind, rows.split(sizes), places.split(sizes), strict=True)
        found += [Media(int(row[0]), place, item) for item, row, place in parts]
    return found


def keeping(batch: Batch, kept: list[Tensor]) -> Tensor:
    """All text and, of each row, the vision tokens at these places: bool [B, L]."""
    mask = batch.is_token & ~batch.is_vision
    for row, places in enumerate(kept):
        mask[row, places] = True
    return mask


def by_row(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Of each row the places of its tokens, and which of these are vision."""
    rows = [row.nonzero().squeeze(1) for row in batch.is_token]
    return [(places, batch.is_vision[row, places]) for row, places in enumerate(rows)]


def keep_highest(batch: Batch, scores: list[Tensor], count: Callable[[int], int]) -> Tensor:
    """All text and, of each row, those count(n) of its n vision tokens that score highest, bool [B, L].

    scores: of each row's tokens, padding left out.
    """
    kept = []
    for (places, is_vision), found in zip(by_row(batch), scores, strict=True):
        vision = places[is_vision]
        kept.append(vision[top(found[is_vision], min(len(vision), count(len(vision))))])
    return keeping(batch, kept)
