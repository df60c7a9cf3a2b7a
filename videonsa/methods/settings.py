"""The entries: what each method can be asked, in the order of tables. Imports no torch.

A field's comment gives its unit; where a method's authors name a default, it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from videonsa.config import NSASettings, require
from videonsa.limits import TRITON_BLOCK_SIZES
from videonsa.methods.entries import Entry, MethodSettings, backend, method, number, share, whole
from videonsa.methods.head_table import UNIFORM, read_table, table_content, table_text

SPARSE = ("kernels", "sparse")  # parts of the code that methods which choose keys share
DROPPING = ("dropping",)  # the part of code that methods which drop tokens share


def _check_blocks(settings: MethodSettings, block_size: int, backend: str) -> None:
    """The kernel's own limit, told before anything runs."""
    valid = f"one of {', '.join(map(str, TRITON_BLOCK_SIZES))} with backend=triton, or backend=reference"
    fits = backend != "triton" or block_size in TRITON_BLOCK_SIZES
    require(fits, f"{settings.name}.block_size", block_size, valid)


def _check_layer(settings: MethodSettings, layer: int, layers: int) -> None:
    """Tokens can be dropped before a layer that the model has."""
    valid = f"the model has {layers} layers, so give one from 1 to {layers - 1}"
    require(layer < layers, f"{settings.name}.layer", layer, valid)


@method("tri_shape", runs="videonsa.methods.tri_shape:TriShape", parts=SPARSE)
@dataclass(frozen=True)
class TriShapeSettings(MethodSettings):
    """A sink, a window, and the last queries dense. Source: arXiv 2412.10319, microsoft/MInference."""

    n_init: int = whole(128, at_least=0)  # tokens of the sink, the sample's first keys
    n_local: int = whole(3968)  # tokens of the window, the query's own included
    n_last: int = whole(100, at_least=0)  # last queries of a sample that attend to everything
    backend: str = backend()


@method("minference", runs="videonsa.methods.minference:MInference", parts=SPARSE)
@dataclass(frozen=True)
class MInferenceSettings(MethodSettings):
    """Columns and diagonals that the last queries attend to most. Source: arXiv 2407.02490, microsoft/MInference."""

    table: str = field(  # columns and diagonals by head: a published table, `uniform`, or a file of the search
        default="qwen2.5-7b", metadata={"check": table_text, "input": table_content}
    )
    vertical: int = whole(1000, at_least=0)  # columns of every head, single keys; with table=uniform
    slash: int = whole(6096)  # diagonals of every head, each the blocks that it touches; with table=uniform
    last_queries: int = whole(64)  # queries at the end of a sample that are looked at
    first_columns: int = whole(30, at_least=0)  # first keys, always columns; a head has no fewer columns
    recent_diagonals: int = whole(100)  # nearest diagonals, which are taken first
    least_diagonals: int = whole(50)  # a head has no fewer diagonals
    block_size: int = whole(64)  # queries, and keys, of a block
    backend: str = backend()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_blocks(self, self.block_size, self.backend)
        for name, usual in (("vertical", 1000), ("slash", 6096)):
            given = getattr(self, name)
            valid = f"only with minference.table={UNIFORM}; the table says it for each head"
            require(self.table == UNIFORM or given == usual, f"minference.{name}", given, valid)

    def sizes(self) -> dict[str, int]:
        """What is the same for all heads: arguments of `vertical_slash_choice`."""
        names = ("last_queries", "first_columns", "recent_diagonals", "least_diagonals", "block_size")
        return {name: getattr(self, name) for name in names}

    def check_model(self, layers: int, query_heads: int) -> None:
        """A table is of one shape of model."""
        if self.table != UNIFORM:
            read_table(self.table).check_model(self.table, layers, query_heads)


