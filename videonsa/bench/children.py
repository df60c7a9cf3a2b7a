"""Processes of their own that a benchmark starts, none of which outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

from videonsa.git import ROOT

ENDS = 60.0  # seconds that processes have to end when they are asked to


def environment() -> dict[str, str]:
    """This process's own, in which Python finds our packages."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def end(process: subprocess.Popen) -> None:
    """End a leader of a session: asked first, so that it ends its own; what does not is killed with it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
