"""A run at W&B beside what is on disk: it shows that, and neither fails it nor holds it up.

WANDB_MODE, WANDB_PROJECT and the rest of W&B's variables mean what W&B says. Without WANDB_MODE a run goes online when
WANDB_API_KEY holds a key; else it stays below its folder, and `wandb sync FOLDER/wandb/offline-run-*` sends it later.
What W&B would refuse (a mode that it does not know, a project with a slash) is said in one line, and does without.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from videonsa.disk import DiskError, disk_error, require_room
from videonsa.wandb_rules import fitting, is_disabled, plain, project_name, run_mode, tidied_wandb

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
ROOM = 1 << 20  # bytes; W&B writes some files before the first metric, and fails in many words where it cannot
CLOSE_SECONDS = 300.0  # at most, for the end of a run
HURRY_SECONDS = 20.0  # at most, for the end of one that failed: whoever waits is to hear of it


@dataclass
class Service:
    """What this process has learnt of W&B, so that of many runs only the first one waits for it and complains."""

    online: bool = True  # False: the server did not take a run; later ones are offline at once
    broken: bool = False  # W&B's local service failed at something; the next run starts another
    stuck: bool = False  # a run never came to its end; no other is begun
    said: set[str] = field(default_factory=set)


SERVICE = Service()
Metrics = dict[str, Any] | Callable[[], dict[str, Any]]


class Tracker:
    """One W&B run, kept by a thread of its own: whoever logs does not wait, not even for the run's start.

    A problem is said in one line on stderr. A run that cannot go online goes on offline.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        id: str,
        group: str | None = None,
        tags: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        """Names may hold anything: what W&B refuses is replaced.

        Args:
            folder: gets the run's files, in wandb/.
            id: of the run. A later run of the same id goes on with it, with `resume="allow"`.
            settings, arguments: as of wandb.Settings and wandb.init.
        """
        self.name, self.folder, self.id = fitting(name, "name"), folder, fitting(id, "id")
        self.arguments = plain(arguments) | {"tags": [fitting(tag, "tag") for tag in tags]}
        self.arguments |= {"group": fitting(group, "group")} if group else {}
        self.settings = dict(settings or {})
        self.told: SimpleQueue[tuple[Metrics, int | None] | tuple[str, str] | None] = SimpleQueue()
        self.ending: tuple[int, dict[str, Any]] = (0, {})  # exit code, summary
        self.kept: str | None = None  # "online" or "offline": where all of it is, once it has ended
        self.full = False  # its disk was
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"W&B {self.name}")
        if not is_disabled() and not SERVICE.stuck:
            self.thread.start()

    def log(self, metrics: Metrics, step: int | None = None) -> None:
        """Hand on metrics, or what makes them once W&B is there (its tables and pictures); returns at once. Steps that
        the run already has are left out."""
        if self.thread.is_alive():
            self.told.put((metrics, step))

    def alert(self, title: str, text: str) -> None:
        """Have W&B send its user a word; returns at once."""
        if self.thread.is_alive():
            self.told.put((title, text))

    def end(self, exit_code: int = 0, **summary: Any) -> None:
        """Nothing more will be logged; returns at once."""
        self.ending = exit_code, plain(summary)
        self.told.put(None)

    def wait(self, seconds: float) -> None:
        """Until the run has ended, but no longer than this."""
        if not self.thread.is_alive():
            return
        self.thread.join(seconds)
        if self.thread.is_alive():
            SERVICE.stuck = True
            self._say(f"it has not ended within {seconds:g} seconds")

    def close(self, exit_code: int = 0, **summary: Any) -> None:
        """End the run and wait for that, CLOSE_SECONDS at the longest."""
        self.end(exit_code, **summary)
        self.wait(CLOSE_SECONDS)

    def _run(self) -> None:
        """The thread: start, log, finish."""
        try:
            run = self._start()
            known = run.step  # of one that was resumed
            while (told := self.told.get()) is not None:
                if isinstance(told[0], str):
                    run.alert(*told)
                elif told[1] is None or told[1] >= known:
                    run.log(told[0]() if callable(told[0]) else told[0], step=told[1])
            exit_code, summary = self.ending
            run.summary.update(summary)
            run.finish(exit_code=exit_code)
            self.kept = "offline" if run.offline else "online"
            self._tell_lost(run)
        except Exception as error:  # whatever ails W&B, what it shows stands
            SERVICE.broken = True
            with suppress(Exception):  # or W&B tries it itself when this process ends, and prints how that failed
                sys.modules["wandb"].teardown()
            self._say(str(disk_error(error, self.folder / "wandb") or f"{type(error).__name__}: {error}"))

    def _tell_lost(self, run: Any) -> None:
        """W&B says nothing of a full disk, nor when it gives up a server that went away; it only keeps a warning."""
        try:
            require_room(self.folder / "wandb", ROOM // 16)
        except DiskError as error:
            self._tell_full(error)
        kept = getattr(getattr(run, "_internal_messages_response", None), "messages", None)
        warnings = " ".join(getattr(kept, "warning", ()))
        if "not be synced" in warnings:
            SERVICE.online = False
            self.kept = "offline"
            self._say(
                "its server went away: some metrics were not sent",
                f"`wandb sync {Path(run.dir).parent}` sends them all",
            )

    def _start(self) -> Any:
        mode = run_mode() if SERVICE.online else "offline"
        try:
            return self._init(mode)
        except (ImportError, DiskError):
            raise
        except Exception as error:
            if mode == "offline":
                raise
            SERVICE.online, SERVICE.broken = False, True
            try:
                run = self._init("offline")
            except Exception:
                raise error from None
            self._say(_cause(error), f"offline instead, for `wandb sync` in {self.folder}/wandb")
            return run

    def _init(self, mode: str | None) -> Any:
        wandb, said = tidied_wandb()
        for line in said:
            self._say(*line)
        self.folder.mkdir(parents=True, exist_ok=True)
        require_room(self.folder / "wandb", ROOM)
        if SERVICE.broken:
            SERVICE.broken = False
            with suppress(Exception):  # it may be dead; if it lives, it would go on with the run of this id that failed
                wandb.teardown()
        wandb.setup(wandb.Settings(silent=True))
        own = {"silent": True, "console": "off", "disable_git": True, "disable_code": True, **self.settings}
        known = wandb.Settings.model_fields  # those of PATIENCE are W&B's own affair, and may get other names
        patience = {name: value for name, value in PATIENCE.items() if name in known}
        run = wandb.init(
            project=project_name(),
            name=self.name,
            id=self.id,
            dir=str(self.folder),
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(**patience, **own),
            reinit="finish_previous",
            **self.arguments,
        )
        for handler in logging.getLogger("wandb").handlers:  # each line that finds no room would be a traceback
            handler.handleError = lambda record: self._tell_full(sys.exc_info()[1])  # type: ignore
        return run

    def _tell_full(self, error: BaseException | None) -> None:
        disk = disk_error(error, self.folder / "wandb") if error else None
        if disk is not None and not self.full:
            self.full = True
            self._say(str(disk))

    def _say(self, reason: str, then: str = "its metrics on disk are whole") -> None:
        """One line, the first time that it is news."""
        if reason not in SERVICE.said:
            SERVICE.said.add(reason)
            print(f"W&B: {self.name:.60}: {' '.join(reason.split())[:300]}; {then}", file=sys.stderr, flush=True)


def _cause(error: Exception) -> str:
    """Why a run did not go online, without the calls that W&B tried, and with the variable that holds its key."""
    said = re.sub(r": \w+ \S+ giving up after \d+ attempt\(s\): .*: ", ": ", str(error))
    known = said.replace("Use `wandb login` to log in.", "WANDB_API_KEY holds one, or `wandb login` keeps it")
    return f"{type(error).__name__}: {known}"
