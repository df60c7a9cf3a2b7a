"""Conversations -> tensors for one forward, with labels on the answers only; and the loss on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from videonsa.training.sources import Conversation, Source, video_size

PREFETCHED = 4  # micro-batches read ahead; one of 36,000 tokens takes 0.7 GB
IGNORED = -100  # label of a token that is no answer


def encode(processor: Any, conversations: Sequence[Conversation], pixels_per_frame: int) -> dict[str, Tensor]:
    """Inputs of the model, padded on the right, and `labels` [B, L]: the answers' tokens, IGNORED elsewhere."""
    shown = [each.video for each in conversations if each.video is not None]
    videos: dict[str, Any] = {}
    if shown:
        videos["videos"] = [each.frames for each in shown]
        videos["videos_kwargs"] = {
            "video_metadata": [each.metadata() for each in shown],
            "size": video_size(processor, pixels_per_frame),
            "do_sample_frames": False,
        }
    texts = processor.apply_chat_template([messages(each) for each in conversations], tokenize=False)
    batch = processor(text=texts, padding=True, padding_side="right", return_tensors="pt", **videos)
    return {**batch, "labels": answer_labels(batch["input_ids"], processor.tokenizer)}


def encoded(
    source: Source, processor: Any, pixels_per_frame: int, numbers: Iterable[range]
) -> Iterator[dict[str, Tensor]]:
    """Micro-batches of the samples of these numbers, in order; meanwhile threads read and encode the next ones.

    One thread encodes: tokenizers serve one at a time.
    """

    def make(reads: list[Future[Conversation]]) -> dict[str, Tensor]:
        return encode(processor, [read.result() for read in reads], pixels_per_frame)

    with ThreadPoolExecutor(source.readers) as readers, ThreadPoolExecutor(1) as encoder:
        waiting: list[Future[dict[str, Tensor]]] = []
        for indices in numbers:
            reads = [readers.submit(source.__getitem__, index) for index in indices]
            waiting.append(encoder.submit(make, reads))
            if len(waiting) > PREFETCHED:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()


def padded(batch: dict[str, Tensor], multiple: int, pad_token: int) -> dict[str, Tensor]:
    """The batch with rows of a multiple of so many tokens, padded on the right."""
    missing = -batch["input_ids"].shape[1] % multiple
    fill = {"input_ids": pad_token, "attention_mask": 0, "labels": IGNORED, "mm_token_type_ids": 0}
    return {
        name: pad(tensor, (0, missing), value=fill[name]) if name in fill else tensor for name, tensor in batch.items()
    }


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The conversation as a chat template takes it; the video, if any, comes before the first text."""
    turns: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in conversation.turns
    ]
    if conversation.video is not None:
        turns[0]["content"].insert(0, {"type": "video"})
    return turns


def answer_labels(input_ids: Tensor, tokenizer: Any) -> Tensor:
    """Labels [B, L]: each assistant turn from its first token to <|im_end|>, IGNORED elsewhere."""
    start, end = (tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>"))
    header = [start, *tokenizer("assistant\n", add_special_tokens=False).input_ids]
    labels = torch.full_like(input_ids, IGNORED)
    for row, target in zip(input_ids.tolist(), labels, strict=True):
        for place, token in enumerate(row):
            if token == start and row[place : place + len(header)] == header:
                first = place + len(header)
                last = row.index(end, first)
                target[first : last + 1] = torch.tensor(row[first : last + 1])
    return labels


def answer_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean negative log likelihood of each sample's answer tokens, [B].

    Logits are computed only where some sample has an answer: 36,000 tokens times 152,000 words would be 22 GB.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    targets = batch["labels"][:, 1:]
    places = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=places, use_cache=False).logits
    targets = targets[:, places]
    losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view_as(targets).sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)
