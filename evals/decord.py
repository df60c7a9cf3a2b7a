"""decord, where it is not installed: lmms-eval's LongVideoBench imports it at its top, and reads no video with it.

Our model takes files and reads them with PyAV. decord is no dependency: it has wheels for x86 alone.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from videonsa.config import SettingsError

NAMES = ("VideoReader", "cpu", "gpu")


def importable() -> None:
    """Make `import decord` work; what it then names refuses to be used, in one line. The true one stays, if there."""
    if "decord" in sys.modules or find_spec("decord") is not None:
        return
    module = ModuleType("decord", __doc__)
    module.__spec__ = ModuleSpec("decord", None)
    for name in NAMES:
        setattr(module, name, _refuse)
    sys.modules["decord"] = module


def _refuse(*_: Any, **__: Any) -> Any:
    raise SettingsError(
        "this task reads frames with decord, which is not installed: pip install decord, or take whole videos"
    )
