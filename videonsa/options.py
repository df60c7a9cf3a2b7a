"""What our commands have in common: wrong input is one line, and an option without a value is refused. No torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from videonsa.limit import REACHED
from videonsa.places import place
from videonsa.values import SettingsError, one_line, plain_text, scalar

MINUTES = f"the most that this call takes: it saves, leaves with exit code {REACHED}, and goes on when called again"


class Parser(argparse.ArgumentParser):
    """argparse's, but a refusal is one line; the exit code is 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, one_line(f"{self.prog}: error: {message} (--help shows all options)") + "\n")


def text(given: str) -> str:
    """The value of an option; an empty one comes from a variable that is not set, and means nothing."""
    if not given.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    try:
        return plain_text(given, "the value")
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(given: str) -> int:
    """A whole number of at least 1."""
    value = scalar(text(given).strip(), "the value") if len(given) < 10 else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise argparse.ArgumentTypeError("give a whole number of at least 1")
    return value


def folder(given: str) -> Path:
    """A path, with ~ for the home folder, also where the shell leaves it as it is (--out=~/runs)."""
    try:
        return place(text(given))
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
