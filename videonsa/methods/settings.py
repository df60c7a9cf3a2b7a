"""The entries: what each method can be asked, in the order of tables. Imports no torch.

A field's comment gives its unit; where a method's authors name a default, it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from videonsa.config import NSASettings
from videonsa.methods.entries import Entry, MethodSettings, method, share, whole

DROPPING = ("dropping",)  # the part of code that methods which drop tokens share


@method("fastv", runs="videonsa.methods.fastv:FastV", parts=DROPPING, kind="tokens")
@dataclass(frozen=True)
class FastVSettings(MethodSettings):
    """Vision tokens that the last text token attends to little leave after a few layers (arXiv 2403.06764)."""

    layer: int = whole(2)  # K: the first layer that gets the kept tokens alone; scores are those of the one before
    keep: float = share(0.5)  # share of a prompt's vision tokens that stay, 1 - R


@method("vscan", runs="videonsa.methods.vscan:VScan", parts=DROPPING, kind="tokens")
@dataclass(frozen=True)
class VScanSettings(MethodSettings):
    """Local and global scans of the vision tower, merging, and a second choice at a middle layer (arXiv 2505.22654)."""

    keep: float = share(0.167)  # share of each temporal patch's tokens that enter the decoder
    layer: int = whole(14)  # the first layer that gets the second choice
    layer_keep: float = share(0.333)  # share of the vision tokens left that stay from `layer` on


@method("visionzip", runs="videonsa.methods.visionzip:VisionZip", parts=DROPPING, kind="tokens")
@dataclass(frozen=True)
class VisionZipSettings(MethodSettings):
    """Dominant tokens stay, the others are merged into a few contextual ones (arXiv 2412.04467)."""

    dominant: float = share(0.65)  # share of each temporal patch's tokens
    contextual: float = share(0.05)  # likewise; at least one token


@method("random_tokens", runs="videonsa.methods.random_tokens:RandomTokens", parts=DROPPING, kind="control")
@dataclass(frozen=True)
class RandomTokensSettings(MethodSettings):
    """A control: vision tokens chosen at random."""

    keep: float = share(0.25)  # share of a prompt's vision tokens
    seed: int = whole(0, at_least=0)  # of the draw, beside the question's content


@method("uniform_tokens", runs="videonsa.methods.uniform_tokens:UniformTokens", parts=DROPPING, kind="control")
@dataclass(frozen=True)
class UniformTokensSettings(MethodSettings):
    """A control: vision tokens evenly spaced in the order of the prompt."""

    keep: float = share(0.25)  # share of a prompt's vision tokens


@method("oracle", runs="videonsa.methods.oracle:Oracle", kind="bound")
@dataclass(frozen=True)
class OracleSettings(MethodSettings):
    """The keys of highest probability of each query and head, computed exactly: an upper bound, as slow as dense."""

    keys: int = whole(
        2304
    )  # of a query and head; as many as NSA reads in the paper, 32 blocks of 64 and a window of 256


ENTRIES: tuple[Entry, ...] = (
    Entry("paper", NSASettings, "videonsa.methods.paper:Paper", parts=("kernels",), kind="nsa"),
    Entry("release", NSASettings, "videonsa.methods.release:Release", parts=("kernels", "release"), kind="nsa"),
    Entry("dense", NSASettings, "videonsa.methods.dense:Dense", kind="dense"),
    FastVSettings.entry,
    VScanSettings.entry,
    VisionZipSettings.entry,
    RandomTokensSettings.entry,
    UniformTokensSettings.entry,
    OracleSettings.entry,
)
