"""One cell: a checkpoint under given attention settings asked one suite, through lmms-eval, question by question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from evals.checkpoint import Checkpoint, load
from evals.journal import Journal
from evals.question import Sampling, content_of
from evals.scores import summarize_costs
from evals.scoring import kept_apart, rows, scores
from evals.suites import Suite, get_suite
from evals.task import load_task, require_videos, synthetic_data
from videonsa.config import NSASettings, SettingsError, SuiteSettings
from videonsa.disk import DiskError, disk_error
from videonsa.identity import evaluation_parts, identity, part_version, settings_inputs
from videonsa.methods.entries import MethodSettings
from videonsa.methods.registry import code_of
from videonsa.surroundings import settings_decide

JUDGES = 4  # questions to a judge at a time, as lmms-eval does

Progress = Callable[[int, int], None]  # finished questions, all questions


class NothingAnswered(RuntimeError):
    """Every question of a suite was an error: there is no accuracy."""


@settings_decide(alone=True)
def evaluate(
    checkpoint: Path | str | Checkpoint,
    nsa: dict[str, Any],
    suite: SuiteSettings,
    folder: Path,
    on_progress: Progress | None = None,
    *,
    data: Path | str | None = None,
    method: MethodSettings | None = None,
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
        method: what attends in NSA's place (videonsa/methods); None: as `nsa` says.
    Returns:
        {"scores", "questions", "summary", "weights"} of an evaluation record.
    Raises:
        SettingsError: an unknown suite or setting, a checkpoint that cannot serve; one line.
        NothingAnswered: every question was an error. OSError: the folder cannot be written. DiskError: nor can a full
            or failing disk; also when it no longer gives the videos.
    """
    kind = get_suite(suite.name)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    settings = loaded.use(nsa, method)
    task = load_task(suite, data)
    content = identity(_content(suite, method))
    total = min(len(task.eval_docs), suite.limit or len(task.eval_docs))
    require_videos(suite, task, total)
    key = identity(_key(loaded, settings, method, suite, content))
    journal = Journal(folder, key, lambda: _shown(loaded, task, total))

    def on_row(row: dict[str, Any]) -> None:
        journal.append(row)
        if on_progress is not None:
            on_progress(len(journal.rows), total)

    if on_progress is not None:
        on_progress(len(journal.rows), total)
    samples = _ask(loaded, kind, suite, _sampling(suite, method), task, dict(journal.rows), on_row, content)
    questions = rows(kind, journal.rows, samples)
    if any(row["error"] for row in questions):
        _require_still(suite, task, total)
    if all(row["error"] for row in questions):
        first = questions[0]["error"]
        raise NothingAnswered(f"none of the {len(questions)} questions could be answered; the first: {first}")
    return {
        "scores": scores(kind, task, questions, samples),
        "questions": questions,
        "summary": summarize_costs(questions, settings if method is None else None),
        "weights": loaded.weights,
    }


def _require_still(suite: SuiteSettings, task: Any, total: int) -> None:
    """Raise DiskError when the videos have gone since the first question: no number is made of those before."""
    try:
        require_videos(suite, task, total)
    except SettingsError as error:
        raise DiskError(f"{error}; they were there when it began") from None


def _shown(loaded: Checkpoint, task: Any, total: int) -> dict[int, str]:
    """What each question shows; those that cannot be told are left out. Raises DiskError, as no answer may be lost."""
    shown = {}
    for number in range(total):
        try:
            shown[number] = content_of(loaded.processor, task.doc_to_messages(task.eval_docs[number]))
        except (Exception, SystemExit) as error:  # asked again, it is an error of this question
            if (disk := disk_error(error, f"question {number} of {task.config.task}")) is not None:
                raise disk from error
    return shown


def _key(
    loaded: Checkpoint, settings: NSASettings, method: MethodSettings | None, suite: SuiteSettings, content: str
) -> dict[str, Any]:
    """Everything that can change an answer."""
    ours = get_suite(suite.name).family is not None
    code = {part: part_version(part) for part in evaluation_parts(settings.attention, settings.semantics, ours)}
    spends = {} if method is None else {"method": method.inputs()}
    return spends | {
        "checkpoint": loaded.identity,
        "dtype": str(loaded.model.dtype),
        "device": loaded.device.type,
        "nsa": settings_inputs(settings),
        "suite": content,
        "max_new_tokens": suite.max_new_tokens,
        "versions": {name: version(name) for name in ("lmms-eval", "torch", "transformers")},
        "code": code if method is None else code | code_of(method, lambda part, find: find()),
    }


def _content(suite: SuiteSettings, method: MethodSettings | None) -> dict[str, Any]:
    """What decides the questions' tensors, but for the checkpoint's processor."""
    synthetic = synthetic_data(suite)
    sampling = _sampling(suite, method).inputs
    return {"task": suite.task, "sampling": sampling, "data": synthetic.identity if synthetic else None}


def _sampling(suite: SuiteSettings, method: MethodSettings | None) -> Sampling:
    shares = {} if method is None else method.sampling()
    return Sampling(suite.frames, suite.fps, suite.tokens_per_frame, **shares)


def _ask(
    loaded: Checkpoint,
    kind: Suite,
    suite: SuiteSettings,
    sampling: Sampling,
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

    model = VideoNSA.of(loaded, sampling, known, on_row, content)
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
