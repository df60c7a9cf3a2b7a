"""One branch of NSA alone, the gated sum of them, and dense attention, of the same inputs: what observers ask for.

As the paper defines them, whatever the semantics: queries, keys and values are those of the vision tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videonsa.config import BRANCHES, NSASettings
from videonsa.kernels import nsa_attention
from videonsa.modeling import AttentionInputs

GATED, DENSE = "gated", "dense"
EVERYTHING = 1 << 30  # a window that sees all before it; one number for all lengths, for each of which kernels compile


def parts(nsa: NSASettings) -> tuple[str, ...]:
    """The branches, gated and dense."""
    return (*(name for name in BRANCHES if name in nsa.branches), GATED, DENSE)


def attend(inputs: AttentionInputs, nsa: NSASettings, part: str, value: Tensor | None = None) -> Tensor:
    """[1, N, Hq, D]: a branch with gates of 1, the gated sum, or dense causal attention.

    value: in place of the inputs' own.
    """
    return nsa_attention(
        inputs.query,
        inputs.key,
        inputs.value if value is None else value,
        inputs.gates if part == GATED else torch.ones_like(inputs.gates),
        block_size=nsa.block_size,
        block_count=nsa.block_count,
        window=EVERYTHING if part == DENSE else nsa.window,
        branches={GATED: nsa.branches, DENSE: ("swa",)}.get(part, (part,)),
        backend=nsa.backend,
    )
