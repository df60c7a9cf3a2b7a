"""One cell: a checkpoint under given attention settings asked one suite, through lmms-eval, question by question."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from evals import decord
from evals.checkpoint import Checkpoint, load
from evals.content import MORE_TASKS
from evals.data import SyntheticData, data_folder, make_data
from evals.journal import Journal
from evals.question import Sampling
from evals.scores import summarize_costs
from evals.scoring import kept_apart, rows, scores
from evals.suites import Suite, get_suite
from videonsa.config import NSASettings, SettingsError, SuiteSettings, to_dict
from videonsa.identity import evaluation_parts, identity, part_version, settings_inputs

TASKS = Path(__file__).parent / "tasks"
JUDGES = 4  # questions to a judge at a time, as lmms-eval does
TOKEN = 28  # px of a vision token's side

Progress = Callable[[int, int], None]  # finished questions, all questions


class NothingAnswered(RuntimeError):
    """Every question of a suite was an error: there is no accuracy."""


def evaluate(
    checkpoint: Path | str | Checkpoint,
    nsa: dict[str, Any],
    suite: SuiteSettings,
    folder: Path,
    on_progress: Progress | None = None,
    *,
    data: Path | str | None = None,
) -> dict[str, Any]:
    """Ask all questions; a question that was answered before, in `folder`, is not asked again.

    Args:
        checkpoint: folder or hub name; or a loaded one (evals.checkpoint.load): then several cells need one load
            and, while the questions fit in memory (evals/question.py), decode each video once.
        nsa: fields of NSASettings, in place of those that the checkpoint was saved with.
        suite: as `evals.suites.suite_settings` gives it.
        folder: gets questions.jsonl, one line a finished question.
        on_progress: called after each question.
        data: folder for synthetic data; None: $VIDEONSA_DATA, or runs/data.
    Returns:
        {"scores", "questions", "summary"} of an evaluation record.
    Raises:
        SettingsError: an unknown suite or setting, a checkpoint that cannot serve; one line.
        NothingAnswered: every question was an error. OSError: the folder cannot be written.
    """
    kind = get_suite(suite.name)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    settings = loaded.use(nsa)
    task = load_task(suite, data)
    content = identity(_content(suite))
    journal = Journal(folder, identity(_key(loaded, settings, suite, content)))
    total = min(len(task.eval_docs), suite.limit or len(task.eval_docs))

    def on_row(row: dict[str, Any]) -> None:
        journal.append(row)
        if on_progress is not None:
            on_progress(len(journal.rows), total)

    if on_progress is not None:
        on_progress(len(journal.rows), total)
    samples = _ask(loaded, kind, suite, task, dict(journal.rows), on_row, content)
    questions = rows(kind, journal.rows, samples)
    if all(row["error"] for row in questions):
        first = questions[0]["error"]
        raise NothingAnswered(f"none of the {len(questions)} questions could be answered; the first: {first}")
    return {
        "scores": scores(kind, task, questions, samples),
        "questions": questions,
        "summary": summarize_costs(questions, settings),
    }


def _key(loaded: Checkpoint, settings: NSASettings, suite: SuiteSettings, content: str) -> dict[str, Any]:
    """Everything that can change an answer."""
    ours = get_suite(suite.name).family is not None
    return {
        "checkpoint": loaded.identity,
        "dtype": str(loaded.model.dtype),
        "device": loaded.device.type,
        "nsa": settings_inputs(settings),
        "suite": content,
        "max_new_tokens": suite.max_new_tokens,
        "versions": {name: version(name) for name in ("lmms-eval", "torch", "transformers")},
        "code": {part: part_version(part) for part in evaluation_parts(settings.attention, settings.semantics, ours)},
    }


def load_task(suite: SuiteSettings, data: Path | str | None = None) -> Any:
    """The suite's lmms-eval task: ours from its YAML file with the suite's settings, or a shipped one.

    Raises SettingsError for synthetic settings that are not valid, a data folder that cannot be written, or a task that
    neither lmms-eval nor the folder $VIDEONSA_TASKS has.
    """
    from lmms_eval.utils import load_yaml_config

    decord.importable()
    synthetic = synthetic_data(suite)
    if synthetic is None:
        return _shipped_task(suite.task, os.environ.get(MORE_TASKS))
    config = load_yaml_config(str(TASKS / f"{suite.task}.yaml"))
    config["dataset_kwargs"] = {**to_dict(synthetic), "folder": str(data_folder(data))}
    return config["class"](config=config)


@lru_cache(maxsize=1)
def _shipped_task(name: str, more: str | None) -> Any:
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager(include_path=more, model_name="videonsa")
    if name not in manager.all_tasks:
        raise SettingsError(f"lmms-eval has no task {name!r}, nor has the folder that ${MORE_TASKS} names ({more})")
    return get_task_dict([name], manager, "chat")[name]


def synthetic_data(suite: SuiteSettings) -> SyntheticData | None:
    """What a synthetic suite asks about, videos no larger than its tokens need; None for a shipped suite."""
    kind: Suite = get_suite(suite.name)
    if kind.family is None:
        return None
    size = TOKEN * max(2, math.isqrt(suite.tokens_per_frame))
    frames = suite.frames or 32
    questions = suite.limit or kind.questions or 1
    return SyntheticData(kind.family, questions=questions, frames=frames, size=size, seed=suite.seed)


def prepare_data(suite: SuiteSettings, data: Path | str | None = None) -> None:
    """Write a synthetic suite's videos now, before several processes want them; nothing for a shipped suite."""
    synthetic = synthetic_data(suite)
    if synthetic is not None:
        make_data(synthetic, data)


def _content(suite: SuiteSettings) -> dict[str, Any]:
    """What decides the questions' tensors, but for the checkpoint's processor."""
    synthetic = synthetic_data(suite)
    sampling = to_dict(_sampling(suite))
    return {"task": suite.task, "sampling": sampling, "data": synthetic.identity if synthetic else None}


def _sampling(suite: SuiteSettings) -> Sampling:
    return Sampling(suite.frames, suite.fps, suite.tokens_per_frame)


def _ask(
    loaded: Checkpoint,
    kind: Suite,
    suite: SuiteSettings,
    task: Any,
    known: dict[int, dict[str, Any]],
    on_row: Callable[[dict[str, Any]], None],
    content: str,
) -> list[dict[str, Any]]:
    """lmms-eval's samples, scored, of every question."""
    from lmms_eval import evaluator
    from lmms_eval.api import task as task_module
    from lmms_eval.tasks import TaskManager

    from evals.model import VideoNSA

    model = VideoNSA.of(loaded, _sampling(suite), known, on_row, content)
    task.set_config("generation_kwargs", {"max_new_tokens": suite.max_new_tokens}, update=True)
    with _without_bars(evaluator), _without_bars(task_module), kept_apart(kind, task):
        results = evaluator.simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=TaskManager(include_defaults=False),
            limit=suite.limit,
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=JUDGES if kind.judged else 1,
        )
    return results["samples"][task.config.task]


@contextmanager
def _without_bars(module: Any) -> Iterator[None]:
    """lmms-eval draws bars for steps that take milliseconds here, over whatever else is on the screen."""
    bar = module.tqdm
    with patch.object(module, "tqdm", lambda *args, **kwargs: bar(*args, **{**kwargs, "disable": True})):
        yield
