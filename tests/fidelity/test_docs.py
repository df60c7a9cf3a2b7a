"""The names that docs/semantics.md gives for its equations are in the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "videonsa/kernels" / name
    for name in ("reference.py", "release.py", "bitonic.py", "release_branches.py", "release_choice.py")
]
FILES += [ROOT / "videonsa/modeling" / name for name in ("attention.py", "positions.py")]
FILES += [ROOT / "videonsa/methods" / name for name in ("layout.py", "mixed.py", "paper.py", "release.py")]


def test_equations_name_code_that_exists():
    code = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    page = (ROOT / "docs/semantics.md").read_text(encoding="utf-8")
    section = page.split("## Equations to code")[1].split("What follows from each")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 20
    for row in rows:
        cells = row.strip("|").split("|")[-2:]
        for name in re.findall(r"`([^`]+)`", " ".join(cells)):
            missing = f"docs/semantics.md names {name!r}, which is nowhere in the code"
            assert (ROOT / name).is_file() if name.endswith(".py") else name.split(".")[-1] in code, missing
