"""Time variants of one checkpoint on the same videos, beside as many runs of lmms-eval's own Qwen2.5-VL.

    python -m videonsa.bench.sweep --out benchmarks/sweep.csv    # what is recorded there are the defaults

Ours is an evaluation's own path, evals/run.py: each video is read by worker processes, becomes tensors and goes through
the tower once, and is prefilled and answered under each variant. ours_s: wall clock of all videos under all variants,
once each variant has run. Theirs is lmms-eval's class `qwen2_5_vl` (chat), from its package, around transformers' model
with the same weights (they are drawn, not loaded): its generate_until, with its reading; theirs_s: of all videos once,
of which as many runs are needed as there are variants. Without reading: ours less what the model waited for reading
(tensors included); theirs its model alone. ratio: their runs over ours. Scoring is in neither.

On a CPU, where nothing is read ahead, `--model tiny` is for a try.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from evals.checkpoint import Checkpoint
from evals.run import SuiteRun
from videonsa.bench import command, suite
from videonsa.bench.check import CheckFailed
from videonsa.bench.question import stock_of
from videonsa.options import positive
from videonsa.video.readers import cores

NAME = "videonsa.bench.sweep"
BUDGETS = ((36, 32), (35, 64), (34, 128), (32, 256), (28, 512), (20, 1024), (4, 2048), (17, 64), (64, 512))  # b, w
TINY_BUDGETS = ((1, 2), (2, 4), (1, 8), (5, 4), (4, 8), (2, 16), (11, 4), (8, 16), (4, 32))
PIXELS = 28**2  # of a vision token
COLUMNS = (
    *("gpu", "model", "variants", "videos", "size", "seconds", "frames", "tokens", "their_tokens", "answer", "cores"),
    *("ours_s", "ours_waited_s", "theirs_s", "theirs_reading_s", "theirs_rest_s", "theirs_model_s"),
    *("ratio", "ratio_without_reading", "theirs", "layers", "torch", "triton", "transformers", "commit"),
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command.parser(NAME, __doc__)
    suite.add_videos(parser, videos=2, seconds=600)
    parser.add_argument("--variants", type=positive, default=len(BUDGETS), help=f"at most {len(BUDGETS)}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and append the row; 0 when it came, 1 when an answer is an error, 2 when it cannot begin."""
    return suite.measured(NAME, COLUMNS, parse(arguments), row)


def row(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    task = suite.write_files(place / "videos", options.videos, options.size, options.seconds)
    loaded = suite.checkpoint(options.model, options.layers, options.vision_layers)
    ours = our_times(options, loaded, task, place)
    print(f"ours: {ours}", flush=True)
    theirs = their_times(options, loaded, task)
    print(f"theirs, one run of {ours['variants']}: {theirs}", flush=True)
    runs = ours["variants"]
    ratios = {
        "ratio": round(runs * theirs["theirs_s"] / ours["ours_s"], 3),
        "ratio_without_reading": round(runs * theirs["theirs_model_s"] / (ours["ours_s"] - ours["ours_waited_s"]), 3),
    }
    return {**suite.about(options, loaded), **ours, **theirs, **ratios, "cores": cores()}


def our_times(options: argparse.Namespace, loaded: Checkpoint, task: suite.Files, place: Path) -> dict[str, Any]:
    """All variants on all videos, once each variant has answered about the first video."""
    asked_as = suite.settings(options.frames, options.tokens_per_frame, options.answer)
    budgets = (TINY_BUDGETS if options.model == "tiny" else BUDGETS)[: options.variants]
    for folder, shown in (("warm", suite.Files(task.eval_docs[:1])), ("timed", task)):
        run = SuiteRun(asked_as, place / folder, task=shown)
        asked = [run.under(loaded, {"block_count": blocks, "window": window}) for blocks, window in budgets]
        began = time.perf_counter()
        run.ask(loaded, asked)
        seconds = time.perf_counter() - began
    rows = suite.answers(run, asked)
    return {
        "variants": len(asked),
        "tokens": rows[0]["prefill_tokens"],
        "ours_s": round(seconds, 3),
        "ours_waited_s": round(sum(row["model_waited_s"] for row in rows), 3),
    }


def their_times(options: argparse.Namespace, loaded: Checkpoint, task: suite.Files) -> dict[str, Any]:
    """lmms-eval's class on all videos, once, after a short video that warms it up."""
    from lmms_eval.models.chat import qwen2_5_vl as theirs

    loaded.use({"attention": "dense"})
    model = their_model(theirs.Qwen2_5_VL, options, loaded, task)
    clock: dict[str, float] = {}
    shapes_seen: list[int] = []
    with timed(clock, theirs, "process_vision_info"), timed(clock, model._model, "generate", shapes_seen):
        for frames, docs in ((4, range(1)), (options.frames, range(options.videos))):
            model.max_num_frames = frames
            clock.clear()
            began = time.perf_counter()
            said = model.generate_until([their_request(task, doc, options.answer) for doc in docs])
            seconds = time.perf_counter() - began
    if len(said) != options.videos:
        raise CheckFailed(f"{len(said)} answers to {options.videos} questions")
    parts = {"theirs_reading_s": clock["process_vision_info"], "theirs_model_s": clock["generate"]}
    parts |= {"theirs_s": seconds, "theirs_rest_s": seconds - sum(parts.values())}
    return {
        **{name: round(value, 3) for name, value in parts.items()},
        "their_tokens": shapes_seen[-1],
        "theirs": f"lmms_eval {version('lmms_eval')}, decord {version('decord')}",
    }


def their_model(kind: Any, options: argparse.Namespace, loaded: Checkpoint, task: suite.Files) -> Any:
    """Their model as its own __init__ leaves it, around weights that are here: it would load a folder."""
    from lmms_eval.api.model import lmms

    model = kind.__new__(kind)
    lmms.__init__(model)
    model._model, model._device, model.device_map = stock_of(loaded.model), loaded.device, str(loaded.device)
    model.processor, model._tokenizer = suite.processor(PIXELS, options.tokens_per_frame * PIXELS), None
    model._tokenizer, model._config = model.processor.tokenizer, model._model.config
    model.min_pixels, model.max_pixels, model.fps = PIXELS, options.tokens_per_frame * PIXELS, None
    model.system_prompt, model.reasoning_prompt, model.interleave_visuals = None, None, False
    model._rank, model._world_size, model.batch_size_per_gpu, model.use_cache = 0, 1, 1, True
    model.task_dict = {suite.TASK: {suite.SPLIT: task.eval_docs}}
    return model


def their_request(task: suite.Files, doc: int, answer: int) -> Any:
    from lmms_eval.api.instance import Instance

    given = ("", task.doc_to_messages, {"max_new_tokens": answer}, doc, suite.TASK, suite.SPLIT)
    about = {"task": suite.TASK, "doc_id": doc, "repeats": 1}
    return Instance(request_type="generate_until", arguments=given, idx=0, metadata=about)


@contextmanager
def timed(clock: dict[str, float], owner: Any, name: str, lengths: list[int] | None = None) -> Iterator[None]:
    """Seconds of the calls of a function, the device's included; of those with `input_ids` the lengths, too."""
    call: Callable[..., Any] = getattr(owner, name)

    def measured(*args: Any, **kwargs: Any) -> Any:
        if lengths is not None:
            lengths.append(kwargs["input_ids"].shape[1])
        began = time.perf_counter()
        output = call(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock[name] = clock.get(name, 0.0) + time.perf_counter() - began
        return output

    with patch.object(owner, name, measured):
        yield


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
