"""Deal one evaluation cell over GPUs: questions a second of so many of them. Random weights, the sweep's command.

    python -m videonsa.bench.dealing --gpus 1 2 --out benchmarks/dealing.csv

A checkpoint of the model's shape is written to a temporary folder (TMPDIR; 17 GB of 7B), and `ablations/run.py` asks
one cell of it, a synthetic suite whose videos are drawn, on so many GPUs: a process a GPU, whichever is free takes the
next video. Answers are counted as they reach the disk. loading_s: from the start until each process has answered once,
what it compiles included, of which later runs find much done; asking_s and answers: from then until the last answer,
which are what questions_per_s and speedup (over the first run) are of; command_s: the whole command, tables and all.
Correct first: every question is answered, as in the first run, and each process answers some.

A sweep starts a process for each 64 answers at most, as fewer are sooner given than another model is loaded; this
command asks fewer and takes the limit down. On a CPU processes stand for GPUs, and times say nothing: `--model tiny
--tokens 128` is a try.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from evals.suites import get_suite
from videonsa.bench import command, shapes, suite
from videonsa.bench.check import CheckFailed
from videonsa.bench.children import end, environment
from videonsa.disk import DiskError, writing
from videonsa.options import positive
from videonsa.process import interrupted_when_told_to_end

NAME = "videonsa.bench.dealing"
SUITE = get_suite("synth_long_needle")
ALL = SUITE.questions or 0
TOKENS = SUITE.settings.tokens_per_frame  # of a temporal patch, which is two frames
EACH = 12  # questions that a GPU has at least: of fewer a rate says little
DEPTH = ("layers", "vision_layers")
COLUMNS = (
    *("gpu", "gpus", "model", *DEPTH, "tokens", "questions", "loading_s", "asking_s", "answers", "questions_per_s"),
    *("speedup", "command_s", "torch", "triton", "transformers", "commit"),
)
START = (
    "import sys; from ablations import jobs, run; jobs.WORTH_A_JOB = int(sys.argv[1]); sys.exit(run.main(sys.argv[2:]))"
)
LOOK_SECONDS = 0.02

Seen = dict[str, list[float]]  # a process's file of answers -> when each answer was seen, in seconds from the start


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--model", choices=shapes.NAMES, default="7b")
    parser.add_argument("--gpus", type=positive, nargs="+", default=[1, 2], help="how many, one run each")
    parser.add_argument("--tokens", type=positive, default=32768, help=f"of a video, a multiple of {TOKENS}")
    parser.add_argument("--questions", type=positive, default=128, help=f"at most the suite's {ALL}")
    parser.add_argument("--minutes", type=positive, default=30, help="that a run has")
    parser.add_argument("--layers", type=positive, help="of the decoder; fewer are for a try")
    parser.add_argument("--vision-layers", type=positive, help="of the tower")
    options = parser.parse_args(arguments)
    least = EACH * max(options.gpus)
    if options.tokens % TOKENS:
        parser.error(f"--tokens {options.tokens}: give whole temporal patches of {TOKENS} tokens")
    if not least <= options.questions <= ALL:
        parser.error(f"--questions {options.questions}: {max(options.gpus)} GPUs want {least} to {ALL}")
    if len(set(options.gpus)) < len(options.gpus):
        parser.error(f"--gpus {' '.join(map(str, options.gpus))}: give each number once")
    if options.model == "tiny" and (options.layers or options.vision_layers):
        parser.error("--layers, --vision-layers: the tiny model has its own")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and append a row a number of GPUs; 0 when all came, 1 when a run failed, 2 when it cannot begin."""
    options = parse(arguments)
    if options.model != "tiny" and not command.has_device(NAME):
        return 2
    found = torch.cuda.device_count()
    if found and found < max(options.gpus):
        print(f"--gpus {max(options.gpus)}: torch finds {found} here", file=sys.stderr)
        return 2
    table = command.table(COLUMNS, options.out, command.software(options.commit, "transformers"))
    if table is None:
        return 2
    try:
        with interrupted_when_told_to_end(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            run(options, Path(place), table)
    except (CheckFailed, DiskError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace, folder: Path, table: command.Table) -> None:
    """Raises CheckFailed where a run failed, DiskError."""
    depth = write_checkpoint(options, folder / "weights")
    grid = write_grid(options, folder)
    first: Mapping[str, Any] = {}
    for gpus in options.gpus:
        made = measured(grid, folder / f"on-{gpus}", gpus, options)
        first = first or made
        if made["said"] != first["said"]:
            raise CheckFailed(f"on {gpus} GPUs other answers were given than on {options.gpus[0]}")
        speedup = round(made["questions_per_s"] / first["questions_per_s"], 3)
        row = {"gpus": gpus, "model": options.model, **depth, "tokens": options.tokens, **made, "speedup": speedup}
        row = {name: row[name] for name in COLUMNS if name in row}
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        if speedup > 1.1 * gpus / options.gpus[0]:
            print("more than so many GPUs can do: the first run was held up by something", file=sys.stderr)
        table.add(row)


def write_checkpoint(options: argparse.Namespace, folder: Path) -> dict[str, int]:
    """A folder as transformers saves it; returns its depths. The device's memory is given back. Raises DiskError."""
    loaded = suite.checkpoint(options.model, options.layers, options.vision_layers)
    transformers.utils.logging.disable_progress_bar()
    with writing(folder):
        loaded.model.save_pretrained(folder)
        loaded.processor.save_pretrained(folder)
    given = loaded.model.config
    depth = dict(zip(DEPTH, (given.text_config.num_hidden_layers, given.vision_config.depth), strict=True))
    del loaded
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return depth


def write_grid(options: argparse.Namespace, folder: Path) -> list[str]:
    """The sweep's arguments that name one cell of that checkpoint."""
    asked = {"frames": 2 * options.tokens // TOKENS, "tokens_per_frame": TOKENS, "limit": options.questions}
    grid = {
        "question": "How many questions a second do so many GPUs answer?",
        "asks": "test",
        "axes": {"nsa.attention": ["nsa"]},
        "base": {"checkpoint": str(folder / "weights")},
        "suites": {SUITE.name: asked},
    }
    profile = {"description": "No probes.", "train": {"model": "tiny", "steps": 1}, "suites": {SUITE.name: {}}}
    for name, content in (("grid", grid), ("profile", profile)):
        (folder / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return ["--grid", str(folder / "grid.yaml"), "--profile", str(folder / "profile.yaml"), "--cluster", "local"]


def measured(grid: list[str], out: Path, gpus: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run of the command on so many GPUs: its times, and `said`, all answers by question. Raises CheckFailed."""
    sweep = [str(max(1, options.questions // gpus)), *grid, "--out", str(out), "--workers", str(gpus)]
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, *sweep],
            stdin=subprocess.DEVNULL, stdout=lines, stderr=lines, start_new_session=True,
            env={**environment(), "WANDB_MODE": "disabled"},
        )  # fmt: skip
        try:
            seen = watched(process, out, began, 60 * options.minutes)
        finally:
            code = process.poll()
            end(process)
    command_s = time.perf_counter() - began
    if code is None:
        raise CheckFailed(f"on {gpus} GPUs: stopped after {options.minutes} minutes")
    if code:
        logs = [log, *sorted(out.glob("sweeps/*/jobs/*/*.err"))]
        raise CheckFailed(f"on {gpus} GPUs: " + "\n".join(path.read_text(errors="replace")[-2000:] for path in logs))
    return {"command_s": round(command_s, 3)} | answers(out, options.questions) | times(seen, gpus)


def watched(process: subprocess.Popen, out: Path, began: float, limit: float) -> Seen:
    """When each answer was seen on the disk, until the process ends or so many seconds are over."""
    seen: Seen = {}
    while True:
        now = time.perf_counter() - began
        over = process.poll() is not None or now > limit
        for path in out.glob("answers/*/*.jsonl"):
            there = path.read_bytes().count(b"\n") - 1  # its first line says whose it is
            mine = seen.setdefault(path.name, [])
            mine += [now] * (there - len(mine))
        if over:
            return seen
        time.sleep(LOOK_SECONDS)


def answers(out: Path, questions: int) -> dict[str, Any]:
    """What the one cell was answered. Raises CheckFailed where a question has no answer."""
    (record,) = (json.loads(path.read_text(encoding="utf-8")) for path in out.glob("cells/*/record.json"))
    if errors := [question["error"] for question in record["questions"] if question["error"]]:
        raise CheckFailed(f"{len(errors)} questions ended in an error: {errors[0]}")
    said = {question["doc_id"]: question["prediction"] for question in record["questions"]}
    if len(said) != questions:
        raise CheckFailed(f"{len(said)} of {questions} questions were asked")
    return {"questions": questions, "said": said}


def times(seen: Seen, gpus: int) -> dict[str, Any]:
    """Loading and asking of a run. Raises CheckFailed where fewer processes answered than there are GPUs."""
    answered = [own for own in seen.values() if own]
    if len(answered) != gpus:
        raise CheckFailed(f"{len(answered)} processes answered on {gpus} GPUs")
    loading = max(min(own) for own in answered)
    later = [moment for own in answered for moment in own if moment > loading]
    if not later:
        raise CheckFailed(f"no answer came after all of {gpus} processes had answered once: ask more questions")
    asking = max(later) - loading
    return {
        "loading_s": round(loading, 3), "asking_s": round(asking, 3), "answers": len(later),
        "questions_per_s": round(len(later) / asking, 4),
    }  # fmt: skip


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
