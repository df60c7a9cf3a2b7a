"""What git says of this checkout, whoever calls and whatever the user's configuration shows. Imports no torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS = 20


def git(*arguments: str) -> str | None:
    """The output of a git command in this checkout; None where there is no git, no repository, or it fails.

    A hook, `git rebase --exec` and the like set GIT_DIR and GIT_INDEX_FILE, which would name another repository.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            env=variables,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
