"""Benchmarks whose answers a language model judges: its failures are no verdicts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, local
from typing import Any
from unittest.mock import patch

# Verdicts that VideoEval-Pro's task, which goes by the first letter, takes for what they say.
VERDICT = re.compile(r"\s*([ABC]\b|INCORRECT|NOT[ _]ATTEMPTED)", re.IGNORECASE)
PATIENCE = 8  # failures in a row, each after lmms-eval's ten attempts, until the evaluation stops
_heard = local()


class JudgeSilent(RuntimeError):
    """The judge answers no more. The model's answers are kept: the next run only has them judged."""


@contextmanager
def listening() -> Iterator[list[str]]:
    """Failures of the judge in this thread while the context lasts: lmms-eval makes wrong answers of them.

    Its verifiers mark them (`judge_failed`), so that callers can leave them out; VideoEval-Pro's task does not.
    """
    failures: list[str] = []
    _heard.failures = failures
    yield failures


@contextmanager
def heard() -> Iterator[None]:
    """While it lasts, `listening` hears lmms-eval's judge. Raises JudgeSilent when it failed too often in a row."""
    from lmms_eval.verifiers.openai import OpenAIVerifier

    verify, lock, in_a_row = OpenAIVerifier.verify, Lock(), 0

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal in_a_row
        result = verify(self, *args, **kwargs)
        said = result.raw_output or ""
        reason = next(iter(said.removeprefix("error: ").splitlines()), "no reason given")[:200]
        failed = bool(result.metadata.get("judge_failed"))
        if not failed and not VERDICT.match(said):
            failed, reason = True, f"{said[:200]!r} is no verdict A, B or C"
        with lock:
            in_a_row = in_a_row + 1 if failed else 0
            if in_a_row >= PATIENCE:
                message = (
                    f"the judge failed {in_a_row} times in a row ({reason}); answers are kept, run again to judge them"
                )
                raise JudgeSilent(message)
        if failed:
            _heard.failures.append(f"the judge failed: {reason}")
        return result

    with patch.object(OpenAIVerifier, "verify", noting):
        yield


def notes() -> list[str]:
    """Which judge was asked, where it is not OpenAI's own."""
    chosen = [f"{name}={os.environ[name]}" for name in ("API_TYPE",) if os.environ.get(name)]
    chosen += ["OPENAI_API_URL is set"] if os.environ.get("OPENAI_API_URL") else []
    return [f"the judge was reached with {', '.join(chosen)}: it may be another model"] if chosen else []
