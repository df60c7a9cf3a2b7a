"""A limit of time for a command that may run so long alone, and goes on when it is called again. Imports no torch."""

from __future__ import annotations

import time

REACHED = 75  # exit code, EX_TEMPFAIL of sysexits.h: not all is done, and the same command goes on
SAVE_SECONDS = 30.0  # before the end: for a training's last step and for saving it
START_SECONDS = 30.0  # a job that had less to work would hardly have loaded its model


class Limit:
    """When a command of so many minutes stops its work, and when it begins no more; None: never.

    began: when the command did, by time.monotonic(); None: now.
    """

    def __init__(self, minutes: float | None = None, began: float | None = None) -> None:
        began = time.monotonic() if began is None else began
        self.ends = float("inf") if minutes is None else began + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds left for work; after them what runs saves and goes."""
        return self.ends - SAVE_SECONDS - time.monotonic()

    @property
    def reached(self) -> bool:
        """What runs is to save what it has and to go."""
        return self.left <= 0

    @property
    def late(self) -> bool:
        """Nothing more is begun."""
        return self.left < START_SECONDS

    @property
    def over(self) -> bool:
        """What has not gone by now is ended."""
        return time.monotonic() >= self.ends
