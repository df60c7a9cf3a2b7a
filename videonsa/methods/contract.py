"""What a method must do: one object serves one prefill, from the vision tower to the last layer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from videonsa.methods.meter import Clock, Meter, NoMeter
from videonsa.methods.runs import Piece, Places, pieces
from videonsa.methods.samples import Samples, find_samples


@dataclass(frozen=True)
class Batch:
    """The tokens of one prefill, [B, L]; a row holds one sample, or several packed one after the other."""

    is_vision: Tensor  # bool [B, L], tokens that stand for the call's images and videos
    is_token: Tensor  # bool [B, L]; False is padding
    samples: Samples
    position_ids: Tensor | None = None  # [3, B, L], M-RoPE: time, height, width
    kinds: Tensor | None = None  # [B, L], 0 text, 1 image, 2 video
    input_ids: Tensor | None = None  # [B, L]; None where embeddings were given
    runs: tuple[slice, ...] | None = None  # of a row, whose tokens attend here; None: all do

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return self.samples.count(self.is_token).tolist()

    @functools.cached_property
    def places(self) -> list[Places]:
        """Of each sample that has tokens its flat indices in [B * L], in order; a slice where they are one run."""
        if len(self.samples) == 1 and bool(self.is_token.all()):
            return [slice(0, self.is_token.numel())]
        tokens = self.is_token.flatten().nonzero().squeeze(1)
        return [part for part in tokens.split(self.lengths) if len(part)]

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """Of each sample the queries of each run, and the keys that they see."""
        assert self.runs is not None
        return pieces(self.places, self.runs, self.is_token.shape[1])

    def narrowed(self, kept: Tensor) -> tuple[Batch, Tensor]:
        """The batch of the tokens that are kept, bool [B, L], of samples that fill a row each; and their places.

        A row begins with its kept tokens, in order, and is padded up to the most that a row keeps, n: places [B, n].
        """
        counts = kept.sum(dim=1, keepdim=True)
        index = kept.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
        is_token = torch.arange(index.shape[1], device=index.device) < counts
        axes = None if self.position_ids is None else self.position_ids.expand(-1, len(index), -1)
        batch = Batch(
            is_vision=self.is_vision.gather(1, index) & is_token,
            is_token=is_token,
            samples=find_samples(is_token, None),
            position_ids=None if axes is None else axes.gather(2, index.expand(len(axes), -1, -1)),
            kinds=None if self.kinds is None else self.kinds.gather(1, index) * is_token,
            input_ids=None if self.input_ids is None else self.input_ids.gather(1, index),
        )
        return batch, index


@dataclass(frozen=True)
class Item:
    """An image or a video of the prompt, as the vision tower encoded it."""

    kind: int  # as in Batch.kinds
    grid: tuple[int, int, int]  # time, height, width in tokens, which stand in this order
    seen: Mapping[str, Tensor]  # what `Method.watch` found of its tokens, [tokens, ...] each
    clock: Clock | None = None  # what watching took, of all that were encoded together; None: it says nothing


def make_batch(is_vision: Tensor, attention_mask: Tensor | None = None, text_positions: Tensor | None = None) -> Batch:
    """The batch of is_vision, bool [B, L].

    Args:
        attention_mask: [B, L] (1 token, 0 padding), or None without padding.
        text_positions: [B, L] or [1, L], each token's place in its sample; where they start again, another sample
            begins. None: a row is a sample.
    """
    is_token = torch.ones_like(is_vision) if attention_mask is None else attention_mask.bool()
    return Batch(is_vision & is_token, is_token, find_samples(is_token, text_positions))


@dataclass(frozen=True)
class LayerCall:
    """What the attention of one layer is given. L tokens attend, or those of the batch's runs, one after the other."""

    layer: int
    query: Tensor  # [B, L, Hq, D], position encoding applied
    key: Tensor  # [B, L, Hkv, D], of all tokens
    value: Tensor  # [B, L, Hkv, D]
    hidden_states: Tensor  # [B, L, hidden], what the projections of those that attend saw
    scale: float  # of the dot products
    module: Any  # the attention layer
    heads: slice = field(default_factory=lambda: slice(None))  # which of the layer's query heads these are


