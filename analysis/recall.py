"""Recall of each method's choice of keys, beside the best choice of its size: means over layers, and by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cell_text import markdown_row
from analysis.files import write_texts
from analysis.load import Results
from analysis.titles import sweep_title
from videonsa.text import markdown

PARTS = {"vision": "vision", "text": "text", "slc": "vision, selection alone", "swa": "vision, window alone"}
HEADINGS = ["variant", "queries", "density %", "mass %", "oracle's mass %", "oracle's keys %"]


def write_recall(plan: Mapping[str, Any], results: Results, sweep: Path) -> list[Path]:
    """recall.md (means over layers) and recall.csv (by layer) in the sweep folder; no path where no probe has any."""
    recall = results.recall
    rows = recall.to_csv(index=False, lineterminator="\n") if len(recall) else ""
    return write_texts(sweep, {"recall.md": rows and to_markdown(recall, plan), "recall.csv": rows})


def to_markdown(recall: pd.DataFrame, plan: Mapping[str, Any]) -> str:
    """A table a probe: variants and their queries in rows, means over layers, with the lowest layer in brackets."""
    lines = [f"**{markdown(sweep_title(plan))}**", ""]
    for (_, label, suite), group in recall.groupby(["probe", "label", "suite"], sort=False):
        lines += [f"{markdown(label)}, videos of {markdown(suite)}:", ""]
        lines += [markdown_row(HEADINGS), markdown_row(["---"] * len(HEADINGS))]
        for (variant, part), rows in group.groupby(["variant", "part"], sort=False):
            shares = [100 * rows[name].astype(float) for name in ("density", "mass", "best", "keys")]
            texts = [f"{share.mean():.1f} [{share.min():.1f}]" for share in shares]
            lines.append(markdown_row([markdown(variant), PARTS.get(str(part), markdown(part)), *texts]))
        lines.append("")
    lines += [
        "- of the probed queries and all query heads, mean over layers [lowest layer]; by layer: recall.csv",
        "- density: kept keys over all that a query may see; mass: dense attention probability on the kept keys",
        "- oracle's: as many keys as the method keeps for a query and head, those of highest probability: the mass on "
        "them, which no choice of that size exceeds, and the share of them that the method keeps",
    ]
    return "\n".join(lines) + "\n"
