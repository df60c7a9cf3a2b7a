"""--minutes: a sweep that its limit ends anywhere goes on to the records of one that was never ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ablations import run
from tests.ablations import fakes
from tests.ablations.chaos import SETTINGS
from tests.ablations.conftest import records, results, set_faults
from videonsa.limit import REACHED, Limit

NEVER = float("inf")


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch, out: Path) -> Callable[..., int]:
    """A command's exit code; its time is up once something has come about, whatever the clock says."""

    def command(main: Callable[[list[str]], int], come: Callable[[], bool], *arguments: str) -> int:
        class Until(Limit):
            left = property(lambda self: 0.0 if come() else NEVER)  # type: ignore[assignment]

        with monkeypatch.context() as patch:
            patch.setattr(run, "Limit", Until)
            return main([*arguments, "--out", str(out), "--cluster", "local", "--workers", "1"])

    return command


def test_at_the_limit_nothing_given_is_lost_and_nothing_stays_held(
    limited: Callable[..., int], sweep: Callable[..., int], out: Path, grid_file: Path, capsys: pytest.CaptureFixture
):
    assert sweep("--only", "synth_needle") == 0
    set_faults(out, synth_order=60)
    code = limited(fakes.main, lambda: "synth_order" in fakes.calls(out), "--grid", str(grid_file), "--minutes", "1")
    said = capsys.readouterr().err.splitlines()[-1]
    assert (code, said) == (REACHED, "time is up; left: 2 cells; the same command goes on")
    assert {record["status"] for record in records(out).values()} == {"done"}
    assert not [path for path in out.rglob("claim*") if path.is_file() or any(path.iterdir())]
    set_faults(out)
    assert sweep() == 0
    assert sorted(fakes.calls(out)) == ["probe", *["synth_needle"] * 2, *["synth_order"] * 3, "train"]


@pytest.mark.parametrize("where", ["--cluster=debug", "--profile=h100x1"])
def test_a_limit_is_refused_where_it_would_not_hold(
    sweep: Callable[..., int], grid_file: Path, capsys: pytest.CaptureFixture, out: Path, where: str
):
    cluster = [] if "debug" in where else ["--cluster", "slurm"]
    assert fakes.main(["--grid", str(grid_file), "--out", str(out), "--minutes", "9", where, *cluster]) == 2
    assert "--minutes 9 is not valid: for --cluster local; on Slurm set slurm.minutes" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_real_sweep_ended_in_its_training_and_in_its_answers_finds_what_an_unended_one_does(
    limited: Callable[..., int], out: Path, capsys: pytest.CaptureFixture
):
    smoke = ("--grid", "smoke", *(word for setting in SETTINGS for word in ("--set", setting)))

    def lines(pattern: str) -> int:
        return sum(len(path.read_text().splitlines()) for path in out.glob(pattern))

    def steps() -> int:
        return lines("trainings/*/metrics.jsonl")

    assert limited(run.main, lambda: steps() >= 4, *smoke) == REACHED
    assert "1 training, " in capsys.readouterr().err
    saved = steps()
    assert 4 <= saved < 12
    assert [int(path.name) for path in out.glob("trainings/*/checkpoints/*")] == [saved]
    assert limited(run.main, lambda: lines("answers/*/*.jsonl") >= 4, *smoke) == REACHED
    given = lines("answers/*/*.jsonl")
    assert "left: 2 cells; " in capsys.readouterr().err
    assert limited(run.main, lambda: False, *smoke) == 0
    found = results(out)
    assert given >= 4
    out.rename(out.with_name("ended"))
    assert limited(run.main, lambda: False, *smoke) == 0
    assert results(out) == found
