"""Dense causal attention, stock Qwen2.5-VL's: what every other method is compared with."""

from __future__ import annotations

from videonsa.methods.contract import Method


class Dense(Method):
    """Attends densely. The model asks it only where someone looks on: else its stock layers run as they are."""

    trains = True
