"""How our own commands are typed here: by their path in a checkout, as modules where a wheel is installed.

Standard library only, and readable by old Pythons. Texts name commands as a checkout does, `python ablations/run.py`.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = re.compile(r"python (ablations|analysis)/run\.py")


def in_checkout():
    """Whether our folders lie in the repository, and not among a Python's packages."""
    return (ROOT / "pyproject.toml").is_file()


def as_typed(text):
    """The text with our commands as they are typed here."""
    return text if in_checkout() else SCRIPT.sub(r"python -m \1.run", text)


def to_install(extra=""):
    """What installs our dependencies, or those of an extra."""
    if not in_checkout():
        return f"python -m pip install 'videonsa-bench[{extra}]'" if extra else "python -m pip install videonsa-bench"
    return f".venv/bin/python -m pip install -c constraints.txt -e '.[{extra}]'" if extra else "make setup"
