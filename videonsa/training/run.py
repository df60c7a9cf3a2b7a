"""Train a model: settings and a folder in, a checkpoint folder out.

python -m videonsa.training.run settings.json FOLDER

FOLDER/settings.json     what was asked; a folder serves one run
FOLDER/start.json        how many weights learn, and what the gates are at the start: fresh, trained or unused
FOLDER/metrics.jsonl     a line a step
FOLDER/log.txt           starts, samples that were skipped, and what is to be looked at
FOLDER/skipped.jsonl     these samples, and why, each once; absent where there are none
FOLDER/checkpoints/      to resume from; calling again goes on where the last call stopped
FOLDER/final/            the trained model, as transformers saves it; complete when it is there
"""

# Surroundings first: torch and transformers read them as they are imported.

from __future__ import annotations

if __name__ == "__main__":
    import time

    BEGAN = time.monotonic()  # before torch is imported, which takes its part of a limit

    from videonsa.bootstrap import settle

    settle()

import json
import logging
import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLProcessor

from videonsa import options
from videonsa.config import SettingsError, TrainSettings, from_dict, to_dict
from videonsa.identity import settings_inputs
from videonsa.limit import REACHED, Limit
from videonsa.modeling.vision import speed_up_vision
from videonsa.record import write_text
from videonsa.surroundings import equal_bits, full_products, settings_decide
from videonsa.training.checkpoint import drafted, remove
from videonsa.training.journal import Bar, Handed, Journal, Teller
from videonsa.training.loop import Diverged, Trainer
from videonsa.training.skipped import in_words
from videonsa.training.sources import Source, SyntheticSource, VideoSource
from videonsa.training.start import start, told
from videonsa.training.watch import Leave, Left, Stalled, Trouble, told_by_sigterm
from videonsa.values import number, one_line

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # (steps done, steps in all)
Words = Callable[[str], None]
TERMINATED = 143  # exit code, as a shell says of what SIGTERM ended: the same command goes on
ALIKE = (Diverged, Trouble, Left)  # raised in all processes at once: the first one says it


def train(
    settings: TrainSettings,
    folder: Path | str,
    on_progress: Progress | None = None,
    on_words: Words | None = None,
    limit: Limit | None = None,
) -> Path:
    """Train as the settings say, going on from the folder's newest checkpoint; returns folder/"final".

    SIGTERM, and the limit where there is one, have it save after the step that it is at, and leave.

    Args:
        folder: of this run alone.
        on_progress: called after each step with (done, total); without it a progress bar is shown.
        on_words: beside on_progress, called with how it goes: loss, tokens a second, troubles.
    Raises:
        SettingsError: data, model or settings that cannot work, or a folder of a run with others, in one line.
        Diverged: the loss, the gradient or a weight is no number any more.
        Trouble, Stalled: what `stop_at` names was seen.
        Left: it was told to leave or its time is up, and its last step is saved.
        DiskError: nothing can be written any more; the last checkpoint stays.
    """
    folder = Path(folder)
    final = folder / "final"
    if final.is_dir():
        remove(folder / "checkpoints")  # where a kill came between
        return final
    claim(folder, settings)
    threads = 1 if settings.model == "tiny" else None
    same = equal_bits(settings.deterministic)
    with settings_decide() as hidden, full_products(), same, logged(folder / "log.txt"), torch_threads(threads):
        if hidden:
            log.info("settings decide, not %s", ", ".join(hidden))
        with told_by_sigterm(limit) as leave:
            _train(settings, folder, None if on_progress is None else Handed(on_progress, on_words), leave)
    return final


def _train(settings: TrainSettings, folder: Path, teller: Teller | None, leave: Leave) -> None:
    model, processor, gates = start(settings)
    speed_up_vision(model)
    trainer = Trainer(settings, model, processor, make_source(settings, processor))
    main = trainer.accelerator.is_main_process
    if main:
        tell_start(told(model, gates), folder)
    first = trainer.resume(folder)
    trainer.leave = leave
    trainer.teller = teller or (Bar(trainer.source.steps) if main else Teller())
    with Journal(folder, settings, first) if main else nullcontext() as journal:
        with trainer.teller:
            trainer.run(folder, journal)
        write_final(trainer, folder)


