"""The entries: what each method can be asked, in the order of tables. Imports no torch.

A field's comment gives its unit; where a method's authors name a default, it is ours.
"""

from __future__ import annotations

from videonsa.config import NSASettings
from videonsa.methods.entries import Entry

ENTRIES: tuple[Entry, ...] = (
    Entry("paper", NSASettings, "videonsa.methods.paper:Paper", parts=("kernels",)),
    Entry("release", NSASettings, "videonsa.methods.release:Release", parts=("kernels", "release")),
    Entry("dense", NSASettings, "videonsa.methods.dense:Dense"),
)
