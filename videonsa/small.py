"""Small models that are made on the spot, by name: their shapes. tiny.py builds them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

PATCH = 14  # px; a vision token covers 2 x 2 patches of 2 frames
TOKEN = 2 * PATCH  # px of a vision token's side


@dataclass(frozen=True)
class Small:
    """Qwen2.5-VL in small."""

    heads: int  # of queries
    kv_heads: int
    head_size: int
    layers: int
    intermediate: int  # of the decoder's feed-forward layers
    tower_hidden: int
    tower_heads: int
    tower_layers: int  # the last of them sees whole frames
    frame: int  # px of a frame's side while training
    rope_theta: float
    initial_std: float  # of weights
    longest: int  # positions
    is_long: bool = False  # knows the words of the long families, else of the short ones

    @property
    def hidden(self) -> int:
        return self.heads * self.head_size


SMALL = {
    # 0.36M parameters, learns on two CPU cores. The answer is a word, one token; high position frequencies for all
    # three axes; initial weights of 0.1 (with 0.05, questions about order are learned late or not at all).
    "tiny": Small(
        *(4, 2, 16, 3, 128),
        *(64, 2, 1),
        frame=2 * TOKEN,
        rope_theta=10.0,
        initial_std=0.1,
        longest=4096,
    ),
    # 19M parameters for one GPU, at the paper's sizes: seven query heads a key/value head as in Qwen2.5-VL-7B, 64
    # tokens a frame patch, and positions for 128K tokens: slow frequencies, to compare times that lie far apart.
    "study": Small(
        *(14, 2, 64, 4, 640),
        *(128, 4, 2),
        frame=8 * TOKEN,
        rope_theta=1e4,
        initial_std=0.03,
        longest=1 << 18,
        is_long=True,
    ),
}
