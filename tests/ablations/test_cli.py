"""The command line: wrong input is one line that says what is valid; planning is quick and imports no torch."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ablations import run
from tests.ablations.conftest import ROOT
from tests.video.files import drawn, write

PLANNING = [
    ["--list"],
    ["--grid", "budget", "--dry-run"],
    ["--grid", "tokens", "--status"],
    ["--list", "--profile", "paper"],
]


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line that a refused command leaves on stderr."""
    assert run.main(list(arguments)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "bugdet"], "no grid 'bugdet'; grids of profile tiny: baselines, .*budget, .*smoke, .*tokens"),
        (["--grid", "nowhere/mine.yaml"], "no grid 'nowhere/mine.yaml'"),
        (["--grid", "budget", "--profile", "huge"], "no profile 'huge'; profiles: paper, study, tiny"),
        (
            ["--grid", "budget", "--cluster", "cloud"],
            "--cluster='cloud' is not valid: choose one of auto, debug, local, slurm",
        ),
        (["--grid", "budget", "--set", "nsa.windw=3"], "--set: unknown setting 'nsa.windw'; known: nsa.block_size"),
        (["--grid", "budget", "--set", "nsa.gate_temperature"], "give key=value"),
        (["--grid", "budget", "--set", "nsa.window=3"], "grid budget varies it; choose among its values with --only"),
        (["--grid", "budget", "--set", "nsa.branches=cmp+slice"], "a subset of cmp, slc, swa, each once"),
        (["--grid", "branches", "--set", "nsa.window=0"], "window=0 is not valid: 1 or more while swa is a branch"),
        (
            ["--grid", "budget", "--set", "suites=synth_noodle"],
            "unknown suite 'synth_noodle'; choose one of synth_needle",
        ),
        (["--grid", "budget", "--set", "suite.frames=0"], "frames=0 is not valid"),
        (["--grid", "budget", "--set", "train.steps=-1"], "steps=-1 is not valid"),
        (
            ["--grid", "budget", "--set", "train.learning_rate=abc"],
            "learning_rate='abc' is not valid: a number above 0",
        ),
        (
            ["--grid", "budget", "--set", "train.families=needel"],
            "families='needel' is not valid: choose from needle, order",
        ),
        (
            ["--grid", "budget", "--set", "train.families=order", "--set", "train.frames=[4]"],
            "frames=4 is not valid: order need at least 8",
        ),
        (
            ["--grid", "budget", "--set", "train.micro_batch_size=5"],
            "batch_size=.* is not valid: a multiple of micro_batch_size=5",
        ),
        (["--grid", "smoke", "--set", "suite.task=tomato"], "suite synth_needle: task='tomato' is not valid"),
        (["--grid", "budget", "--set", "suite.fps=fast"], "fps='fast' is not valid"),
        (["--grid", "budget", "--set", "seeds=x"], "seeds=.* is not valid"),
        (["--grid", "budget", "--set", "checkpoint=./nowhere"], "checkpoint './nowhere': there is no such folder"),
        (["--grid", "budget", "--set", "checkpoint=runs/not/there"], "'runs/not/there': there is no such folder"),
        (
            ["--grid", "budget", "--set", "checkpoint="],
            "--set checkpoint: no value is given; write null for none, or leave",
        ),
        (["--grid", "budget", "--set", "probe.observers="], "--set probe.observers: no value is given; give one, or"),
        (["--grid", "budget", "--set", "suite.limit= "], "--set suite.limit: no value is given"),
        (["--grid", "budget", "--set", "=1"], "give key=value"),
        (["--grid", "smoke", "--set", "nsa.window=4", "--set", "nsa.window=8"], "--set nsa.window: given twice"),
        (["--grid", "budget", "--set", "seeds=0+0"], r"seeds=\[0, 0\] is not valid: give each number once"),
        (["--grid", "budget", "--set", "seeds=1_0"], "seeds=.'1_0'. is not valid"),
        (["--grid", "smoke", "--set", "nsa.window=0x10"], "window='0x10' is not valid: a whole number"),
        (["--grid", "smoke", "--set", "nsa.gate_temperature=nan"], "gate_temperature='nan' is not valid"),
        (["--grid", "smoke", "--set", "train.seed=1"], r"unknown setting 'train.seed'; .*; did you mean seeds\?"),
        (["--grid", "smoke", "--set", "training.lr=1"], r"settings are nsa.*; did you mean train.learning_rate\?"),
        (["--grid", "smoke", "--set", "slurm.mem=1", "--profile", "cpu-test"], r"did you mean slurm.memory\?"),
        (["--grid", "smoke", "--profile", "h100x2"], r"no profile 'h100x2'; .*; did you mean h100x1\?"),
        (["--grid", "budget", "--only", "b=77"], "--only b=77: no cell of this name; labels: b=1 w=2"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    import re

    assert re.search(message, complaint(capsys, *arguments, "--dry-run"))


def test_only_takes_brackets_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    grid = tmp_path / "g.yaml"
    grid.write_text("axes: {v: [{nsa.window: 4, label: '[ab]'}, {nsa.window: 8, label: b}]}\nsuites: [synth_needle]\n")
    arguments = ["--grid", str(grid), "--cluster", "debug", "--dry-run", "--out", str(tmp_path / "runs")]
    assert run.main([*arguments, "--only", "[ab]"]) == 0
    assert "1 evaluate jobs" in capsys.readouterr().out


def test_training_data_that_are_not_here_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = [f"train.data={tmp_path}/nowhere.json", f"train.video_folder={tmp_path}", "train.steps=2"]
    arguments = [part for change in data for part in ("--set", change)]
    assert run.main(["--grid", "smoke", "--dry-run", *arguments, "--out", str(tmp_path / "runs")]) == 0
    assert f"Missing: no file train.data='{tmp_path}/nowhere.json' on this machine" in capsys.readouterr().out


def test_a_dry_run_tells_what_training_data_hold_and_reads_of_a_large_file_the_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path / "a.mp4", drawn(30))  # 3 s of 2:3, made large: 6 patches of 7 x 10 tokens at 4 frames a second
    turns = [{"from": "human", "value": "A or B?"}, {"from": "gpt", "value": "B"}]
    entry = json.dumps({"id": "some", "video": "a.mp4", "conversations": turns})
    data, out = tmp_path / "data.jsonl", str(tmp_path / "runs")
    data.write_text(f"{entry}\n" * 80)
    changes = [
        f"train.data={data}",
        f"train.video_folder={tmp_path}",
        "train.batch_size=10",
        "train.micro_batch_size=1",
    ]
    arguments = ["--grid", "smoke", "--out", out, *(part for change in changes for part in ("--set", change))]

    def line(*more: str) -> str:
        assert run.main([*arguments, *more, "--dry-run"]) == 0
        said = capsys.readouterr().out
        return next(line for line in said.splitlines() if line.startswith("Data: ")) + said.rpartition("Missing:")[2]

    assert "80 samples, checked; 20 steps of 10, 2.5 x all of them; about 422 tokens a sample (" in line()
    data.write_text(f"{entry}\n" * 79 + "no entry" + " " * (len(entry) - 8))
    assert "data.jsonl': line 80: no JSON" in complaint(capsys, *arguments, "--dry-run")
    for module in ("ablations.facts", "videonsa.training.conversations"):
        monkeypatch.setattr(f"{module}.WHOLE", 1000)
    monkeypatch.setattr("videonsa.training.conversations.HEAD", 1000)
    said = line("--set", "train.max_tokens=1040")
    first = f"about 80 samples (by its first 8 MiB: {1000 // (len(entry) + 1)} entries, checked; a run reads"
    assert first in said
    assert "about 72 tokens a sample (headers of 1 videos, 4 bytes of text a token; max_tokens=1,040 are" in said
    assert "larger than a dry run reads" in said


