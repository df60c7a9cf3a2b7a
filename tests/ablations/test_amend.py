"""--retry-failed --set: failed cells get other settings, the rest stays, and every number says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ablations import fakes
from tests.ablations.conftest import records, set_faults


def folders(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "sweeps").iterdir())


def planned(out: Path) -> dict[str, int]:
    """Frames by label and suite, of the cells that have a finished record."""
    done = {key: record for key, record in records(out).items() if record["status"] == "done"}
    return {key: record["settings"]["suite"]["limit"] for key, record in done.items()}


def test_failed_cells_get_other_settings_and_say_so(sweep, out: Path, capsys: pytest.CaptureFixture[str]):
    set_faults(out, synth_order="raise")
    assert sweep() == 1
    calls = len(fakes.calls(out))
    set_faults(out)
    assert sweep("--retry-failed", "--set", "suite.limit=7", "--only", "b=1") == 0
    assert fakes.calls(out)[calls:] == ["synth_order"]
    assert planned(out)["b=1 (limit=7) synth_order"] == 7
    assert planned(out)["b=1 synth_needle"] is None
    assert folders(out) == ["tiny-pair"]
    capsys.readouterr()
    assert sweep("--status") == 0
    shown = capsys.readouterr().out
    assert "4 cells: 3 done, 1 failed" in shown
    assert "b=1 (limit=7) · synth_order: done" in shown
    assert sweep("--retry-failed") == 0  # as it was planned
    assert planned(out)["b=2 synth_order"] is None
    calls = len(fakes.calls(out))
    assert sweep() == 0
    assert len(fakes.calls(out)) == calls


def test_a_cell_can_be_given_settings_twice(sweep, out: Path):
    set_faults(out, synth_order="raise")
    assert sweep() == 1
    assert sweep("--retry-failed", "--set", "suite.limit=7", "--only", "b=1") == 1
    set_faults(out)
    assert sweep("--retry-failed", "--set", "suite.frames=4", "--only", "b=1") == 0
    assert planned(out)["b=1 (limit=7, frames=4) synth_order"] == 7


def test_a_failed_training_gets_other_settings(sweep, out: Path):
    set_faults(out, train="raise")
    assert sweep() == 1
    set_faults(out)
    assert sweep("--retry-failed", "--set", "train.micro_batch_size=9") == 0
    done = [record for record in records(out, "trainings").values() if record["status"] == "done"]
    assert [record["settings"]["micro_batch_size"] for record in done] == [9]
    assert len(planned(out)) == 4


def test_the_same_command_again_retries_the_same_sweep(sweep, out: Path):
    set_faults(out, synth_order="raise")
    assert sweep("--set", "suite.limit=5") == 1
    set_faults(out)
    assert sweep("--set", "suite.limit=5", "--retry-failed") == 0
    assert len(folders(out)) == 1
    assert set(planned(out).values()) == {5}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("suite.limit=3", "no cell of tiny-pair has failed; leave out --retry-failed"),
        ("suites=synth_layout", "--retry-failed --set suites: that asks for other cells; leave out --retry-failed"),
        ("nsa.block_count=3", "grid pair varies it"),
        ("train.steps=0", "steps=0 is not valid"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    sweep, out: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
):
    if setting.startswith("train"):
        set_faults(out, synth_order="raise")
    sweep()
    capsys.readouterr()
    assert sweep("--retry-failed", "--set", setting) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1
    assert not list(out.glob("sweeps/*/amended.json"))