def tell_start(found: dict[str, Any], folder: Path) -> None:
    """Say in the log, and for the record, what the run starts from."""
    log.info("%(learning)s of %(parameters)s weights learn; gates at the start: %(gates)s", found)
    write_text(folder / "start.json", json.dumps(found) + "\n")


def claim(folder: Path, settings: TrainSettings) -> None:
    """Write the settings into the folder; going on there with others would mix two runs, and is refused."""
    file = folder / "settings.json"
    if not file.exists():
        write_text(file, json.dumps(to_dict(settings), indent=1) + "\n")
        return
    there = settings_inputs(from_dict(TrainSettings, json.loads(file.read_text(encoding="utf-8")), str(file)))
    asked = settings_inputs(settings)
    changed = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
    if changed:
        raise SettingsError(f"folder {str(folder)!r} holds a run with other {', '.join(changed)}: give another folder")


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads while the context lasts; None: as many as before.

    The tiny model gets one, beside the thread that makes its samples: 200 steps on two cores took 24 s, and 37 s with
    two threads an operation. Also, its numbers then do not depend on the machine's number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """What the package logs, also in a file while the context lasts."""
    logger, handler = logging.getLogger("videonsa"), logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def make_source(settings: TrainSettings, processor: Qwen2_5_VLProcessor) -> Source:
    """The samples that the settings name."""
    return SyntheticSource(settings) if settings.data == "synth" else VideoSource(settings, processor)


def write_final(trainer: Trainer, folder: Path) -> None:
    """Save weights, configuration with the mean gates, and processor; then the checkpoints to resume from can go."""
    trainer.check_weights()
    gates, weights = trainer.mean_gates(), trainer.weights()
    main = trainer.accelerator.is_main_process
    with drafted(folder / "final", trainer.bytes, main) as draft:
        if main:
            model: Any = trainer.accelerator.unwrap_model(trainer.model)
            model.config.static_gates = gates
            if trainer.settings.precision == "bf16":
                model.to(torch.bfloat16)  # what it saves as its type
                weights = as_bfloat16(weights)
            model.save_pretrained(draft, state_dict=weights)
            trainer.processor.save_pretrained(draft)
    if main:
        remove(folder / "checkpoints")
    trainer.accelerator.wait_for_everyone()


def as_bfloat16(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in bfloat16; names that shared one tensor still do, so that it is saved once."""
    made: dict[int, Tensor] = {}
    return {name: made.setdefault(tensor.data_ptr(), tensor.to(torch.bfloat16)) for name, tensor in weights.items()}


def read_settings(file: Path) -> TrainSettings:
    """The settings in a JSON file, whose numbers are read as all are. Raises SettingsError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        read = partial(number, where=str(file))
        content = json.loads(text, parse_int=read, parse_float=read, object_pairs_hook=partial(_each_once, file))
    except SettingsError:
        raise
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{file}: no JSON: {str(error)[:100]}") from None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror or error}") from None
    return from_dict(TrainSettings, content, str(file))


def _each_once(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise SettingsError(f"{file}: {twice[0]} stands twice")
    return dict(pairs)


def main(arguments: list[str], began: float | None = None) -> int:
    """The command line. Exit codes: 0 trained, 1 something failed, 2 wrong input, 75 time (--minutes) is up, and it
    has saved, 143 told to leave by SIGTERM, likewise."""
    parser = options.Parser(
        prog="python -m videonsa.training.run", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=options.folder, metavar="settings.json")
    parser.add_argument("folder", type=options.folder, metavar="FOLDER")
    parser.add_argument("--minutes", type=options.positive, metavar="M", help=options.MINUTES)
    asked = parser.parse_args(arguments)
    limit = Limit(asked.minutes, began)
    try:
        print(train(read_settings(asked.settings), asked.folder, limit=limit))
        if skipped := in_words(asked.folder):
            print(skipped, file=sys.stderr)
    except Left as left:
        _say(left, f"{left}; the same command goes on")
        return REACHED if limit.reached else TERMINATED
    except (SettingsError, OSError, FloatingPointError, Trouble, Stalled) as error:
        _say(error, f"error: {error}")
        return 2 if isinstance(error, SettingsError) else 1
    return 0


def _say(error: BaseException, text: str) -> None:
    if os.environ.get("RANK", "0") == "0" or not isinstance(error, ALIKE):
        print(one_line(text), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], BEGAN))
