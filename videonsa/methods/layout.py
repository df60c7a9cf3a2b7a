"""Which tokens are vision and which text, worked out once a forward and shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from videonsa.config import NSASettings
from videonsa.kernels.text import Span
from videonsa.methods.contract import Batch
from videonsa.methods.samples import Samples


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of a batch [B, L] go: vision tokens to NSA, text tokens to dense attention, padding nowhere.

    A row holds one sample or several, packed one after the other; no token sees another sample's. Token t of row i has
    the flat index i*L + t.
    """

    nsa: NSASettings
    gates: Tensor | None  # [layers, heads, 3] in place of the gates of the hidden states; None: dynamic
    samples: Samples  # S of them, at least one a row
    vision_index: Tensor  # [Nv] flat indices of the vision tokens, sample by sample
    vision_batch: int  # S when every sample has equally many vision tokens: packed as [S, Nv / S]; else 1, as [1, Nv]
    cu_seqlens: Tensor | None  # int32 [N + 1], bounds of the N samples with vision tokens in [1, Nv]
    text_index: Tensor  # [B, T] flat indices of each row's text tokens, filled up to the most that a row has
    text_mask: Tensor | None  # bool [B, 1, T, L], the keys that each of them sees; None where the spans say it all
    text_spans: tuple[Span, ...]  # of each sample, in order, on the axes [B*T] and [B*L]
    text_positions: Tensor  # [B*T] the place of each text token in its sample
    order: Tensor  # [B*L] row of each token in (Nv vision rows, B*T text rows, one row of zeros for padding)
    vision_run: slice | None  # the vision tokens' flat indices where they are one run, as with one video; else None
    in_order: bool  # text before the run, the run, text after it: nothing is padding, nothing changes places

    def pack(self, tokens: Tensor) -> Tensor:
        """The vision tokens of [B, L, ...] as [vision_batch, Nv / vision_batch, ...]; a view where they are one run."""
        return tokens.flatten(0, 1)[self._vision].unflatten(0, (self.vision_batch, -1))

    def pack_text(self, tokens: Tensor) -> Tensor:
        """The text tokens of [B, L, ...] as [B, T, ...]."""
        return tokens.flatten(0, 1)[self.text_index]

    def part(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`pack` and `pack_text` of [B, L, ...]. In one go the gradient is put together in one copy, where they are in
        order."""
        if not self.in_order or self.vision_run is None or len(tokens) > 1:
            return self.pack(tokens), self.pack_text(tokens)
        start, stop = self.vision_run.start, self.vision_run.stop
        before, vision, after = tokens.split([start, stop - start, tokens.shape[1] - stop], dim=1)
        return vision[0].unflatten(0, (self.vision_batch, -1)), torch.cat([before, after], dim=1)

    def unpack(self, vision: Tensor, text: Tensor) -> Tensor:
        """Rows of vision [Nv, ...] and text [B*T, ...] put back in their tokens' places, [B*L, ...]; 0 elsewhere."""
        if self.in_order and self.vision_run is not None:
            before = text[: self.vision_run.start]
            return torch.cat([before, vision, text[len(before) :]]) if len(text) else vision
        rows = torch.cat([vision, text, vision.new_zeros(1, *vision.shape[1:])])
        return rows[self.order]

    @property
    def _vision(self) -> Tensor | slice:
        return self.vision_index if self.vision_run is None else self.vision_run


def token_layout(tokens: Batch, nsa: NSASettings, gates: Tensor | None) -> TokenLayout:
    """Lay out a batch; gates: [layers, heads, 3] in place of the dynamic ones, or None."""
    is_vision, is_token, samples = tokens.is_vision, tokens.is_token, tokens.samples
    batch, length = is_vision.shape
    is_text = is_token & ~is_vision
    vision_index = is_vision.flatten().nonzero().squeeze(1)

    counts = samples.count(is_vision)
    uniform = bool((counts == counts[0]).all())
    bounds = torch.nn.functional.pad(counts[counts > 0].cumsum(0), (1, 0)).int()

    text_index, slot = _text_slots(is_text)
    vision_row = is_vision.flatten().cumsum(0).view_as(is_vision) - 1
    text_row = len(vision_index) + slot + torch.arange(batch, device=slot.device)[:, None] * text_index.shape[1]
    zeros_row = len(vision_index) + text_index.numel()
    order = torch.where(is_vision, vision_row, torch.where(is_text, text_row, zeros_row))

    spans = _text_spans(samples, samples.count(is_text).tolist(), text_index.shape[1], length)
    starts = torch.tensor([span.first_key for span in spans], device=slot.device)
    queries = torch.tensor([span.end_query - span.first_query for span in spans], device=slot.device)
    by_mask = not is_vision.is_cuda or samples.have_holes
    vision_run = _run(vision_index)
    return TokenLayout(
        nsa=nsa,
        gates=gates,
        samples=samples,
        vision_index=vision_index,
        vision_batch=len(samples) if uniform else 1,
        cu_seqlens=None if uniform else bounds,
        text_index=text_index,
        text_mask=_text_mask(text_index, is_token, samples) if by_mask else None,
        text_spans=spans,
        text_positions=text_index.flatten() - starts.repeat_interleave(queries, output_size=text_index.numel()),
        order=order.flatten(),
        vision_run=vision_run,
        in_order=vision_run is not None and bool(is_token.all()) and (batch == 1 or not is_text.any()),
    )


def _text_mask(text_index: Tensor, is_token: Tensor, samples: Samples) -> Tensor:
    """The keys that each text token sees: its sample's, up to itself; bool [B, 1, T, L]."""
    length = is_token.shape[1]
    sees = is_token[:, None] & (torch.arange(length, device=is_token.device) <= (text_index % length)[:, :, None])
    if len(samples) > len(is_token):
        sees &= samples.index[:, None] == samples.index.flatten()[text_index][:, :, None]
    return sees[:, None]


def _text_spans(samples: Samples, counts: list[int], most: int, length: int) -> tuple[Span, ...]:
    """Each sample's text, `counts` tokens. The last one of a row takes the row's unused places, too."""
    spans: list[Span] = []
    for i, (row, start) in enumerate(zip(samples.rows, samples.starts, strict=True)):
        last = i + 1 == len(samples) or samples.rows[i + 1] != row
        first_query = spans[-1].end_query if spans else 0
        end_query, end = ((row + 1) * most, length) if last else (first_query + counts[i], samples.starts[i + 1])
        spans.append(Span(first_query, end_query, row * length + start, row * length + end))
    return tuple(spans)


def _run(index: Tensor) -> slice | None:
    """The rising index as a slice where it has no gaps."""
    if not len(index):
        return None
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first == len(index) - 1 else None


def _text_slots(is_text: Tensor) -> tuple[Tensor, Tensor]:
    """text_index [B, T], and the place in it of each text token [B, L].

    Unused places point at the row's last position: it sees at least one token, so attention there is no NaN, whose
    gradient would spread; nothing reads its output.
    """
    batch, length = is_text.shape
    slot = is_text.cumsum(dim=1) - 1
    most = int(slot[:, -1].max()) + 1
    last = torch.arange(1, batch + 1, device=is_text.device)[:, None] * length - 1
    text_index = last.repeat(1, most)
    rows, positions = is_text.nonzero(as_tuple=True)
    text_index[rows, slot[rows, positions]] = rows * length + positions
    return text_index, slot
