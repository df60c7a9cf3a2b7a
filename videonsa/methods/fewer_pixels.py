"""A control: fewer pixels of each frame. The sampling makes frames smaller, before the tower; attention is dense."""

from __future__ import annotations

from videonsa.methods.contract import Method


class FewerPixels(Method):
    """Dense attention to what the sampling gives (`MethodSettings.sampling`)."""