def test_what_is_refused_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "runs")
    assert "'./nowhere': there is no" in complaint(
        capsys, "--grid", "smoke", "--set", "train.model=./nowhere", "--out", out
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", ""], "argument --grid: the value is empty"),
        (["--grid", "smoke", "--only", ""], "argument --only: the value is empty"),
        (["--grid", "smoke", "--out", ""], "argument --out: the value is empty"),
        (["--grid", "smoke", "--profile", " "], "argument --profile: the value is empty"),
        (["--grid", "smoke", "--workers", "1_0"], "argument --workers: give a whole number of at least 1"),
        (["--grid", "smoke", "--workers", "0"], "argument --workers: give a whole number of at least 1"),
        (["--grid", "smoke", "--tyop"], "unrecognized arguments: --tyop"),
        ([], "give --grid NAME, or --list to see the grids"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        run.main(arguments)
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_an_out_folder_that_cannot_be_made_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert "cannot write to /proc/runs" in complaint(capsys, "--grid", "smoke", "--out", "/proc/runs", code=1)


def test_a_file_in_place_of_the_out_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "runs").touch()
    assert f"cannot write to {tmp_path / 'runs'}" in complaint(
        capsys, "--grid", "smoke", "--out", f"{tmp_path}/runs", code=1
    )


def test_a_full_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    message = complaint(capsys, "--grid", "smoke", "--out", str(tmp_path), code=1)
    assert message.startswith(f"cannot write to {tmp_path}")
    assert "No space left on device; disk /" in message
    assert message.endswith("; nothing finished is lost: once it is well the same command goes on")


def test_a_disk_that_fills_up_meanwhile_loses_no_record(sweep, out: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from ablations import job_evaluate

    assert sweep("--only", "b=1") == 0
    before = {path: path.read_bytes() for path in out.rglob("record.json")}

    def full(path: Path, record: dict) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(job_evaluate, "write_record", full)
    capsys.readouterr()
    assert sweep() == 1
    assert {path: path.read_bytes() for path in out.rglob("record.json")} == before


@pytest.mark.parametrize("arguments", PLANNING, ids=" ".join)
def test_planning_imports_nothing_that_takes_seconds(arguments: list[str], tmp_path: Path):
    code = (
        "import sys; from ablations.run import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'lmms_eval', 'wandb', 'pandas', 'submitit'} & set(sys.modules);"
        "print(heavy or '', file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    command = [sys.executable, "-c", code, *arguments, "--out", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_dry_run_says_what_is_shared_and_how_long(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run.main(["--grid", "budget", "--dry-run", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" cell ") == 27
    assert "27 cells share 1 training" in printed
    assert "Time: about " in printed
    assert "rule of thumb" in printed


def test_any_python_will_do(tmp_path: Path):
    """Typed with a Python that lacks our packages, the script starts itself again under .venv, or says what to do."""
    bare = "/usr/bin/python3"
    if (
        not Path(bare).exists()
        or subprocess.run([bare, "-c", "import submitit"], capture_output=True, check=False).returncode == 0
    ):
        pytest.skip("no bare Python here")
    if (ROOT / ".venv" / "bin" / "python").exists():
        done = subprocess.run(
            [bare, "ablations/run.py", "--list"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert "budget" in done.stdout
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("ablations", "videonsa"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [bare, "ablations/run.py", "--list"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "make setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} ablations/run.py --grid tokens --dry-run | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("tiny-tokens")
