"""What a sweep is called, and what it asks, of its plan. No pandas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WHEN = {"test": " (changed at test time)", "train": " (each variant trained)"}


def sweep_title(plan: Mapping[str, Any]) -> str:
    """'tiny-budget: how does ...? (changed at test time)'; with what --set changed in the grid, where it did."""
    question = sweep_question(plan)
    return f"{plan.get('sweep', 'sweep')}{': ' if question else ''}{question}{WHEN.get(str(plan.get('asks')), '')}"


def sweep_question(plan: Mapping[str, Any]) -> str:
    """'how does ...? [train.steps=3, suites=synth_needle]'."""
    changes = plan.get("changes")
    changed = ", ".join(changes) if isinstance(changes, list) else ""
    return " ".join(filter(None, (str(plan.get("question") or ""), f"[{changed}]" * bool(changed))))
