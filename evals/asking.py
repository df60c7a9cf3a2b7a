"""Asking: what questions show is read once, encoded once by the vision tower, and prefilled under each attention."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import OutOfMemoryError

from evals.answer import Answer, Encoded, answer, encode
from evals.answers import Row
from evals.checkpoint import Checkpoint
from evals.question import Question, Sampling
from evals.scoring import one_line
from evals.shown import Shown
from videonsa.config import NSASettings
from videonsa.disk import DiskError, disk_error
from videonsa.lock import Lock
from videonsa.methods.entries import MethodSettings
from videonsa.video import VideoError, Waits, ahead

Prepared = tuple[Row, Question | None]  # tensors, and what a row says of them
Messages = Callable[[], list[dict[str, Any]]]  # a question in lmms-eval's chat form; raises where a task lacks its file
OF_A_QUESTION = (ValueError, OSError, MemoryError, OutOfMemoryError)  # errors of the model that cost the question alone
CPU_MEMORY = "DefaultCPUAllocator"  # in the words of torch's RuntimeError

UNANSWERED: Row = dict.fromkeys(
    (
        *("prompt_hash", "prediction", "latency_ms", "prefill_ms", "tower_ms", "decoder_ms", "decode_ms"),
        *("prefill_tokens", "vision_tokens", "peak_memory_mib", "read_ms", "frames_decoded", "frames_skipped"),
        *("spent", "error"),
    )
)
NO_VIDEO = VideoError("the task gives no video for this question")  # a missing file, in some shipped tasks


@dataclass
class Asked:
    """A way to attend, a variant, as a suite is asked under it."""

    nsa: Mapping[str, Any]  # fields of NSASettings in place of those that the checkpoint was saved with
    method: MethodSettings | None  # what attends in NSA's place
    settings: NSASettings  # attention in all
    sampling: Sampling  # decides what is read
    watches: Hashable  # beside the sampling it decides what the tower encodes
    key: str  # stands for all that can change an answer
    weights: dict[str, Any]  # see Checkpoint.weights
    error: Exception | None = None  # why there are no answers under it


@dataclass(frozen=True)
class Ask:
    """A question, and the variants that it is to be asked under."""

    name: str
    messages: Messages
    under: tuple[Asked, ...]


@dataclass
class Unit:
    """Questions that show the same, under this process's claim."""

    asks: Sequence[Ask]
    shown: Shown
    claim: Lock
    held: ExitStack
    ahead: dict[tuple[str, Sampling], Future[Prepared]] = field(default_factory=dict)  # by the question's name

    def begin(self, preparing: Executor | None) -> list[Future[Any]]:
        """Have their videos read; and the questions made into tensors, where somebody prepares ahead: then what is
        waited for is the first question's. What fails is told later.

        All readings begin here and now: whoever prepares waits for one after the other, and readers are many.
        """
        first = self.asks[0]
        samplings = list(dict.fromkeys(one.sampling for ask in self.asks for one in ask.under))
        futures: list[Future[Any]] = []
        with suppress(Exception, SystemExit):
            for sampling in samplings:
                futures += self.shown.videos(first.messages(), sampling)
        if preparing is None:
            return futures
        for ask in self.asks:
            for sampling in dict.fromkeys(one.sampling for one in ask.under):
                self.ahead[ask.name, sampling] = preparing.submit(prepared, self.shown, ask.messages, sampling)
        return [self.ahead[first.name, one] for one in samplings if (first.name, one) in self.ahead]

    def prepared(self, ask: Ask, sampling: Sampling) -> Prepared:
        """As the function of that name, of one of its questions. Raises DiskError."""
        if (made := self.ahead.get((ask.name, sampling))) is not None:
            return made.result()
        return prepared(self.shown, ask.messages, sampling)


