"""A control: fewer frames of each video. The sampling leaves them out, before the tower; attention is dense."""

from __future__ import annotations

from videonsa.methods.contract import Method


class FewerFrames(Method):
    """Dense attention to what the sampling gives (`MethodSettings.sampling`)."""
