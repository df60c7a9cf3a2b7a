"""Native sparse attention as a function: `nsa_attention`, its torch reference and its Triton kernels."""

from videonsa.kernels.api import nsa_attention

__all__ = ["nsa_attention"]
