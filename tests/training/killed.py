"""A training that is killed (SIGKILL) at every change that it makes to a disk, one after the other, and goes on.

python -m tests.training.killed FOLDER: each process that is killed is a fork of this one, which imports once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.training.conftest import quick
from videonsa.training.checkpoint import finished, is_whole
from videonsa.training.run import train

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.chmod", "open")
PARTS = ("checkpoints", "final")


def killed_at(number: int, folder: Path) -> bool:
    """Train in a process that dies before its change of this number, from 1; False: it came to its end before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.addaudithook(Killer(number, str(folder)))
            train(quick(save_every=1, steps=3), folder, lambda done, total: None)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"change {number}"
    return False


class Killer:
    """Counts what Python is about to change below a folder's checkpoints and final weights."""

    def __init__(self, number: int, folder: str) -> None:
        self.left, self.folder = number, folder

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.fspath(arguments[0])
        if path.startswith(self.folder) and any(part in path[len(self.folder) :] for part in PARTS):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main(place: Path) -> None:
    """Prints how many kills there were. What stands after each is whole, and no less than what stood before."""
    number = kills = 0
    while True:
        number += 1
        folder = place / str(number)
        if not killed_at(number, folder):
            break
        kills += 1
        whole = [checkpoint.name for checkpoint in finished(folder / "checkpoints") if is_whole(checkpoint)]
        first = next(iter(folder.glob("metrics.jsonl")), None)
        told = first.read_text().count("\n") if first else 0  # a line comes before its step is saved
        assert (folder / "final").is_dir() or told < 2 or whole[-1] >= f"{told - 1:06d}", (number, told, whole)
        assert not killed_at(10**9, folder)
        left = sorted(path.name for path in folder.iterdir())
        assert left == ["final", "log.txt", "metrics.jsonl", "settings.json", "start.json"], (number, left)
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
