"""Frames of scenes by torch, on any device, the same to the last bit on each: integers alone, and no order of sums.

A frame is what videonsa/synth/canvas.py draws, in other random numbers: a grey level, a coarse texture, fine noise, two
grey squares, and the scene's own. It is drawn in 56 x 56 units, and made as large as it is to be by repeating them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videonsa.synth.canvas import CELLS, UNITS
from videonsa.synth.hashing import MASK, below, mix, number
from videonsa.synth.sample import Sample
from videonsa.synth.scene import Scene

AT_ONCE = 2048  # frames: some hundred MB of 64-bit numbers
GREYS = 2  # grey squares of each frame
TEXTURE, NOISE, SQUARES = 1, 64, 4096  # places of a frame's random numbers; 0 is its level


def draw(scenes: Sequence[Scene], device: torch.device | str = "cpu", indices: np.ndarray | None = None) -> Tensor:
    """The scenes' frames, uint8 RGB [scenes, T, size, size, 3].

    Args:
        scenes: of equally many frames and one size.
        indices: [T], which frames; None: all.
    """
    frames, size = scenes[0].frames, scenes[0].size
    assert all((scene.frames, scene.size) == (frames, size) for scene in scenes)
    times = np.arange(frames) if indices is None else np.asarray(indices)
    each = max(1, AT_ONCE // len(scenes))
    parts = [_draw(scenes, torch.device(device), times[at : at + each]) for at in range(0, len(times), each)]
    return _enlarged(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), size)


def draw_each(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> list[Tensor]:
    """Frames of each scene, uint8 [T, size, size, 3]: at once, where they are alike."""
    if len({(scene.frames, scene.size) for scene in scenes}) == 1:
        return list(draw(scenes, device))
    return [draw([scene], device)[0] for scene in scenes]


def frames_of(sample: Sample) -> np.ndarray:
    """Of any family's sample, uint8 [T, H, W, 3]."""
    return draw([sample.video])[0].numpy() if isinstance(sample.video, Scene) else sample.video


def _draw(scenes: Sequence[Scene], device: torch.device, times: np.ndarray) -> Tensor:
    """In units: [B, T, 56, 56, 3]."""
    keys = torch.tensor([[scene.key >> 32, scene.key & MASK] for scene in scenes]).to(device, non_blocking=True)
    at = torch.from_numpy(times.astype(np.int64)).to(device, non_blocking=True)
    frame_BT = mix(number(keys[:, 1:], at) ^ keys[:, :1])
    grey_BTHW = _background(frame_BT)
    rgb = grey_BTHW[..., None].expand(*grey_BTHW.shape, 3)
    for box_BTN in _layers(scenes, times).to(device, non_blocking=True).unbind(1):
        top, left, side = box_BTN[..., :3].unbind(-1)
        rgb = torch.where(_inside(top, left, side)[..., None], box_BTN[..., None, None, 3:].to(torch.uint8), rgb)
    return rgb


def _background(frame_BT: Tensor) -> Tensor:
    """uint8 [B, T, 56, 56]; a frame's numbers are drawn under its own key."""
    device = frame_BT.device

    def drawn(first: int, count: int) -> Tensor:
        return number(frame_BT[..., None], torch.arange(first, first + count, device=device))

    level = 50 + below(number(frame_BT, 0), 100)
    cells = below(drawn(TEXTURE * CELLS**2, CELLS**2), 40).unflatten(-1, (CELLS, CELLS))
    texture = cells.repeat_interleave(UNITS // CELLS, -1).repeat_interleave(UNITS // CELLS, -2)
    noise = below(drawn(NOISE * CELLS**2, UNITS**2), 20).unflatten(-1, (UNITS, UNITS))
    grey = (level[..., None, None] + texture + noise).to(torch.uint8)
    for square in range(GREYS):
        bits = drawn(SQUARES * CELLS**2 + 4 * square, 4)
        side = 10 + below(bits[..., 0], 10)
        top, left = (below(bits[..., 1 + axis], UNITS + 1 - side) for axis in (0, 1))
        shade = below(bits[..., 3], 200).to(torch.uint8)  # never the white of a marker
        grey = torch.where(_inside(top, left, side), shade[..., None, None], grey)
    return grey


def _inside(top: Tensor, left: Tensor, side: Tensor) -> Tensor:
    """Which units of a frame a square covers, bool [..., 56, 56]; of side 0: none."""
    axis = torch.arange(UNITS, device=top.device)
    rows, columns = ((axis >= low[..., None]) & (axis < (low + side)[..., None]) for low in (top, left))
    return rows[..., :, None] & columns[..., None, :]


def _layers(scenes: Sequence[Scene], times: np.ndarray) -> Tensor:
    """Each frame's squares, one a layer, in the order in which they are painted; int16 [B, layers, T, 6]."""
    shown = [[(times >= box.first) & (times < box.end) for box in scene.boxes] for scene in scenes]
    most = max((int(np.sum(each, axis=0).max()) for each in shown if each), default=0)
    table = np.zeros((len(scenes), most, len(times), 6), np.int16)
    for layers, scene, visible in zip(table, scenes, shown, strict=True):
        used = np.zeros(len(times), int)
        for box, here in zip(scene.boxes, visible, strict=True):
            layers[used[here], np.flatnonzero(here)] = box[2:]
            used += here
    return torch.from_numpy(table)


def _enlarged(rgb: Tensor, size: int) -> Tensor:
    """From units to pixels: each shows the unit at its place."""
    if size == UNITS:
        return rgb.contiguous()
    unit = torch.arange(size, device=rgb.device) * UNITS // size
    return rgb[:, :, unit][:, :, :, unit]
