"""The entries: what each method can be asked, in the order of tables. Imports no torch.

A field's comment gives its unit; where a method's authors name a default, it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from videonsa.config import NSASettings
from videonsa.methods.entries import Entry, MethodSettings, method, whole


@method("oracle", runs="videonsa.methods.oracle:Oracle")
@dataclass(frozen=True)
class OracleSettings(MethodSettings):
    """The keys of highest probability of each query and head, computed exactly: an upper bound, as slow as dense."""

    keys: int = whole(
        2304
    )  # of a query and head; as many as NSA reads in the paper, 32 blocks of 64 and a window of 256


ENTRIES: tuple[Entry, ...] = (
    Entry("paper", NSASettings, "videonsa.methods.paper:Paper", parts=("kernels",)),
    Entry("release", NSASettings, "videonsa.methods.release:Release", parts=("kernels", "release")),
    Entry("dense", NSASettings, "videonsa.methods.dense:Dense"),
    OracleSettings.entry,
)
