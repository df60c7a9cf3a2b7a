"""Deal one evaluation cell over GPUs: questions a second of so many of them. Random weights, the sweep's command.

    python -m videonsa.bench.dealing --gpus 1 2 --out benchmarks/dealing.csv

A checkpoint of the model's shape is written to a folder, and `ablations/run.py` asks one cell of it, a synthetic suite
whose videos are drawn, on the first so many GPUs: a process a GPU, whichever is free takes the next video. Answers are
counted as they reach the disk. loading_s: from the start until each process has answered once; asking_s and answers:
from then until the last answer, which are what questions_per_s and speedup (over the first number of GPUs) are of;
command_s: the whole command. Correct first: all answers are those of the first run, and each process gave some.

A sweep starts a process for each 64 answers at most, as fewer are sooner given than another model is loaded; this
command asks fewer and takes the limit down. On a CPU processes stand for GPUs: `--model tiny --tokens 128` is a try.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from videonsa.bench import command, shapes
from videonsa.bench.check import CheckFailed
from videonsa.config import NSASettings
from videonsa.options import positive

NAME = "videonsa.bench.dealing"
SUITE = "synth_long_needle"
TOKENS = 64  # of a temporal patch, which is two frames
COLUMNS = (
    *("gpu", "gpus", "model", "layers", "tokens", "questions", "loading_s", "asking_s", "answers", "questions_per_s"),
    *("speedup", "command_s", "torch", "triton", "transformers", "commit"),
)
START = (
    "import sys; from ablations import plan, run; plan.WORTH_A_JOB = int(sys.argv[1]); sys.exit(run.main(sys.argv[2:]))"
)
LOOK_SECONDS = 0.02

Seen = dict[str, list[float]]  # a process's file of answers -> when each answer was seen, in seconds from the start


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    parser.add_argument("--model", choices=shapes.NAMES, default="7b")
    parser.add_argument("--gpus", type=positive, nargs="+", default=[1, 2], help="how many, one run each")
    parser.add_argument("--tokens", type=positive, default=32768, help=f"of a video, a multiple of {TOKENS}")
    parser.add_argument("--questions", type=positive, default=128, help="at most the suite's 192")
    parser.add_argument("--layers", type=positive, help="of the decoder; fewer are for a try")
    parser.add_argument("--vision-layers", type=positive, help="of the tower")
    options = parser.parse_args(arguments)
    if options.tokens % TOKENS:
        parser.error(f"--tokens {options.tokens}: give whole temporal patches of {TOKENS} tokens")
    if options.questions < 2 * max(options.gpus) or options.questions > 192:
        parser.error(f"--questions {options.questions}: give 2 for each of {max(options.gpus)} GPUs or more, up to 192")
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
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        layers = write_checkpoint(options, folder / "weights")
        grid = write_grid(options, folder)
        first: Mapping[str, Any] = {}
        try:
            for gpus in options.gpus:
                row = {"gpus": gpus, "model": options.model, "layers": layers, "tokens": options.tokens}
                made = measured(grid, folder / f"on-{gpus}", gpus, options.questions)
                if first and made["said"] != first["said"]:
                    raise CheckFailed(f"on {gpus} GPUs other answers were given than on {options.gpus[0]}")
                first = first or made
                row |= made | {"speedup": round(made["questions_per_s"] / first["questions_per_s"], 3)}
                print(", ".join(f"{name} {row[name]}" for name in COLUMNS if name in row), flush=True)
                table.add({name: row[name] for name in COLUMNS if name in row})
        except CheckFailed as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def write_checkpoint(options: argparse.Namespace, folder: Path) -> int:
    """A folder as transformers saves it; returns the decoder's layers. The device's memory is given back."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nsa = shapes.TINY if options.model == "tiny" else NSASettings()
    model, processor = shapes.build(options.model, nsa, torch.bfloat16, device, options.layers, options.vision_layers)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    layers = model.config.text_config.num_hidden_layers
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return layers


def write_grid(options: argparse.Namespace, folder: Path) -> list[str]:
    """The sweep's arguments that name one cell of that checkpoint."""
    suite = {"frames": 2 * options.tokens // TOKENS, "tokens_per_frame": TOKENS, "limit": options.questions}
    grid = {
        "question": "How many questions a second do so many GPUs answer?",
        "asks": "test",
        "axes": {"nsa.attention": ["nsa"]},
        "base": {"checkpoint": str(folder / "weights")},
        "suites": {SUITE: suite},
    }
    profile = {"description": "One cell, no probes.", "train": {"model": "tiny", "steps": 1}, "suites": {SUITE: {}}}
    for name, content in (("grid", grid), ("profile", profile)):
        (folder / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return ["--grid", str(folder / "grid.yaml"), "--profile", str(folder / "profile.yaml"), "--cluster", "local"]


def measured(grid: list[str], out: Path, gpus: int, questions: int) -> dict[str, Any]:
    """One run of the command on so many GPUs: its times, and `said`, all answers by question. Raises CheckFailed."""
    each = max(1, questions // gpus)
    run = [sys.executable, "-c", START, str(each), *grid, "--out", str(out), "--workers", str(gpus)]
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(visible()[:gpus])} if torch.cuda.is_available() else {}
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with log.open("w", encoding="utf-8") as lines:
        process = subprocess.Popen(
            run, stdout=lines, stderr=subprocess.STDOUT, env={**os.environ, **devices, "WANDB_MODE": "disabled"}
        )
        seen = watched(process, out, began)
    command_s = time.perf_counter() - began
    if process.returncode:
        raise CheckFailed(f"on {gpus} GPUs: {log.read_text(encoding='utf-8')[-2000:]}")
    (record,) = (json.loads(path.read_text(encoding="utf-8")) for path in out.glob("cells/*/record.json"))
    said = {question["doc_id"]: question["prediction"] for question in record["questions"]}
    return {"questions": len(said), "command_s": round(command_s, 3), "said": said} | times(seen, gpus)


def visible() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def watched(process: subprocess.Popen, out: Path, began: float) -> Seen:
    """When each answer was seen on the disk, until the process ends."""
    seen: Seen = {}
    while True:
        ended = process.poll() is not None
        now = time.perf_counter() - began
        for path in out.glob("answers/*/*.jsonl"):
            there = path.read_bytes().count(b"\n") - 1  # its first line says whose it is
            mine = seen.setdefault(path.name, [])
            mine += [now] * (there - len(mine))
        if ended:
            return seen
        time.sleep(LOOK_SECONDS)


def times(seen: Seen, gpus: int) -> dict[str, Any]:
    """Loading and asking of a run. Raises CheckFailed where fewer processes answered than there are GPUs."""
    answered = [times for times in seen.values() if times]
    if len(answered) != gpus:
        raise CheckFailed(f"{len(answered)} processes answered on {gpus} GPUs")
    loading = max(min(times) for times in answered)
    later = [time for times in answered for time in times if time > loading]
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
