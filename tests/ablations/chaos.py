"""A small real sweep on this machine while things break at random, and whether it finds what a calm one does.

    python -m tests.ablations.chaos --seed 7 [--faults 12] [--out FOLDER]

Real trainings and evaluations in worker processes. The command and its workers are killed, terminated and suspended,
W&B is away, the disk fills up and becomes read-only; the one who types only ever types the same command again. In the
end the table is the calm run's to the last digit (but for times and memory), and no lock is left.
tests/slurm/chaos.py does the same to jobs, daemons and nodes.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablations.snapshot import take_snapshot
from tests.ablations.conftest import ROOT, hears_signals, results
from tests.disks import fill, remount

SETTINGS = ("suites=synth_needle", "train.steps=12", "train.save_every=3", "suite.limit=6")
REAL = ("ablations/run.py", "--grid", "smoke", *(word for setting in SETTINGS for word in ("--set", setting)))
MEASURED = ("_ms", "_mib", "seconds", "gpu", "time")  # ends or parts of columns that two equal runs may differ in
FINISH_TRIES = 5  # of the same command, once nothing breaks any more
AWAY = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


class Chaos:
    """The sweep, and all that can happen to it."""

    def __init__(self, seed: int, folder: Path, disk: Path, own: bool, command: Sequence[str] = REAL):
        """`disk`: where the sweep's folder lies; with `own` it can be filled."""
        self.random, self.disk, self.own, self.typed = random.Random(seed), disk, own, command
        # Whoever edits the checkout changes nothing.
        self.code = take_snapshot(folder / "code") if command is REAL else ROOT
        self.calm, self.out, self.log = folder / "calm", disk / "runs", folder / "user.log"
        self.user: subprocess.Popen[str] | None = None
        self.wrong: list[str] = []

    def start(self, out: Path, **more: str) -> subprocess.Popen[str]:
        """The command that is typed, its output in a file on another disk."""
        command = [sys.executable, *self.typed, "--out", str(out), "--workers", "2"]
        environment = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"} | more
        with open(self.log, "a", encoding="utf-8") as log:
            return subprocess.Popen(
                command, cwd=self.code, env=environment, stdout=log, stderr=log, text=True, preexec_fn=hears_signals
            )

    def type(self) -> None:
        """Type the command, unless it runs; W&B is sometimes away."""
        if self.user is None or self.user.poll() is not None:
            self.user = self.start(self.out, **(AWAY if self.random.random() < 0.3 else {}))

    def workers(self) -> list[int]:
        """The processes below the command."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parents[int(entry.parent.name)] = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
        found = [self.user.pid] if self.user is not None else []
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]

    def send(self, number: signal.Signals, worker: bool) -> None:
        """A signal to the command, or to one of its workers."""
        assert self.user is not None
        pids = self.workers() if worker else [self.user.pid]
        if pids and self.user.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.random.choice(pids), number)

    # What can happen.

    def kill(self) -> None:
        self.send(signal.SIGKILL, worker=False)

    def terminate(self) -> None:
        self.send(signal.SIGTERM, worker=False)

    def kill_worker(self) -> None:
        self.send(signal.SIGKILL, worker=True)

    def suspend(self) -> None:
        """All of it, or what happens to run at the moment, for some seconds."""
        assert self.user is not None
        pids = [pid for pid in (self.user.pid, *self.workers()) if self.random.random() < 0.7]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids if self.user.poll() is None else []:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(self.random.uniform(0.5, 4) if number == signal.SIGSTOP else 0)

    def fill(self) -> None:
        """The disk is full, or nearly, for some seconds."""
        filling = fill(self.disk, leave=self.random.choice((0, 5_000, 200_000, 3_000_000)))
        time.sleep(self.random.uniform(1, 8))
        filling.unlink()

    def protect(self) -> None:
        """The disk is read-only for some seconds. (While a file is open for writing it cannot be made so.)"""
        with suppress(subprocess.CalledProcessError):
            remount(self.disk, "ro")
            time.sleep(self.random.uniform(1, 5))
            remount(self.disk, "rw")

    def again(self) -> None:
        """Another shell, the same command, while the first runs: it is refused, or goes on where nothing runs."""
        other = self.start(self.out)
        code = self.end(other)
        if code not in (0, 1):
            self.wrong.append(f"a second command: exit code {code}")

    def end(self, process: subprocess.Popen[str], seconds: float = 2000) -> int:
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            self.wrong.append(f"no end within {seconds:g} s")
            return process.wait()

    def run(self, faults: int) -> list[str]:
        """Everything; returns what is wrong with the end."""
        begun = time.monotonic()
        if self.end(self.start(self.calm), 3000) != 0:
            return ["the calm run failed", self.log.read_text(encoding="utf-8")[-2000:]]
        pause = (time.monotonic() - begun) / 2  # at most, between faults: they come to all of it, on any machine
        begun = time.monotonic()
        names = ["kill", "terminate", "kill_worker", "suspend", "again"]
        names += ["fill", "fill", "protect"] if self.own else []
        for number in range(faults):
            self.type()
            time.sleep(self.random.uniform(0, pause))
            name = self.random.choice(names)
            records = len(list(self.out.glob("*/*/record.json")))
            say(f"{time.monotonic() - begun:6.1f} s  fault {number + 1}: {name}; {records} records")
            getattr(self, name)()
        code = -1
        for number in range(FINISH_TRIES):
            if self.user is not None:
                code = self.end(self.user)
                say(f"{time.monotonic() - begun:6.1f} s  calm again, command {number}: exit code {code}")
            if code == 0:
                break
            self.user = self.start(self.out)
        return self.wrong + self.differences() + ([] if code == 0 else ["no exit code 0"])

    def differences(self) -> list[str]:
        """Lines on what is not as the calm run left it."""
        calm, found = results(self.calm), results(self.out)
        wrong = [f"{key}: {'differs' if key in found else 'missing'}" for key in calm if calm[key] != found.get(key)]
        wrong += [f"{key}: too many" for key in found if key not in calm]
        wrong += ["the table differs"] if table(self.calm) != table(self.out) else []
        wrong += [f"{path}: left" for name in ("lock", "claim", "*.heir") for path in self.out.rglob(name)]
        said = self.log.read_text(encoding="utf-8")
        return wrong + ([said[max(0, said.find("Traceback") - 300) :][:3000]] if "Traceback" in said else [])


def say(text: str) -> None:
    print(text, flush=True)


def table(out: Path) -> list[dict[str, Any]]:
    """table.csv, every digit, but for what was measured; of a sweep of fake stages its text."""
    (path,) = [*out.glob("sweeps/*/table.csv")] or out.glob("sweeps/*/table.txt")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if not any(part in key for part in MEASURED)} for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    from tests.disks import small_disk

    folder = Path(tempfile.mkdtemp(prefix=f"videonsa-chaos-{arguments.seed}-", dir=arguments.out))
    with small_disk(folder / "disk", "size=32m") as disk:
        wrong = Chaos(arguments.seed, folder, disk, own=True).run(arguments.faults)
    print("\n".join(wrong) or "as the calm run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