def timed_ahead(
    units: Iterable[Unit], begin: Callable[[Unit], Sequence[Future[Any]]], depth: int
) -> Iterator[tuple[Unit, Row]]:
    """Each unit once its videos are read, those of the next `depth` being read meanwhile; and for the row of each of
    its answers the seconds that the model waited for reading, and what was read for the model."""
    waits = Waits()
    for unit, _ in ahead(units, begin, depth, waits):
        answers = sum(len(ask.under) for ask in unit.asks)
        yield (
            unit,
            {
                "model_waited_s": round(waits.model / answers, 6),
                "reading_waited_s": round(waits.reading / answers, 6),
            },
        )
        waits.model = waits.reading = 0.0


def give(loaded: Checkpoint, unit: Unit, length: int) -> Iterator[tuple[Asked, str, Row]]:
    """The answers to questions that show the same, as they are given: (variant, question, row).

    Variants of one sampling share what is read and made into tensors; of these, those that watch the tower alike share
    its pass. What is wrong with one question stands in the `error` of its rows; a variant that cannot be asked, as its
    method did not run or a kernel failed, gets none, and an error of its own: the others are asked as if alone. A row's
    `seconds` are its own and its part of what was shared. Raises DiskError: that is of no question, and whoever asks
    again when the disk is well gets its answer.
    """
    shares = dict.fromkeys((one.sampling, one.watches) for ask in unit.asks for one in ask.under)
    for share in shares:
        encoded: list[Encoded] = []  # one, once it is made
        for ask in unit.asks:
            under = [one for one in ask.under if (one.sampling, one.watches) == share and one.error is None]
            for one, row in _answers(loaded, partial(unit.prepared, ask), under, encoded, length):
                yield one, ask.name, row


def _answers(
    loaded: Checkpoint,
    make: Callable[[Sampling], Prepared],
    under: list[Asked],
    encoded: list[Encoded],
    length: int,
) -> Iterator[tuple[Asked, Row]]:
    """The answers to one question under variants that share all but the prefill and what follows."""
    begun = time.perf_counter()
    row, question = make(under[0].sampling) if under else (UNANSWERED, None)
    if question is not None and not question.vision_tokens:
        row, question = row | {"error": one_line(NO_VIDEO)}, None
    shared = time.perf_counter() - begun
    for one in under:
        begun = time.perf_counter()
        answered = row
        if question is not None:
            loaded.use(one.nsa, one.method)
            try:
                if not encoded:
                    encoded.append(encode(loaded, question))
                    shared, begun = shared + time.perf_counter() - begun, time.perf_counter()
                answered = row | answer_row(answer(loaded, question, length, encoded[0]))
            except Exception as error:
                if (disk := disk_error(error, "a cache of kernels")) is not None:
                    raise disk from error
                if not is_of_question(error):
                    one.error = error
                    continue
                answered = row | {"error": one_line(error)}
        yield one, answered | {"seconds": round(shared / len(under) + time.perf_counter() - begun, 6)}


def prepared(shown: Shown, messages: Messages, sampling: Sampling) -> Prepared:
    """A question's tensors and what its row says of them; None where there are none, and an `error` says why.

    Raises DiskError.
    """
    try:
        said = messages()
        question, work = shown.question(said, sampling), shown.work(said, sampling)
    except DiskError:
        raise
    except (Exception, SystemExit) as error:  # a task without its file (some exit), a decoder: of this question
        return UNANSWERED | {"error": one_line(error)}, None
    row = UNANSWERED | {"prompt_hash": question.prompt_hash, "prefill_tokens": question.prefill_tokens}
    row |= {"frames_decoded": work.decoded, "frames_skipped": work.skipped, "read_ms": round(1000 * work.seconds, 3)}
    return row | {"vision_tokens": question.vision_tokens}, question


def is_of_question(error: Exception) -> bool:
    """Whether what the model raised says something of the question alone: its length, its memory."""
    return isinstance(error, OF_A_QUESTION) or CPU_MEMORY in str(error)


def answer_row(given: Answer) -> Row:
    """What an answer adds to its row."""
    times = ("latency_ms", "prefill_ms", "tower_ms", "decoder_ms", "decode_ms")
    row: Row = {"prediction": given.text, "spent": given.spent, "peak_memory_mib": round(given.peak_memory_mib, 1)}
    return row | {name: round(getattr(given, name), 3) for name in times}
