"""Drawing on uint8 frames: grey flickering backgrounds and coloured squares. Lengths are in units of 1/56 frame."""

import numpy as np

UNITS = 56  # a frame is 56 units wide, whatever its size in pixels: one vision token is 28 px, so 2 x 2 tokens at 56 px
CELLS = 8  # the coarse grey texture has 8 x 8 cells

COLORS = {
    "red": (255, 0, 0),
    "green": (0, 190, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "orange": (255, 130, 0),
    "pink": (255, 160, 200),
}
WHITE = (255, 255, 255)
NUMBERS = ("one", "two", "three", "four")


def background(rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
    """Grey frames uint8 [frames, size, size, 3], each drawn on its own: nothing in them tells the order of time.

    A frame is a random grey level, a coarse texture, fine noise and two grey squares at random places (distractors).
    """
    level = rng.integers(50, 150, (frames, 1, 1), dtype=np.uint8)
    texture = rng.integers(0, 40, (frames, CELLS, CELLS), dtype=np.uint8)
    cell = -(-size // CELLS)
    grey = (level + texture).repeat(cell, axis=1).repeat(cell, axis=2)[:, :size, :size]
    grey = grey + rng.integers(0, 20, (frames, size, size), dtype=np.uint8)
    for _ in range(2):
        sides = rng.integers(10, 20, frames)
        corners = rng.random((frames, 2)) * (UNITS - sides)[:, None]
        shades = rng.integers(0, 200, frames)  # never the white of a marker
        low = np.rint(corners * size / UNITS).astype(int)
        high = np.rint((corners + sides[:, None]) * size / UNITS).astype(int)
        for frame, (top, left), (bottom, right), shade in zip(grey, low.tolist(), high.tolist(), shades, strict=True):
            frame[top:bottom, left:right] = shade
    return np.repeat(grey[..., None], 3, axis=3)


def box(size: int, top: float, left: float, side: float) -> tuple[slice, slice]:
    """Row and column slices, in pixels, of a square given in units."""
    scale = size / UNITS
    rows = slice(round(top * scale), round((top + side) * scale))
    return rows, slice(round(left * scale), round((left + side) * scale))


def tint(rng: np.random.Generator, rgb: tuple[int, int, int]) -> np.ndarray:
    """The colour with a little random shift, uint8 [3]."""
    return np.clip(np.array(rgb) + rng.normal(0, 8, 3), 0, 255).astype(np.uint8)


def paint(video: np.ndarray, color: np.ndarray, top: float, left: float, side: float) -> None:
    """Paint one square, in place, on every frame of `video` [T, H, W, 3]."""
    rows, columns = box(video.shape[1], top, left, side)
    video[:, rows, columns] = color


def paint_anywhere(rng: np.random.Generator, video: np.ndarray, color: np.ndarray, ring: bool = False) -> None:
    """Paint a square of random side (16 to 27 units) at a random place; with a white ring around it if asked."""
    side = int(rng.integers(16, 28))
    top, left = rng.integers(RING, UNITS - side - RING + 1, 2).tolist()
    if ring:
        paint(video, np.array(WHITE, np.uint8), top - RING, left - RING, side + 2 * RING)
    paint(video, color, top, left, side)


RING = 4  # width of a ring, in units
