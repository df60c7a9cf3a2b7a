"""Benchmarks whose answers a language model judges: what it needs, and that its failures are no verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import Any
from unittest.mock import patch

_heard = local()


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
    """While it lasts, `listening` hears lmms-eval's judge."""
    from lmms_eval.verifiers.openai import OpenAIVerifier

    verify = OpenAIVerifier.verify

    def noting(self: OpenAIVerifier, *args: Any, **kwargs: Any) -> Any:
        result = verify(self, *args, **kwargs)
        if result.metadata.get("judge_failed"):
            reason = (result.raw_output or "").removeprefix("error: ").splitlines()
            _heard.failures.append(f"the judge failed: {(reason or ['no reason given'])[0]}"[:300])
        return result

    with patch.object(OpenAIVerifier, "verify", noting):
        yield