@method("flexprefill", runs="videonsa.methods.flexprefill:FlexPrefill", parts=SPARSE)
@dataclass(frozen=True)
class FlexPrefillSettings(MethodSettings):
    """A share of each head's attention, by its pattern. Source: arXiv 2502.20766, ByteDance-Seed/FlexPrefill."""

    gamma: float = share(0.9)  # of the attention that is kept; 1: everything
    tau: float = number(0.1, at_most=1)  # distance below which a head is query aware; 0: none is, from 0.84 on all are
    min_budget: int = whole(1024)  # tokens in a head's columns of blocks, and in its diagonals of blocks, at least
    max_budget: int | None = whole(None, or_none=True)  # likewise, at most; null: no limit
    block_size: int = whole(128)  # queries, and keys, of a block; queries at a sample's end that are looked at
    backend: str = backend()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_blocks(self, self.block_size, self.backend)
        given, most = self.min_budget, self.max_budget
        require(most is None or given <= most, "flexprefill.min_budget", given, f"at most max_budget={most}")


@method("xattention", runs="videonsa.methods.xattention:XAttention", parts=SPARSE)
@dataclass(frozen=True)
class XAttentionSettings(MethodSettings):
    """Blocks by the sums of their antidiagonals. Source: arXiv 2503.16428, mit-han-lab/x-attention."""

    threshold: float = share(0.9)  # of each row's attention that is kept; 1: everything
    stride: int = whole(16)  # tokens in a group, whose antidiagonal products are summed; divides block_size
    block_size: int = whole(128)  # queries, and keys, of a block
    backend: str = backend()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_blocks(self, self.block_size, self.backend)
        fits = self.block_size % self.stride == 0
        require(fits, "xattention.stride", self.stride, f"a divisor of block_size={self.block_size}")


@method("fastv", runs="videonsa.methods.fastv:FastV", parts=DROPPING, kind="tokens")
@dataclass(frozen=True)
class FastVSettings(MethodSettings):
    """Vision tokens that the last text token attends to little leave after a few layers (arXiv 2403.06764)."""

    layer: int = whole(2)  # K: the first layer that gets the kept tokens alone; scores are those of the one before
    keep: float = share(0.5)  # share of a prompt's vision tokens that stay, 1 - R

    def check_model(self, layers: int, query_heads: int) -> None:
        """The layer is one of the model's."""
        _check_layer(self, self.layer, layers)


@method("vscan", runs="videonsa.methods.vscan:VScan", parts=DROPPING, kind="tokens")
@dataclass(frozen=True)
class VScanSettings(MethodSettings):
    """Local and global scans of the vision tower, merging, and a second choice at a middle layer (arXiv 2505.22654)."""

    keep: float = share(0.167)  # share of each temporal patch's tokens that enter the decoder
    layer: int = whole(14)  # the first layer that gets the second choice
    layer_keep: float = share(0.333)  # share of the vision tokens left that stay from `layer` on

    def check_model(self, layers: int, query_heads: int) -> None:
        """The layer is one of the model's."""
        _check_layer(self, self.layer, layers)


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


@method("text_alone", runs="videonsa.methods.text_alone:TextAlone", parts=DROPPING, kind="control")
@dataclass(frozen=True)
class TextAloneSettings(MethodSettings):
    """A control: no vision token at all, what the question's words tell by themselves."""


@method("fewer_frames", runs="videonsa.methods.fewer_frames:FewerFrames", kind="control")
@dataclass(frozen=True)
class FewerFramesSettings(MethodSettings):
    """A control: dense attention to a video of fewer frames, evenly spaced."""

    keep: float = share(0.25)  # share of each video's temporal patches

    def sampling(self) -> dict[str, float]:
        return {"frame_share": self.keep}


@method("fewer_pixels", runs="videonsa.methods.fewer_pixels:FewerPixels", kind="control")
@dataclass(frozen=True)
class FewerPixelsSettings(MethodSettings):
    """A control: dense attention to a video of smaller frames."""

    keep: float = share(0.25)  # share of each frame's and image's tokens

    def sampling(self) -> dict[str, float]:
        return {"pixel_share": self.keep}


@method("oracle", runs="videonsa.methods.oracle:Oracle", kind="bound", parts=("sparse",))
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
    TriShapeSettings.entry,
    MInferenceSettings.entry,
    FlexPrefillSettings.entry,
    XAttentionSettings.entry,
    FastVSettings.entry,
    VScanSettings.entry,
    VisionZipSettings.entry,
    RandomTokensSettings.entry,
    UniformTokensSettings.entry,
    TextAloneSettings.entry,
    FewerFramesSettings.entry,
    FewerPixelsSettings.entry,
    OracleSettings.entry,
)
