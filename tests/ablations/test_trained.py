"""Weights that are gone: what was asked of them stands, and for more questions the training is made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.trained import made_before, weights_digest
from tests.ablations import fakes
from tests.ablations.conftest import records, set_faults

Sweep = Callable[..., int]


def lose_weights(out: Path) -> None:
    (final,) = out.glob("trainings/*/final")
    shutil.rmtree(final)


def ask_more(grid_file: Path) -> None:
    """A block count more, of one suite."""
    grid_file.write_text("axes: {nsa.block_count: [1, 3]}\nsuites: [synth_needle]")


def test_without_weights_answers_stand_and_nothing_runs(sweep: Sweep, out: Path, capsys: pytest.CaptureFixture[str]):
    assert sweep() == 0
    lose_weights(out)
    before = {path: path.read_bytes() for path in out.rglob("record.json")}
    assert sweep("--dry-run") == 0
    assert "(done, weights gone)" in capsys.readouterr().out
    assert sweep() == 0
    assert len(fakes.calls(out)) == 6
    assert {path: path.read_bytes() for path in out.rglob("record.json")} == before


def test_cells_and_probes_say_which_weights_they_were_of(sweep: Sweep, out: Path):
    assert sweep() == 0
    (training,) = records(out, "trainings").values()
    asked = [*records(out).values(), *records(out, "probes").values()]
    assert {record["weights"]["digest"] for record in asked} == {training["summary"]["weights"]}
    assert {record["kind"] for record in asked} == {"evaluation", "probe"}


@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_for_more_questions_they_are_made_again(
    sweep: Sweep, out: Path, grid_file: Path, cluster: str, capsys: pytest.CaptureFixture[str]
):
    assert sweep() == 0
    before = records(out)
    lose_weights(out)
    ask_more(grid_file)
    assert sweep("--dry-run") == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "its weights are gone" in line]
    assert "What is done stands (1 of 2 cells), and is compared with what is asked now only if" in said
    assert sweep("--dry-run", "--only", "b=1") == 0
    assert "its weights are gone" not in capsys.readouterr().out, "nothing is trained for what is done"
    assert sweep(cluster=cluster) == 0
    shown = capsys.readouterr().out
    assert said in shown, "before it begins"
    assert "was made again, and" not in shown, "the same bits"
    assert sorted(fakes.calls(out)[6:]) == ["synth_needle", "train"]
    found = records(out)
    assert found["b=3 synth_needle"]["status"] == "done"
    assert {key: found[key] for key in before} == before


@pytest.mark.parametrize(
    ("cluster", "fault", "error", "again"),
    [("debug", "raise", "TrainingFailed", ["--retry-failed"]), ("local", "die", "WorkerDied", [])],
)
def test_where_that_fails_what_was_done_stands(
    sweep: Sweep, out: Path, grid_file: Path, cluster: str, fault: str, error: str, again: list[str]
):
    assert sweep() == 0
    before = records(out, "trainings")
    lose_weights(out)
    set_faults(out, train=fault)
    ask_more(grid_file)
    assert sweep(cluster=cluster) == 1
    assert records(out, "trainings") == before
    found = records(out)
    assert found["b=3 synth_needle"]["status"] == "failed"
    assert found["b=3 synth_needle"]["error"]["type"] == error
    assert found["b=1 synth_needle"]["status"] == "done"
    set_faults(out)
    assert sweep(*again, cluster=cluster) == 0
    assert records(out)["b=3 synth_needle"]["status"] == "done"


def test_a_digest_is_of_all_bits(tmp_path: Path):
    assert weights_digest(tmp_path) is None
    file = tmp_path / "model.safetensors"
    content = bytearray(10_000_000)
    file.write_bytes(content)
    digest = weights_digest(tmp_path)
    content[4_000_000] = 1
    file.write_bytes(content)
    assert digest is not None
    assert weights_digest(tmp_path) not in (None, digest)


def test_what_was_made_before_is_remembered():
    def record(digest: str | None, **more: Any) -> dict[str, Any]:
        return {"status": "done", "summary": {"weights": digest} if digest else {}, **more}

    assert made_before(None) == []
    assert made_before(record(None)) == [None]  # of before weights had digests
    assert made_before(record("b", made_before=["a", None])) == ["a", None, "b"]
    assert made_before({"status": "failed", "summary": {}}) == []


@pytest.mark.parametrize("left", [(), ("config.json",), ("model.safetensors",), None])
def test_remains_of_weights_are_none(sweep: Sweep, out: Path, grid_file: Path, left: tuple[str, ...] | None):
    assert sweep() == 0
    (final,) = out.glob("trainings/*/final")
    shutil.rmtree(final)
    if left is None:
        final.symlink_to("nowhere")
    else:
        final.mkdir()
        for name in left:
            (final / name).write_text("{}")
    ask_more(grid_file)
    assert sweep() == 0
    assert sorted(fakes.calls(out)[6:]) == ["synth_needle", "train"]
    (training,) = records(out, "trainings").values()
    assert training["made_before"] == [training["summary"]["weights"]]  # the same
