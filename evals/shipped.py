"""What lmms-eval's shipped tasks take for granted, so that each of them can be loaded.

- decord: LongVideoBench's module imports it at its top, and reads no video with it: our model takes files and reads
  them with PyAV. It is no dependency: it has wheels for x86 alone.
- HF_HOME: where it is not set, MLVU looks for its videos in another folder than the one lmms-eval unpacks them to.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from videonsa.config import SettingsError

HF_HOME = "~/.cache/huggingface"  # lmms-eval's and huggingface_hub's own default
DECORD = ("VideoReader", "cpu", "gpu")


def hf_home() -> Path:
    """$HF_HOME, or where it is when nobody says."""
    return Path(os.path.expanduser(os.environ.get("HF_HOME") or HF_HOME))


def make_loadable() -> None:
    """To be called before lmms-eval loads a task."""
    os.environ.setdefault("HF_HOME", str(hf_home()))
    if "decord" not in sys.modules and find_spec("decord") is None:
        module = ModuleType("decord", "Absent: its names can be imported and refuse to be used.")
        module.__spec__ = ModuleSpec("decord", None)
        for name in DECORD:
            setattr(module, name, _refuse)
        sys.modules["decord"] = module


def _refuse(*_: Any, **__: Any) -> Any:
    raise SettingsError("this task reads frames with decord, which is not installed: pip install decord")
