"""A suite: its questions asked of a checkpoint under any number of attentions, and its scores from their answers."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from evals.answers import Answers
from evals.asking import Ask, Asked, Unit, give, timed_ahead
from evals.checkpoint import Checkpoint, load
from evals.question import Content, Sampling, content_of
from evals.scores import summarize_costs
from evals.scoring import kept_apart, rows, scores
from evals.shown import Shown
from evals.suites import get_suite
from evals.task import load_task, require_videos, synthetic_data
from videonsa.config import NSASettings, SettingsError, SuiteSettings
from videonsa.disk import DiskError, disk_error
from videonsa.identity import evaluation_parts, identity, part_version, settings_inputs
from videonsa.methods.entries import MethodSettings
from videonsa.methods.registry import code_of
from videonsa.surroundings import collecting_new_objects, full_products, settings_decide
from videonsa.video import ABSENT, VideoError, fingerprint, in_time

JUDGES = 4  # questions to a judge at a time, as lmms-eval does
SECONDS = ("seconds", "model_waited_s", "reading_waited_s")  # of a cell: those of its answers

Progress = Callable[[int, int], None]  # answers that are there, answers in all


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
    method: MethodSettings | None = None,
) -> dict[str, Any]:
    """Ask all questions under one attention, and score the answers; what was answered before is not asked again.

    Args:
        checkpoint: folder or hub name; or a loaded one (evals.checkpoint.load).
        nsa: fields of NSASettings, in place of those that the checkpoint was saved with.
        suite: as `evals.suites.suite_settings` gives it.
        folder: of the answers (evals/answers.py); further attentions and processes may share it.
        on_progress: called after each question.
        data: folder for synthetic data; None: $VIDEONSA_DATA, or runs/data.
        method: what attends in NSA's place (videonsa/methods); None: as `nsa` says.
    Returns:
        {"scores", "questions", "summary", "weights", "answered_by"} of an evaluation record.
    Raises:
        SettingsError: an unknown suite or setting, a checkpoint that cannot serve; one line.
        NothingAnswered: every question was an error. OSError: the folder cannot be written. DiskError: nor can a full
            or failing disk; also when it no longer gives the videos.
    """
    get_suite(suite.name)
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
    loaded.use(nsa, method)  # whatever is wrong with it is said before any data is looked for
    run = SuiteRun(suite, folder, data=data, attempt=uuid.uuid4().hex)
    asked = run.under(loaded, nsa, method)
    run.ask(loaded, [asked], on_progress, wait=True)
    if asked.error is not None:
        raise asked.error
    return run.score(asked)


class SuiteRun:
    """A suite as it is asked here: its task, its questions, and the answers that are there."""

    def __init__(
        self,
        suite: SuiteSettings,
        folder: Path,
        *,
        data: Path | str | None = None,
        about: Mapping[str, Any] | None = None,
        attempt: str = "",
        task: Any = None,
    ) -> None:
        """folder, about, attempt: see evals.answers.Answers. data: see `evaluate`. task: what is asked in place of the
        suite's own, whose `doc_to_messages` is all that asking needs. Raises SettingsError, DiskError."""
        self.suite, self.kind = suite, get_suite(suite.name)
        self.task = task or load_task(suite, data)
        self.total = min(len(self.task.eval_docs), suite.limit or len(self.task.eval_docs))
        require_videos(suite, self.task, self.total)
        self.answers = Answers(folder, about, attempt)
        self._seen: dict[Path, str] = {}  # fingerprints of files
        self.contents = [self._content(number) for number in range(self.total)]

    def under(self, loaded: Checkpoint, nsa: Mapping[str, Any], method: MethodSettings | None = None) -> Asked:
        """The suite under an attention, as `evaluate` names it, for `ask`. Raises SettingsError where the checkpoint
        cannot be asked so."""
        settings = loaded.use(nsa, method)
        shares = {} if method is None else method.sampling()
        sampling = Sampling(self.suite.frames, self.suite.fps, self.suite.tokens_per_frame, **shares)
        key = identity(answer_key(loaded, settings, method, self.suite, sampling))
        return Asked(nsa, method, settings, sampling, loaded.watches, key, loaded.weights)

    @settings_decide(alone=True)
    @full_products()
    @collecting_new_objects()
    def ask(
        self, loaded: Checkpoint, asked: Sequence[Asked], on_progress: Progress | None = None, wait: bool = False
    ) -> None:
        """Ask what has no answer yet, video by video, beside whoever else does.

        What another process is at just now is left to it, or with `wait` waited for: then all is settled in the end.
        Raises DiskError.
        """
        report = on_progress or (lambda done, total: None)
        # Drawing takes the GPU that is measured, and on a CPU nothing is done ahead: it would take the same time.
        total, on_gpu = len(asked) * self.total, loaded.device.type == "cuda"
        goes_ahead = on_gpu and not self.kind.drawn
        alike = Counter(content.question for content in self.contents)  # one answer is that of all that ask the same
        report(self._settled(asked), total)
        readers = loaded.readers
        with ThreadPoolExecutor(1) as pool, ExitStack() as held:
            held.callback(pool.shutdown, cancel_futures=True)  # what is prepared ahead when this ends is not waited for
            dtype = loaded.model.dtype if on_gpu else None
            claimed = self._claimed(asked, partial(Shown, loaded.processor, loaded.reading, dtype), wait, held)
            begin = partial(Unit.begin, preparing=pool if goes_ahead else None)
            # A GPU finds its videos claimed, read and made into tensors, as many as there are readers; fewer where each
            # keeps it busy under many variants, so that no other job waits long for what is claimed.
            depth = max(1, readers.count // max(1, len(asked))) if goes_ahead and not wait else 0
            for unit, waits in timed_ahead(claimed, begin, depth):
                with unit.held:
                    done = self._settled(asked)
                    for one, question, row in give(loaded, unit, self.suite.max_new_tokens):
                        unit.claim.check()
                        self.answers.add(one.key, question, row | waits)
                        report(done := done + alike[question], total)
        self.answers.read()  # so that of several processes the last to come here sees all that the others gave

    def complete(self, asked: Asked) -> bool:
        """Each of its questions is settled, by whichever process."""
        return all(self.answers.settled(asked.key, content.question) for content in self.contents)

    def score(self, asked: Asked) -> dict[str, Any]:
        """What `evaluate` returns, from the answers alone: lmms-eval scores them, no model is asked.

        Raises NothingAnswered, DiskError.
        """
        found = {
            number: {**self.answers.rows[asked.key, content.question], "doc_id": number}
            for number, content in enumerate(self.contents)
        }
        samples = self._samples(found)
        questions = rows(self.kind, found, samples)
        if any(row["error"] for row in questions):
            self._require_still()
        if all(row["error"] for row in questions):
            first = questions[0]["error"]
            raise NothingAnswered(f"none of the {len(questions)} questions could be answered; the first: {first}")
        costs = summarize_costs(questions, asked.settings if asked.method is None else None)
        return {
            "scores": scores(self.kind, self.task, questions, samples),
            "questions": questions,
            "summary": costs | {name: round(sum(row[name] for row in found.values()), 3) for name in SECONDS},
            "weights": asked.weights,
            "answered_by": self._answered_by(found.values()),
        }

    def _content(self, number: int) -> Content:
        """What a question shows; one that cannot be told is asked, and then is an error of its own.

        Raises DiskError, as no answer may be lost.
        """
        try:
            return content_of(self._messages(number), self._fingerprint)
        except (Exception, SystemExit) as error:
            if (disk := disk_error(error, f"question {number} of {self.task.config.task}")) is not None:
                raise disk from error
            return Content(f"document-{number}", f"document-{number}")

    def _fingerprint(self, path: Path) -> str:
        """Of a file, looked at once, as its disk may not answer: then it is read by nobody, either."""
        if path not in self._seen:
            try:
                self._seen[path] = in_time(fingerprint, path)
            except VideoError:
                self._seen[path] = ABSENT
        return self._seen[path]

    def _messages(self, number: int) -> list[dict[str, Any]]:
        return self.task.doc_to_messages(self.task.eval_docs[number])

    def _units(self) -> dict[str, list[int]]:
        """The questions that show the same, by what that is: one process at a time asks them."""
        units: dict[str, list[int]] = {}
        for number, content in enumerate(self.contents):
            units.setdefault(content.shown, []).append(number)
        return units

    def _open(self, asked: Sequence[Asked], numbers: Sequence[int]) -> list[Ask]:
        """Those of these questions that are not settled."""
        first = {self.contents[number].question: number for number in reversed(numbers)}
        found = []
        for question, number in reversed(first.items()):
            under = [one for one in asked if one.error is None and not self.answers.settled(one.key, question)]
            if under:
                found.append(Ask(question, partial(self._messages, number), tuple(under)))
        return found

    def _claimed(
        self, asked: Sequence[Asked], shows: Callable[[], Shown], wait: bool, held: ExitStack
    ) -> Iterator[Unit]:
        """What is open, under this process's claim, which `held` gives back at last."""
        for shown, numbers in self._units().items():
            if not self._open(asked, numbers):
                continue
            mine = held.enter_context(ExitStack())
            claim = mine.enter_context(self.answers.claimed(shown, wait))
            asks = self._open(asked, numbers) if claim is not None else []
            if claim is not None and asks:
                yield Unit(asks, shows(), claim, mine)
            else:
                mine.close()

    def _settled(self, asked: Sequence[Asked]) -> int:
        settled = self.answers.settled
        return sum(settled(one.key, content.question) for one in asked for content in self.contents)

    def _require_still(self) -> None:
        """Raise DiskError when the videos have gone since the first question: no number is made of those before."""
        try:
            require_videos(self.suite, self.task, self.total)
        except SettingsError as error:
            raise DiskError(f"{error}; they were there when it began") from None

    def _answered_by(self, found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The processes that gave these answers, and how many each gave."""
        counts = Counter(row["by"] for row in found)
        return [{**self.answers.writers.get(by, {}), "questions": count} for by, count in sorted(counts.items())]

    def _samples(self, found: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """lmms-eval's samples, scored, of every question."""
        from lmms_eval import evaluator
        from lmms_eval.api import task as task_module
        from lmms_eval.tasks import TaskManager

        from evals.model import Answered

        task = self.task
        task.set_config("generation_kwargs", {"max_new_tokens": self.suite.max_new_tokens}, update=True)
        with _without_bars(evaluator), _without_bars(task_module), kept_apart(self.kind, task):
            results = evaluator.simple_evaluate(
                model=Answered(found),
                tasks=[task],
                task_manager=TaskManager(include_defaults=False),
                limit=self.suite.limit,
                bootstrap_iters=0,
                log_samples=True,
                process_docs_parallel=JUDGES if self.kind.judged else 1,
            )
        return results["samples"][task.config.task]


def answer_key(
    loaded: Checkpoint, settings: NSASettings, method: MethodSettings | None, suite: SuiteSettings, sampling: Sampling
) -> dict[str, Any]:
    """Everything that can change an answer, but for what is asked."""
    ours = get_suite(suite.name).family is not None
    code = {part: part_version(part) for part in evaluation_parts(settings.attention, settings.semantics, ours)}
    spends = {} if method is None else {"method": method.inputs()}
    synthetic = synthetic_data(suite)
    content = {"task": suite.task, "sampling": sampling.inputs, "data": synthetic.identity if synthetic else None}
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


@contextmanager
def _without_bars(module: Any) -> Iterator[None]:
    """lmms-eval draws bars for steps that take milliseconds here, over whatever else is on the screen."""
    bar = module.tqdm
    with patch.object(module, "tqdm", lambda *args, **kwargs: bar(*args, **{**kwargs, "disable": True})):
        yield
