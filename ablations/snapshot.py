"""The code that queued jobs run: a copy made at submission, so that editing the checkout changes no job. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from videonsa.disk import whole_folder
from videonsa.git import ROOT, git
from videonsa.identity import code_version
from videonsa.record import provenance, write_text

PACKAGES = ("videonsa", "ablations", "evals", "slurm", "analysis")


def take_snapshot(parent: Path, packages: tuple[str, ...] = PACKAGES) -> Path:
    """Copy the packages to parent/<version>, once, with COMMIT and DIFF beside them; returns the folder."""
    folder = parent / code_version(*packages)
    if folder.is_dir():
        return folder
    with whole_folder(folder) as draft:
        for name in packages:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
                shutil.copytree(ROOT / name, draft / name, ignore=ignored)
        write_text(draft / "COMMIT", f"{provenance()['commit']}\n")
        write_text(draft / "DIFF", git("diff", "--no-color", "--no-ext-diff", "HEAD") or "")
    return folder


def origin() -> dict[str, Any]:
    """Commit and state of the checkout, for the records of jobs that run from a snapshot."""
    here = provenance()
    return {"commit": here["commit"], "dirty": here["dirty"]}
