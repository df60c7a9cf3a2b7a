"""Attention maps of a video: what each part of it gives to each earlier part (paper, figures 10 to 13).

A map has bins of queries by bins of keys over the vision tokens, all of one length but for a token. Its number is the
mean attention probability over a bin's pairs of a query and a key that is no later, and over query heads; NaN where
there is no such pair. A block's probability falls on its tokens in equal parts, and the gated sum weighs each branch's
by its gate, as in evals/sinks.py.

No matrix is formed: the sum of a query's probabilities over the keys of a bin is attention's output for values that are
1 in that bin and 0 elsewhere, so one forward makes as many columns of the map as a head has numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from evals.branches import attend, parts
from evals.observers.contract import Observer, SeenLayer, SeenVideo
from videonsa.config import NSASettings
from videonsa.modeling import AttentionInputs

BINS = 256  # of queries, and of keys


def attention_maps(inputs: AttentionInputs, nsa: NSASettings, bins: int = BINS) -> dict[str, Tensor]:
    """{branch, gated, dense: [n, n] float32 on the CPU} of one video of N tokens, n = min(bins, N).

    dense: causal attention over the same queries and keys. Memory is that of a forward of the branches.
    """
    length = inputs.query.shape[1]
    bins = min(bins, length)
    bin_N = torch.arange(length, device=inputs.query.device) * bins // length
    pairs = causal_pairs(bin_N.bincount(minlength=bins).cpu())
    return {part: (_sums(inputs, nsa, part, bin_N, bins) / pairs).float() for part in parts(nsa)}


def causal_pairs(width: Tensor) -> Tensor:
    """Pairs of a query and a key that is no later, by bins of these widths [n]: [n, n] float64, NaN for none."""
    width = width.double()
    pairs = width[:, None] * width
    pairs.diagonal().copy_(width * (width + 1) / 2)
    return pairs.masked_fill(torch.ones_like(pairs, dtype=torch.bool).triu(1), torch.nan)


def _sums(inputs: AttentionInputs, nsa: NSASettings, part: str, bin_N: Tensor, bins: int) -> Tensor:
    """Probabilities summed over the pairs of each bin, mean over heads, [bins, bins] float64."""
    size, columns = inputs.value.shape[-1], []
    for start in range(0, bins, size):
        here_N = (bin_N - start).where((bin_N >= start) & (bin_N < start + size), size)
        value_N1D = one_hot(here_N, size + 1)[:, None, :size].to(inputs.value.dtype)
        output = attend(inputs, nsa, part, value_N1D.expand(inputs.value.shape[1:])[None])
        output_ND = output[0].mean(1, dtype=torch.float32).double()
        sums = output_ND.new_zeros(bins, size).index_add_(0, bin_N, output_ND)
        columns.append(sums[:, : bins - start].cpu())
    return torch.cat(columns, dim=1)


class Maps(Observer):
    """Keeps the maps of the first, the middle and the last layer, of the probe's first video alone: 4 MiB.

    Looking takes two forwards of each part in these layers, at heads of 128.
    """

    def __init__(self, nsa: NSASettings) -> None:
        super().__init__(nsa)
        self.video: int | None = None
        self.layers: dict[int, dict[str, Tensor]] = {}
        self.about: dict[str, list[int]] = {}

    def look(self, layer: SeenLayer, video: SeenVideo) -> None:
        """Of the first video."""
        if self.video is None:
            self.video, self.about = video.index, spans(layer, video)
        if video.index == self.video and layer.number in chosen(video.layers):
            self.layers[layer.number] = attention_maps(layer.inputs, layer.nsa)

    def arrays(self) -> dict[str, np.ndarray]:
        """Of each part its maps [layers, n, n]; layers; and what `spans` says."""
        layers = sorted(self.layers)
        names = self.layers[layers[0]] if layers else ()
        maps = {name: torch.stack([self.layers[layer][name] for layer in layers]).numpy() for name in names}
        about = {name: np.array(values, dtype=np.int64) for name, values in self.about.items()}
        return maps | about | {"layers": np.array(layers, dtype=np.int64)}


def chosen(layers: int) -> tuple[int, ...]:
    """The first, the middle and the last of so many."""
    return tuple(sorted({0, layers // 2, layers - 1}))


def spans(layer: SeenLayer, video: SeenVideo) -> dict[str, list[int]]:
    """What stands where among the tokens of a map.

    tokens, block_size, frame: tokens of the map, of a block, and of a temporal patch of the first image or video;
    starts: the first token of each image and video; text_at, text_tokens: before which token of the map text stands in
    the prompt, and how much (before token N: after the last).
    """
    shows = video.question.inputs["mm_token_type_ids"][0] > 0
    places = layer.places.cpu()
    where = shows.nonzero()[:, 0]  # of each vision token in the prompt
    edges = torch.cat([where.new_tensor([-1]), where, where.new_tensor([len(shows)])])
    text = edges.diff() - 1
    rows = torch.searchsorted(places.cummax(0).values, torch.arange(len(where)))  # of vision tokens in the map
    rows = torch.cat([rows, rows.new_tensor([len(places)])])
    height, width = video.pieces[0].grid[1:]
    return {
        "tokens": [len(places)],
        "block_size": [layer.nsa.block_size],
        "frame": [height * width],
        "starts": rows[[piece.first for piece in video.pieces]].tolist(),
        "text_at": rows[text > 0].tolist(),
        "text_tokens": text[text > 0].tolist(),
    }
