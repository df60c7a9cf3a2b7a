"""The sentences that answer a sweep's question say what its table says, and claim no difference that no test found."""

from __future__ import annotations

import pandas as pd

from analysis.answer import answer_lines


def test_what_the_numbers_answer(rows: pd.DataFrame):
    needle, order, layout, how, lost, seed = answer_lines(rows)
    assert needle.startswith("synth_needle: b=4 w=12 has the highest accuracy of 8 variants, 95.0 [91.0–97.3] %;")
    assert needle.endswith(
        "; the reference, b=5 w=4, has 91.0 [86.2–94.2] %. Of 7 compared with the reference none differs beyond chance."
    )
    assert "it is the reference. Of 8 compared with the reference 3 differ beyond chance: b=1 w=24 (-10.2" in order
    assert layout.startswith("synth_layout: b=4 w=12, b=5 w=8 and b=5 w=4 share the highest accuracy of 8 variants")
    assert how == "Beyond chance: p < 0.05 in a paired test after Holm's correction over 22 comparisons."
    assert (lost, seed) == ("2 of 27 cells have no number.", "All of it is one seed.")


def test_without_a_reference_or_a_number_nothing_is_compared(rows: pd.DataFrame):
    lines = answer_lines(rows.assign(is_reference=False, p_holm=float("nan")))
    assert "reference" not in " ".join(lines)
    assert "chance" not in " ".join(lines)
    assert answer_lines(rows.assign(status="missing")) == ["No cell has a number yet."]
