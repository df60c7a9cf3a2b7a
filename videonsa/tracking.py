"""A run at W&B beside what is on disk: it shows that, and neither fails it nor holds it up.

WANDB_MODE, WANDB_PROJECT and the rest of W&B's variables mean what W&B says. Without WANDB_MODE a run goes online when
WANDB_API_KEY holds a key; else it stays below its folder, and `wandb sync FOLDER/wandb/offline-run-*` sends it later.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

PROJECT = "videonsa-bench"
TRUE = ("1", "true", "yes", "on")  # values of WANDB_DISABLED, which earlier versions of W&B and transformers know

# W&B's service asks a server that does not answer for up to two hours; until then it starts no offline run, and the
# process cannot end. With these, a server that is away at the start is given up after 15 to 75 seconds, and one that
# goes away later is waited for some four minutes; the run's folder then still has all that it was told.
PATIENCE: dict[str, Any] = {
    "init_timeout": 90,
    "x_graphql_retry_max": 3,
    "x_graphql_timeout_seconds": 15,
    "x_file_stream_retry_max": 8,
    "x_file_stream_timeout_seconds": 15,
    "x_file_transfer_retry_max": 3,
    "x_file_transfer_timeout_seconds": 60,
}
CLOSE_SECONDS = 300.0  # at most, for the end of a run


@dataclass
class Service:
    """What this process has learnt of W&B, so that of many runs only the first one waits for it and complains."""

    online: bool = True  # False: the server did not take a run; later ones are offline at once
    broken: bool = False  # W&B's local service failed at something; the next run starts another
    stuck: bool = False  # a run never came to its end; no other is begun
    said: set[str] = field(default_factory=set)


SERVICE = Service()


class Tracker:
    """One W&B run, kept by a thread of its own: whoever logs does not wait, not even for the run's start.

    A problem is said in one line on stderr. A run that cannot go online goes on offline.
    """

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any] | None = None, **arguments: Any) -> None:
        """`folder` gets the run's files, in wandb/; `settings` as of wandb.Settings, `arguments` as of wandb.init."""
        self.name, self.folder, self.arguments = name, folder, arguments
        self.settings = dict(settings or {})
        self.told: SimpleQueue[tuple[dict[str, Any], int | None] | None] = SimpleQueue()
        self.end: tuple[int, dict[str, Any]] = (0, {})  # exit code, summary
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"W&B {name}")
        if not is_disabled() and not SERVICE.stuck:
            self.thread.start()

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Hand on metrics; returns at once."""
        if self.thread.is_alive():
            self.told.put((metrics, step))

    def close(self, exit_code: int = 0, **summary: Any) -> None:
        """End the run; returns after CLOSE_SECONDS at the latest."""
        if not self.thread.is_alive():
            return
        self.end = exit_code, summary
        self.told.put(None)
        self.thread.join(CLOSE_SECONDS)
        if self.thread.is_alive():
            SERVICE.stuck = True
            self._say(f"it has not ended within {CLOSE_SECONDS:g} seconds")

    def _run(self) -> None:
        """The thread: start, log, finish."""
        try:
            run = self._start()
            while (told := self.told.get()) is not None:
                metrics, step = told
                run.log(metrics, step=step)
            exit_code, summary = self.end
            run.summary.update(summary)
            run.finish(exit_code=exit_code)
        except Exception as error:  # whatever ails W&B, what it shows stands
            SERVICE.broken = True
            self._say(f"{type(error).__name__}: {error}")

    def _start(self) -> Any:
        mode = run_mode() if SERVICE.online else "offline"
        try:
            return self._init(mode)
        except ImportError:
            raise
        except Exception as error:
            if mode == "offline":
                raise
            SERVICE.online, SERVICE.broken = False, True
            try:
                run = self._init("offline")
            except Exception:
                raise error from None
            self._say(f"{type(error).__name__}: {error}", f"offline instead, for `wandb sync` in {self.folder}/wandb")
            return run

    def _init(self, mode: str | None) -> Any:
        for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value.strip()]:
            del os.environ[name]  # as job scripts leave them; W&B takes them for values that are not valid
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        if SERVICE.broken:
            SERVICE.broken = False
            with suppress(Exception):  # it may be dead; if it lives, it would go on with the run of this id that failed
                wandb.teardown()
        wandb.setup(wandb.Settings(silent=True))
        own = {"silent": True, "console": "off", "disable_git": True, "disable_code": True, **self.settings}
        known = wandb.Settings.model_fields  # those of PATIENCE are W&B's own affair, and may get other names
        patience = {name: value for name, value in PATIENCE.items() if name in known}
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=self.name,
            dir=str(self.folder),
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(**patience, **own),
            reinit="finish_previous",
            **self.arguments,
        )

    def _say(self, reason: str, then: str = "its metrics on disk are whole") -> None:
        """One line, the first time that it is news."""
        if reason not in SERVICE.said:
            SERVICE.said.add(reason)
            print(f"W&B: {self.name}: {' '.join(reason.split())[:300]}; {then}", file=sys.stderr, flush=True)


def is_disabled() -> bool:
    """No run is wanted at all."""
    off = os.environ.get("WANDB_DISABLED", "").strip().lower() in TRUE
    return off or os.environ.get("WANDB_MODE") == "disabled"


def run_mode() -> str | None:
    """The mode to ask of wandb.init; None leaves it to W&B: WANDB_MODE, else what `wandb offline` set, else online."""
    asked = os.environ.get("WANDB_MODE", "").strip() or os.environ.get("WANDB_API_KEY", "").strip()
    return None if asked else "offline"
