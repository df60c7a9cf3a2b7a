"""Attention of some runs of a row's tokens: where a training's sample lies over several processes, each may take the
queries of its runs, and the keys and values of all tokens.

A query asks what is before it and nothing else: compression, choice of blocks, window and text go by the query's place
in its sample. So the tokens of a sample up to the end of a run are a sample of their own, whose last ones attend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Places = Tensor | slice  # indices that rise; a slice where they have no gaps, which copies nothing


@dataclass(frozen=True)
class Piece:
    """The tokens of a sample up to the end of a run, of which the last ones attend."""

    queries: Places  # among the queries of all rows, [B * R]
    keys: Places  # among the tokens of all rows, [B * L]


def pieces(samples: Iterable[Places], runs: Sequence[slice], length: int) -> list[Piece]:
    """The pieces of samples, flat indices in rows of `length` tokens, where queries are those of these runs of a row.

    A run in which a sample has no token makes no piece of it. Queries of a row follow one another run by run.
    """
    taken = sum(run.stop - run.start for run in runs)
    found = []
    for sample in samples:
        places = torch.arange(sample.stop)[sample] if isinstance(sample, slice) else sample.cpu()
        row = int(places[0]) // length
        before = row * taken
        for run in runs:
            edges = torch.tensor([run.start, run.stop]) + row * length
            first, last = torch.searchsorted(places, edges).tolist()
            if last > first:
                queries = places[first:last] - edges[0] + before
                found.append(Piece(*(find_places(part, sample) for part in (queries, places[:last]))))
            before += run.stop - run.start
    return found


def find_places(index: Tensor, like: Places) -> Places:
    """The rising index as a slice where it has no gaps, else on the device of `like`."""
    if not len(index):
        return slice(0, 0)
    first, last = int(index[0]), int(index[-1])
    if last - first == len(index) - 1:
        return slice(first, last + 1)
    return index.to(like.device) if isinstance(like, Tensor) else index