class Method:
    """A way to spend attention. Subclasses override what they change; as it stands it is dense causal attention.

    In the order of a prefill: `watch` (around the vision tower), `prepare` (once, before layer 0), then for each layer
    `enters` and `attend`. Decoding over the cache is dense and asks no method.
    """

    needs_vision: ClassVar[bool] = True  # False: serves prompts of text alone, too
    trains: ClassVar[bool] = False  # gradients flow through it, and it may be asked while training
    gated: ClassVar[bool] = False  # it asks the attention layers for gates

    def __init__(self, settings: Any, config: Any) -> None:
        """settings: the entry's; config: the model's configuration (`text_config`, `vision_config`, ...)."""
        self.settings, self.config = settings, config
        self.meter: Meter = NoMeter()
        self.batch: Batch  # set before `prepare`
        self.items: list[Item] = []  # all images, then all videos, in the order of their tokens; set before `prepare`

    @classmethod
    def watch(cls, settings: Any, tower: nn.Module) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Entered while the vision tower encodes images or videos; what it gives is filled then, a row for each token.

        Each item's rows reach `prepare` in its `seen`, with its `clock` if it has one. No object is there yet:
        `generate` encodes before it prefills.
        """
        return nullcontext({})

    @classmethod
    def watches(cls, settings: Any) -> Hashable:
        """What `watch` goes by: prompts whose methods agree in it may share a pass of the tower. None: nothing is
        watched. A class that watches, and does not say, goes by its settings."""
        return None if cls.watch.__func__ is Method.watch.__func__ else (cls, repr(settings))  # type: ignore[attr-defined]

    def prepare(self, embeds: Tensor) -> Tensor:
        """Once a prefill, with `self.batch` known: embeddings [B, L, hidden] in and out."""
        return embeds

    def enters(self, layer: int, hidden_states: Tensor, module: nn.Module) -> Tensor | None:
        """Token compression: bool [B, L], which tokens enter this layer and all after it; None: all that are there.

        hidden_states [B, L, hidden] are those before the layer; module: the decoder layer. The tokens are those of
        `self.batch`, fewer after each layer that dropped some; the last of a prompt must stay. Positions go with the
        tokens, and so do those of tokens that are generated later.
        """
        return None

    def attend(self, call: LayerCall) -> Tensor:
        """Attention output [B, L, Hq, D]; padding gets 0."""
        with self.meter.attention(call.layer):
            output = by_sample(call, self.batch, dense_attention)
        self.computed(call.layer, causal_pairs(self.batch.lengths))
        return output

    def keeps(self, call: LayerCall, at: Tensor) -> dict[str, Tensor]:
        """For probes: the keys that some queries attend to, by part of the method, bool [Hq, R, L]; together all.

        at [R]: places of the queries, in a batch of one sample without padding. {}: it does not choose keys by query.
        """
        return {}

    def computed(self, layer: int, pairs: Tensor | float, means: float = 0.0) -> None:
        """Tell the meter what a layer did: causal pairs a query head (mean), pairs with means of blocks."""
        self.meter.computed(layer, sum(self.batch.lengths), pairs, means)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings})"


def causal_pairs(lengths: Iterable[int]) -> float:
    """Pairs of a query and a key that is no later, in samples of these lengths: n (n + 1) / 2 of each."""
    return float(sum(length * (length + 1) // 2 for length in lengths))


def by_sample(call: LayerCall, batch: Batch, attend: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Tensor:
    """attend(query [L, Hq, D], key, value [L, Hkv, D], scale) -> [L, Hq, D] of each sample; padding gets 0.

    Of a batch's runs: of the last R of a sample's L tokens up to the end of a run, query [R, Hq, D] -> [R, Hq, D].
    """
    query, key, value = (tensor.flatten(0, 1) for tensor in (call.query, call.key, call.value))
    if batch.runs is not None:
        output = torch.zeros_like(query, memory_format=torch.contiguous_format)
        for piece in batch.pieces:
            output[piece.queries] = attend(query[piece.queries], key[piece.keys], value[piece.keys], call.scale)
        return output.view(call.query.shape)
    places = batch.places
    if len(places) == 1 and isinstance(places[0], slice):
        return attend(query, key, value, call.scale).view(call.query.shape)
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    for place in places:
        output[place] = attend(query[place], key[place], value[place], call.scale)
    return output.view(call.query.shape)


def dense_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of one sample: query [L, Hq, D], key and value [L, Hkv, D] -> [L, Hq, D].

    Or of its last R tokens alone, [R, Hq, D]. No output depends on a later token, be it NaN.
    """
    broken = broken_keys(key, value)
    if broken is not None:
        key, value = (tensor.masked_fill(broken[..., None], 0) for tensor in (key, value))
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    queries, keys = query.shape[2], key.shape[2]
    causal = {"is_causal": True} if queries == keys else {"attn_mask": causal_lower_right(queries, keys)}
    output = scaled_dot_product_attention(query, key, value, **causal, scale=scale, enable_gqa=True)
    output = output[0].transpose(0, 1)
    if broken is None:
        return output
    reached = (broken.cumsum(dim=0) > 0).repeat_interleave(output.shape[1] // broken.shape[1], dim=1)
    return output.masked_fill(reached[keys - queries :, :, None], torch.nan)


def broken_keys(key: Tensor, value: Tensor) -> Tensor | None:
    """Which keys hold a NaN or an infinity, or their values do, bool [..., Hkv]; None where all are finite.

    A key that a query may not see weighs 0, and 0 times NaN is NaN: torch's attention lets it spread to earlier tokens.
    """
    finite = key.isfinite().all(-1) & value.isfinite().all(-1)
    return None if bool(finite.all()) else ~finite


def with_positions(batch: Batch, position_ids: Tensor | None) -> Batch:
    """The batch with the three axes of its positions, from ids [3 or 4, B, L], time, height, width last."""
    axes = position_ids[-3:] if position_ids is not None and position_ids.dim() == 3 else None
    return dataclasses.replace(batch, position_ids=axes)
