"""What W&B takes: names of runs, its variables, and what they say of where a run goes."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROJECT = "videonsa-bench"
TRUE = ("1", "true", "yes", "on")  # values of WANDB_DISABLED, which earlier versions of W&B and transformers know
MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
# Variables that name one run. Each of ours has a name of its own, so that they cannot hold for all of them.
OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM", "WANDB_SWEEP_ID")
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
# What W&B takes: characters at most, and those that it refuses.
LIMITS = {
    "name": (128, ""),
    "group": (128, ""),
    "tag": (64, ""),
    "project": (128, r"/\\#?%:"),
    "id": (64, r"/\\#?%:;,'\s"),
}


def fitting(text: str, what: str) -> str:
    """The text as W&B takes it for a name, group, tag, project or id; equal where it is good already.

    What had to be cut or changed for an id ends in digits of the whole: two runs never become one.
    """
    longest, refused = LIMITS[what]
    clean = re.sub(rf"[{refused}\x00-\x1f\x7f\u2028\u2029]", "-", plain(text)).strip() or "-"
    if what == "id" and (clean != text or len(clean) > longest):
        digits = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"{clean[: longest - 13]}-{digits}"
    return clean if len(clean) <= longest else f"{clean[: longest - 1]}…"


def plain(value: Any) -> Any:
    """The value with text that UTF-8 can hold: parts of a file's name may have come as lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def tidied_wandb() -> tuple[Any, list[tuple[str, str]]]:
    """W&B's package, among variables and folders that it takes; and what is worth a line, as (what, what then)."""
    wandb = imported_wandb()
    give_cache()
    return wandb, tidy_environment(wandb.Settings)


def imported_wandb() -> Any:
    """W&B's package, which keeps to this process."""
    if "wandb" not in sys.modules:
        os.environ.pop("WANDB_SERVICE", None)  # of the program that started this one, perhaps on another machine
    import wandb

    return wandb


def give_cache() -> None:
    """Where W&B's service cannot keep its own log (no home, say), it would print it: it gets a folder where it can."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = os.path.expanduser(os.environ.get("WANDB_CACHE_DIR", "").strip() or caches)
    try:
        logs = Path(place, "wandb", "logs")
        good = not place.startswith("~")  # else nobody knows where this user is at home
        if good:
            logs.mkdir(parents=True, exist_ok=True)
            good = os.access(logs, os.W_OK)
    except OSError:
        good = False
    if not good:
        os.environ["WANDB_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), f"wandb-cache-{os.getuid()}")


def tidy_environment(settings: Any) -> list[tuple[str, str]]:
    """Leave of the WANDB_ variables those that W&B takes; returns what is worth a line, as (what, what then).

    Blank ones are as job scripts leave them. `settings`: wandb.Settings, which judges each variable alone.
    """
    said = []
    for name in sorted(name for name in os.environ if name.startswith("WANDB_")):
        given = os.environ[name]
        value = asked_mode() if name == "WANDB_MODE" else given.strip()
        if name == "WANDB_PROJECT" and value:
            value = fitting(value, "project")
        if name in OF_ONE_RUN or not value:
            del os.environ[name]
        elif _refused(settings, name, value):
            del os.environ[name]
            said.append((f"{name} is not valid", "left out"))
        else:
            os.environ[name] = value
            if name == "WANDB_PROJECT" and value != given.strip():
                said.append((f"{name} is not valid: at most 128 characters, none of / \\ # ? % :", f"project {value}"))
        if name == "WANDB_MODE" and given.strip() and given.strip().lower() not in MODES:
            said.append((f"WANDB_MODE={given.strip()!r:.60} is not valid: {', '.join(MODES)}", "offline"))
    return said


def _refused(settings: Any, name: str, value: str) -> bool:
    try:
        settings().update_from_env_vars({name: value})
    except AttributeError:  # another version of W&B: it will say itself what it does not take
        return False
    except Exception:
        return True
    return False


def project_name() -> str:
    """The project of every run: WANDB_PROJECT, once `tidy_environment` has made it one that W&B takes."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def is_disabled() -> bool:
    """No run is wanted at all."""
    off = os.environ.get("WANDB_DISABLED", "").strip().lower() in TRUE
    return off or asked_mode() == "disabled"


def asked_mode() -> str:
    """WANDB_MODE, also in capitals or with a line break; offline for what W&B does not know; empty if unset."""
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    return mode if mode in MODES or not mode else "offline"


def goes_online() -> bool:
    """A run would be begun at a server, as far as variables say; `wandb offline` may still keep it."""
    return run_mode() is None and asked_mode() not in ("offline", "dryrun", "disabled")


def has_key() -> bool:
    """W&B can say who asks: by a key or a token of the environment, or by what `wandb login` keeps in .netrc."""
    if any(os.environ.get(name, "").strip() for name in KEYS):
        return True
    try:
        return bool(imported_wandb().sdk.internal.internal_api.Api().api_key)
    except Exception:  # a variable or a key that W&B does not like the look of: that is said where it is used
        return True


def run_mode() -> str | None:
    """The mode to ask of wandb.init; None leaves it to W&B: WANDB_MODE, else what `wandb offline` set, else online."""
    asked = asked_mode() or os.environ.get("WANDB_API_KEY", "").strip()
    return None if asked else "offline"
