"""Stages that stand in for training and evaluation, so that the machinery of sweeps is tested in seconds.

A file FAULTS in the out folder's parent holds JSON: what should go wrong, by the name of a suite, "train" or "probe".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ablations.stages import Stages
from evals.answers import Answers
from tests.disks import fill
from videonsa.identity import identity

STAGES = Stages(*(f"tests.ablations.fakes:{name}" for name in ("train", "load", "Suite", "probe")))


def faults(out: Path) -> dict[str, Any]:
    path = out.parent / "FAULTS"
    return json.loads(path.read_text()) if path.is_file() else {}


def strike(out: Path, name: str) -> None:
    """Note that this was called, then do what FAULTS says: raise, die, eat memory, or take long."""
    with open(out.parent / "CALLS", "a", encoding="utf-8") as file:
        file.write(f"{name} {os.getpid()}\n")
    fault = faults(out).get(name)
    if fault == "raise":
        raise ValueError(f"{name} is broken")
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "fill":
        fill(out)
    if fault == "hog":
        hoard = bytearray(os.urandom(1 << 20)) * 2048  # 2 GiB
        time.sleep(5)
        del hoard
    if isinstance(fault, int | float):
        time.sleep(fault)


def train(settings: Any, folder: Path, on_progress: Any = None, on_words: Any = None) -> Path:
    """Three steps, or as many as FAULTS says, half a second each; goes on after the last one of metrics.jsonl."""
    out = folder.parent.parent
    slow = faults(out).get("train_steps")
    metrics = folder / "metrics.jsonl"
    begun = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
    strike(out, "train")
    for step in range(begun + 1, (slow or 3) + 1):
        time.sleep(0.5 if slow else 0)
        on_progress(step, slow or 3)
        with open(metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "loss": 1 / step, "tokens": 10 * step}) + "\n")
    final = folder / "final"
    final.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (final / name).write_text("{}")
    return final


def paced_train(settings: Any, folder: Path, on_progress: Any = None, on_words: Any = None) -> Path:
    """The real training, with a pause after each step: the seconds that FAULTS gives as its pace."""
    from videonsa.training.run import train as real_train

    out = folder.parent.parent
    strike(out, "train")

    def report(done: int, total: int) -> None:
        if on_progress is not None:  # the first of several processes
            on_progress(done, total)
        time.sleep(faults(out).get("pace", 0))

    return real_train(settings, folder, report, on_words)


def train_or_fail_second(settings: Any, folder: Path, on_progress: Any = None, on_words: Any = None) -> Path:
    """The second process fails while the first one waits for it."""
    if os.environ["RANK"] == "1":
        raise ValueError("the second process failed")
    time.sleep(200)
    return folder


def load(checkpoint: Any) -> Path:
    assert Path(checkpoint).is_dir()
    return checkpoint


class Suite:
    """In place of evals.run.SuiteRun: each variant's four questions are answered at once, under its own claim."""

    def __init__(self, suite: Any, folder: Path, *, data: Path, about: dict[str, Any], attempt: str) -> None:
        self.suite, self.out = suite, folder.parent.parent
        assert data == self.out / "data"
        assert attempt
        self.answers = Answers(folder, about, attempt)

    def under(self, loaded: Any, nsa: dict[str, Any], method: Any = None) -> Any:
        return SimpleNamespace(key=identity(nsa), error=None)

    def ask(self, loaded: Any, asked: list[Any], on_progress: Any, wait: bool) -> None:
        for number, one in enumerate(asked):
            on_progress(number, len(asked))
            if self.answers.settled(one.key, "all"):
                continue
            with self.answers.claimed(one.key, wait) as claim:
                if claim is None or self.answers.settled(one.key, "all"):
                    continue
                try:
                    strike(self.out, self.suite.name)
                except ValueError as error:
                    one.error = error
                    continue
                claim.check()
                self.answers.add(one.key, "all", {"prediction": "red", "error": None})
        self.answers.read()

    def complete(self, asked: Any) -> bool:
        return self.answers.settled(asked.key, "all")

    def score(self, asked: Any) -> dict[str, Any]:
        scores = [1, 1, 0, 1]
        questions = [
            {
                "doc_id": str(number),
                "answer": "red",
                "prediction": "red" if score else "blue",
                "score": score,
                "error": None,
            }
            for number, score in enumerate(scores)
        ]
        return {
            "questions": questions,
            "scores": {
                "metric": "exact_match",
                "accuracy": 0.75,
                "correct": 3,
                "questions": 4,
                "errors": 0,
                "chance": 0.25,
            },
            "summary": {"prefill_ms_p50": 5.0, "peak_memory_mib": 100.0, "attention_fraction": 0.5, "seconds": 0.1},
        }


def evaluate(
    loaded: Any, nsa: dict[str, Any], suite: Any, folder: Path, on_progress: Any = None, *, data: Any = None
) -> dict[str, Any]:
    """In place of evals.run.evaluate."""
    run = Suite(suite, folder, data=data, about={}, attempt="one")
    asked = run.under(loaded, nsa)
    run.ask(loaded, [asked], on_progress, wait=True)
    return run.score(asked)


def probe(checkpoint: Any, nsa: dict, suite: Any, videos: int = 8, *, data: Path) -> dict[str, Any]:
    assert Path(checkpoint).is_dir()
    out = Path(checkpoint).parent.parent.parent
    strike(out, "probe")
    return {"layers": [], "points": []}


def calls(out: Path) -> list[str]:
    """Names of the stages that were called, in order."""
    path = out.parent / "CALLS"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.is_file() else []


def pids(out: Path) -> list[int]:
    """Processes that ran stages."""
    return [int(line.split()[1]) for line in (out.parent / "CALLS").read_text().splitlines()]


def summary(sweep: Any) -> list[Path]:
    """In place of analysis: a table that says which cells have records."""
    rows = []
    for cell in sweep.cells:
        path = sweep.out / "cells" / cell.id / "record.json"
        rows.append(f"{cell}: {json.loads(path.read_text())['status'] if path.is_file() else 'missing'}")
    table = sweep.folder / "table.txt"
    table.write_text("\n".join(rows) + "\n")
    return [table]


def main(arguments: list[str]) -> int:
    """The command line with these stages."""
    from unittest.mock import patch

    from ablations import results, run

    code = os.environ.get("FAKE_CODE", "code")
    # The identity of code is tested apart: here it stays, whoever edits the checkout while tests run.
    stages = replace(STAGES, train="tests.ablations.fakes:paced_train") if "REAL_TRAINING" in os.environ else STAGES
    with patch.object(results, "summary", summary), patch("ablations.facts.part_version", lambda part: code):
        return run.main(arguments, stages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
