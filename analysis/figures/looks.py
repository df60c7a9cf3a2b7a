"""What figures are made for: a paper, or slides. Knowing it imports no matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PAPER, SLIDES = "paper", "slides"
LOOKS = (PAPER, SLIDES)
_look = ContextVar("look", default=PAPER)


@contextmanager
def look(name: str) -> Iterator[None]:
    """Figures that are drawn and written here are for this, one of LOOKS."""
    token = _look.set(name)
    try:
        yield
    finally:
        _look.reset(token)


def for_slides() -> bool:
    """Whether figures are for slides just now."""
    return _look.get() == SLIDES
