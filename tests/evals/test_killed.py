"""Processes, three at first, share one suite under two attentions, and are killed at random: every answer once, the
calm ones."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evals.answers import Answers
from evals.checkpoint import Checkpoint
from evals.run import SuiteRun
from evals.suites import suite_settings

ROOT = Path(__file__).parents[2]
SUITE = suite_settings("synth_needle", limit=24, frames=8)
VARIANTS: list[dict[str, Any]] = [{}, {"block_count": 1, "window": 2}]
WORKER = """
import sys
import time
from pathlib import Path
import torch
from evals.checkpoint import load
from evals.run import SuiteRun
from tests.evals.test_killed import SUITE, VARIANTS
torch.set_num_threads(1)
checkpoint, folder, data = sys.argv[1:]
loaded = load(checkpoint, device="cpu")
run = SuiteRun(SUITE, Path(folder), data=data)
asked = [run.under(loaded, nsa) for nsa in VARIANTS]
for wait in (False, True):
    run.ask(loaded, asked, lambda done, total: time.sleep(0.3), wait=wait)
assert all(map(run.complete, asked))
"""


def lines(folder: Path) -> list[dict[str, Any]]:
    texts = [path.read_text().split("\n")[1:-1] for path in folder.glob("*.jsonl")]
    return [json.loads(line) for text in texts for line in text]


def predictions(run: SuiteRun, loaded: Checkpoint) -> list[list[str]]:
    return [[row["prediction"] for row in run.score(run.under(loaded, nsa))["questions"]] for nsa in VARIANTS]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_at_random_while_three_share_a_cell(
    loaded: Checkpoint, folder: Path, data: Path, tmp_path: Path
) -> None:
    calm = SuiteRun(SUITE, tmp_path / "calm", data=data)
    calm.ask(loaded, [calm.under(loaded, nsa) for nsa in VARIANTS])
    shared, chance = tmp_path / "shared", random.Random(3)
    command = [sys.executable, "-c", WORKER, str(folder), str(shared), str(data)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)

    running, killed, seen = [start() for _ in range(3)], 0, 0
    while len(answers := lines(shared)) < len(calm.contents) * len(VARIANTS) and killed < 4:
        if len(answers) > seen + 1:  # it goes on, however often one is killed
            seen = len(answers)
            victim = running.pop(chance.randrange(len(running)))
            time.sleep(chance.uniform(0, 0.2))
            killed += victim.poll() is None
            victim.kill()
            victim.communicate()
            running += [start() for _ in range(chance.choice((0, 1, 2) if running else (1, 2)))]
        time.sleep(0.02)
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()
    assert killed > 1
    counts = Counter((line["key"], line["question"]) for line in lines(shared))
    assert set(counts.values()) == {1}
    assert len(counts) == len(calm.contents) * len(VARIANTS)
    calm_answers = predictions(calm, loaded)
    calm.answers = Answers(shared)
    assert predictions(calm, loaded) == calm_answers
