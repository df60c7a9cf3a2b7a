"""Checkpoints of the hub: a name, and the revision of it. Imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9._-]{1,96})?(@[A-Za-z0-9._/-]+)?")


def is_hub_name(given: str) -> bool:
    """What can be a name on the hub, 'org/model' or 'model', perhaps with @revision; anything else is a folder."""
    return _NAME.fullmatch(given) is not None


def folder_at(given: str) -> Path | None:
    """The folder of this name, ~ being the home folder; None where there is none, also for what can be no path."""
    path = os.path.expanduser(given)
    return Path(path) if os.path.isdir(path) else None


def split_revision(name: str) -> tuple[str, str | None]:
    """'org/model@1a2b' -> ('org/model', '1a2b'): a hub name, and the revision that is asked for."""
    name, at, revision = name.partition("@")
    return name, revision if at and revision else None


def loading_arguments(checkpoint: str | Path) -> tuple[str, dict[str, str]]:
    """(folder or name, keyword arguments) for `from_pretrained` of what may be a hub name at a revision."""
    if folder := folder_at(str(checkpoint)):
        return str(folder), {}
    name, revision = split_revision(str(checkpoint))
    return name, {"revision": revision} if revision else {}


def cached_revision(name: str) -> str | None:
    """The revision that the hub's `main` was when it was last fetched to this machine; None: never."""
    home = os.path.expanduser(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    cache = Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or f"{home}/hub"))
    try:
        text = (cache / f"models--{name.replace('/', '--')}" / "refs" / "main").read_text(encoding="utf-8")
    except OSError:
        return None
    return text.strip() or None


def hub_revision(name: str, seconds: float = 5.0) -> str | None:
    """The revision that the hub's `main` is now; None where the hub does not answer in time."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return None
    try:
        from huggingface_hub import HfApi

        return HfApi().model_info(name, timeout=seconds).sha
    except Exception:  # away, no such name, no right to see it: loading says which
        return None
