"""Start a script of ours with any Python: standard library only, and readable by old Pythons.

A script that is run by its path (`python analysis/run.py`) begins with

    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not the script's folder: its names would hide packages

    from videonsa.bootstrap import ensure_environment

    ensure_environment()
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("pandas", "submitit")  # two of our dependencies that no bare Python has


def ensure_environment():  # no annotations: a Python too old for them should still reach the message below
    """Return where our dependencies can be imported; else start again under .venv; else say what to do, exit code 2."""
    if all(importlib.util.find_spec(name) is not None for name in NEEDED):
        return
    python = ROOT / ".venv" / "bin" / "python"
    inside = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
    if python.exists() and not inside:
        os.execv(str(python), [str(python), *sys.argv])
    sys.stderr.write(f"the dependencies are not installed: run `make setup` in {ROOT}\n")
    sys.exit(2)
