"""What a video shows, cheaply, token by token: how much moves, cuts, still scenes, edges; and where the token stands.

Taken from the pixels that the model is given, in units of their spread as the processor scales them (about 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from evals.observers.contract import Piece, SeenVideo

POSITION = ("time", "row", "column")  # each 0 to 1: in the video, and in the frame
CONTENT = (
    "motion",  # mean absolute difference of the token's pixels to those at its place a temporal patch before
    "cut",  # 1 where the whole patch's motion is CUT and more, and CUT_TIMES the video's median
    "still",  # 1 where the whole patch's motion is STILL or less
    "edges",  # share of the token's pixels whose brightness changes by EDGE to the next one: text, and fine structure
)
CUT, CUT_TIMES, STILL, EDGE = 0.5, 3.0, 0.02, 0.5
AT_ONCE = 1 << 24  # pixel values that are looked at together: 64 MiB, and a few copies


def measures(video: SeenVideo) -> tuple[Tensor, Tensor]:
    """(places [M], measures [M, 3 + 4 + 4]) of the tokens of a question's videos, but for those of first patches.

    places: among the question's vision tokens. Measures: POSITION, CONTENT, and CONTENT shifted by half the video: as
    smooth, and of nothing that is there, so it tells what a regression finds by chance. A first patch has nothing
    before it; images have no time. Videos of fewer than three patches are left out: nothing of theirs can be shifted.
    """
    found = [(piece.first, piece, *_of_video(video, piece)) for piece in video.pieces if _moves(piece)]
    if not found:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, len(POSITION) + 2 * len(CONTENT))
    places, rows = [], []
    for first, piece, position, content in found:
        shifted = content.roll(len(content) // 2, dims=0)
        rows.append(torch.cat([position, content, shifted], dim=-1).flatten(0, 2))
        skipped = piece.grid[1] * piece.grid[2]
        places.append(torch.arange(first + skipped, first + piece.tokens))
    return torch.cat(places), torch.cat(rows)


def _moves(piece: Piece) -> bool:
    """Of fewer than three patches one is left without the first, and nothing of another time to shift it to."""
    return piece.kind == "video" and piece.grid[0] > 2


def _of_video(video: SeenVideo, piece: Piece) -> tuple[Tensor, Tensor]:
    """Position and content of the tokens of all patches but the first: [T - 1, H, W, 3] and [T - 1, H, W, 4]."""
    time, height, width = piece.grid
    motion, edges = (each.cpu() for each in _by_patch(video, piece))  # a scene's pixels lie where it was drawn
    whole = motion.flatten(1).mean(1)
    cut = ((whole >= CUT) & (whole >= CUT_TIMES * whole.median())).float()
    still = (whole <= STILL).float()
    content = torch.stack(
        [motion, *(each[:, None, None].expand_as(motion) for each in (cut, still)), edges[1:]], dim=-1
    )
    axes = (torch.linspace(0, 1, count) for count in (time, height, width))
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[1:]
    return position, content


def _by_patch(video: SeenVideo, piece: Piece) -> tuple[Tensor, Tensor]:
    """Motion of each token of all patches but the first [T - 1, H, W], and edges of every one's [T, H, W]."""
    time = piece.grid[0]
    values = video.pixels(piece, slice(0, 1)).numel()
    step = max(1, AT_ONCE // values)
    motion, edges, before = [], [], None
    for start in range(0, time, step):
        brightness = video.pixels(piece, slice(start, start + step)).float().mean(3)  # [t, H, W, frames, y, x]
        edges.append(_edges(brightness))
        joined = brightness if before is None else torch.cat([before, brightness])
        motion.append((joined[1:] - joined[:-1]).abs().flatten(3).mean(3))
        before = brightness[-1:]
    return torch.cat(motion), torch.cat(edges)


def _edges(brightness: Tensor) -> Tensor:
    """Share of steps to the next pixel of a row or column, within the token, that are EDGE and more."""
    steps = [brightness.diff(dim=dim).abs() >= EDGE for dim in (-1, -2)]
    return sum((step.flatten(3).float().mean(3) for step in steps), torch.zeros(())) / len(steps)
