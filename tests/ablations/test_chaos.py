"""A small real sweep killed, suspended, cut off and filled at random moments ends as an undisturbed one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ablations.chaos import Chaos
from tests.ablations.conftest import set_faults
from tests.disks import small_disk

SEED = int(os.environ.get("VIDEONSA_CHAOS", "1"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """A disk that can be filled, and that it can; where none can be mounted, a folder that is left alone."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(small_disk(tmp_path / "disk", "size=32m")), True
        except pytest.skip.Exception:
            yield tmp_path / "disk", False


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_sweep_under_faults_ends_as_an_undisturbed_one(tmp_path: Path, disk: tuple[Path, bool]):
    """VIDEONSA_CHAOS=7 gives another seed."""
    assert Chaos(SEED, tmp_path, *disk).run(faults=8) == []


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_sweep_of_fake_stages_under_many_faults(tmp_path: Path, disk: tuple[Path, bool], grid_file: Path):
    """Its workers start in a second: more faults in less time, and at other moments."""
    for kind in ("disk", "."):
        set_faults(tmp_path / kind / "runs", train=2, synth_needle=1, synth_order=1, probe=1)
    command = ("-m", "tests.ablations.fakes", "--grid", str(grid_file))
    assert Chaos(SEED, tmp_path, *disk, command=command).run(faults=30) == []
