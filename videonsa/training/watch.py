"""Who looks on while a training is left alone: jumps of its loss, samples that do not come, being told to leave.

What is seen here is said, and ends the training where the settings say so; it changes no number.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from statistics import median
from typing import Any, TypeVar

from videonsa.limit import Limit

HISTORY = 100  # calm steps that a number is judged by
LEAST = 20  # of them, before any is judged: a training's first losses fall steeply
SPREADS = 10.0  # median absolute deviations above the median: 6.7 standard deviations, were it noise of that kind
LASTS = 3  # steps in a row: one batch may be odd
AT_ONCE = 4.0  # times the limit, where one step is enough
LEAST_RATIO = {"loss": 1.5, "gradient norm": 4.0}  # to the median: less is none, however calm it was before

T = TypeVar("T")


class Trouble(RuntimeError):
    """What was seen, where the settings say that it ends the training; raised in all processes at the same step."""


class Stalled(RuntimeError):
    """No samples came for too long, in this process."""


class Left(KeyboardInterrupt):
    """Told to leave, the training has saved its last step and goes: it is no failure, and goes on when asked again."""


class Jumps:
    """Whether a number goes up as it never did: far beyond the spread of its own recent past, and for some steps."""

    def __init__(self, name: str, calm: list[float]) -> None:
        self.name, self.ratio = name, LEAST_RATIO[name]
        self.calm = deque(calm, maxlen=HISTORY)
        self.high = 0  # steps in a row beyond the limit

    def see(self, value: float) -> str | None:
        """What is to be said of this step's value. Said once: the new level is judged by its own calm steps again."""
        if len(self.calm) >= LEAST:
            middle = median(self.calm)
            spread = median(abs(one - middle) for one in self.calm)
            limit = max(middle + SPREADS * spread, self.ratio * middle)
            if value > limit:
                self.high += LASTS if value > AT_ONCE * limit else 1
                if self.high < LASTS:
                    return None
                self.calm.clear()
                self.high = 0
                return f"{self.name} {value:.3g}, after a median of {middle:.3g} over {HISTORY} steps or fewer"
        self.high = 0
        self.calm.append(value)
        return None


class Watch:
    """Looks at each step's loss and gradient norm; `calm`: what `state` gave, of a training that goes on."""

    def __init__(self, calm: Mapping[str, list[float]] | None = None) -> None:
        self.jumps = [Jumps(name, (calm or {}).get(name, [])) for name in LEAST_RATIO]

    def see(self, loss: float, norm: float) -> str | None:
        """What is to be said of a step; None: nothing."""
        said = [jump.see(value) for jump, value in zip(self.jumps, (loss, norm), strict=True)]
        return "; ".join(filter(None, said)) or None

    @property
    def doubts(self) -> bool:
        """The last step was beyond the limit, and it is not clear yet whether that lasts: no time to save."""
        return any(jump.high for jump in self.jumps)

    @property
    def state(self) -> dict[str, list[float]]:
        """For a checkpoint."""
        return {jump.name: list(jump.calm) for jump in self.jumps}


class Waits:
    """Waits for samples; says who is waited for after `limit` seconds, after twice as many, and so on.

    Args:
        name: of a sample by its number, as it is told.
        say: is told, while it still waits.
        stop: raise Stalled at the limit instead of waiting on.
    """

    def __init__(self, limit: float, name: Callable[[int], str], say: Callable[[str], None], stop: bool) -> None:
        self.limit, self.name, self.say, self.stop = limit, name, say, stop
        self.seconds = 0.0  # waited, until somebody sets it back
        self.said: str | None = None  # likewise

    def __call__(self, reads: Mapping[int, Future[Any]], batch: Future[T]) -> T:
        """The finished batch, which is made of these samples. Raises what making it raised, and Stalled."""
        began, limit = time.perf_counter(), self.limit
        try:
            while True:
                try:
                    return batch.result(timeout=max(0.0, began + limit - time.perf_counter()))
                except TimeoutError:
                    if batch.done():  # its own
                        raise
                self.said = f"no samples for {limit:g} s: {self._who(reads)}"
                self.say(self.said)
                if self.stop:
                    raise Stalled(self.said)
                limit *= 2
        finally:
            self.seconds += time.perf_counter() - began

    def _who(self, reads: Mapping[int, Future[Any]]) -> str:
        late = [self.name(number) for number, read in reads.items() if not read.done()]
        more = f" and {len(late) - 3} more" if len(late) > 3 else ""
        return f"{', '.join(late[:3])}{more} not read yet" if late else "all are read, and not encoded yet"


class Leave:
    """Whether this process has been told to leave, or its time is up."""

    def __init__(self, limit: Limit | None = None) -> None:
        self.limit, self.heard = limit or Limit(), False

    @property
    def told(self) -> bool:
        """It is to save its last step and to go."""
        return self.heard or self.limit.reached

    @property
    def why(self) -> str:
        """In words."""
        return "told to leave" if self.heard or not self.limit.reached else "time is up"


@contextmanager
def told_by_sigterm(limit: Limit | None = None) -> Iterator[Leave]:
    """SIGTERM ends nothing while the context lasts, but is noted; beside the main thread it is not heard."""
    leave = Leave(limit)

    def note(*_: Any) -> None:
        leave.heard = True

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:
        yield leave
        return
    try:
        yield leave
    finally:
        signal.signal(signal.SIGTERM, before)
