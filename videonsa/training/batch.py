"""Conversations -> tensors for one forward, with labels on the answers only; and the loss on them.

A forward's samples stand in rows of their own, padded, or packed one after the other in one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from videonsa.drawing import draw_each
from videonsa.modeling.exchange import SequenceParallel
from videonsa.modeling.modality import PIXELS
from videonsa.modeling.vision import share_of
from videonsa.synth import Scene
from videonsa.training.sources import Conversation, Source, video_size
from videonsa.video import Video

PREFETCHED = 4  # micro-batches read ahead; one of 36,000 tokens takes 0.7 GB
IGNORED = -100  # label of a token that is no answer
FOR_HOST = {"labels", "image_grid_thw", "video_grid_thw", "second_per_grid_ts"}  # read where steps are launched
BY_TOKEN = ("input_ids", "attention_mask", "labels", "mm_token_type_ids", "position_ids")  # their last axis; else items

Inputs = dict[str, Tensor]  # of the model, and `labels`
Positions = Callable[..., tuple[Tensor, Tensor]]  # as ModelPositions.get_rope_index
Reads = Mapping[int, Future[Conversation]]  # of a micro-batch's samples, by number
Wait = Callable[[Reads, Future[Inputs]], Inputs]


def _simply(reads: Reads, batch: Future[Inputs]) -> Inputs:
    return batch.result()


@dataclass(frozen=True)
class MicroBatch:
    """What a device takes through the model at once: some of a step's samples."""

    inputs: Inputs
    tokens: int  # without padding
    last: bool = False  # of its step's


def encode(
    processor: Any, conversations: Sequence[Conversation], pixels_per_frame: int, device: torch.device | str = "cpu"
) -> Inputs:
    """Inputs of the model, padded on the right, and `labels` [B, L]: the answers' tokens, IGNORED elsewhere.

    device: where scenes are drawn, and their pixels stay; the rest is on the CPU.
    """
    if conversations and all(isinstance(each.video, Scene) for each in conversations):
        return encode_drawn(processor, conversations, pixels_per_frame, device)
    shown = [each.video for each in conversations if isinstance(each.video, Video)]
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


def encode_drawn(
    processor: Any, conversations: Sequence[Conversation], pixels_per_frame: int, device: torch.device | str
) -> Inputs:
    """As `encode`, of samples that show scenes: frames become pixels where they are drawn, and what is told of a video
    is stretched after its text has become tokens: 8,192 placeholders are slow to find in a text."""
    scenes = [each.video for each in conversations if isinstance(each.video, Scene)]
    inputs = dict(
        processor.video_processor(
            videos=draw_each(scenes, device),
            size=video_size(processor, pixels_per_frame),
            do_sample_frames=False,
            return_tensors="pt",
        )
    )
    grid = inputs["video_grid_thw"] = inputs["video_grid_thw"].cpu()
    texts = processor.apply_chat_template([messages(each) for each in conversations], tokenize=False)
    said = processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    compact = {"input_ids": said["input_ids"], "labels": answer_labels(said["input_ids"], processor.tokenizer)}
    counts = grid.prod(dim=1) // processor.video_processor.merge_size**2
    lengths = said["attention_mask"].sum(dim=1) + counts - 1
    inputs["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    places = (compact["input_ids"] == processor.video_token_id).int().argmax(dim=1)
    fill = {"input_ids": processor.tokenizer.pad_token_id, "labels": IGNORED}
    for name, rows in compact.items():
        wide = stretched(rows, places, counts, inputs["attention_mask"].shape[1])
        inputs[name] = wide.masked_fill(inputs["attention_mask"] == 0, fill[name])
    inputs["mm_token_type_ids"] = 2 * (inputs["input_ids"] == processor.video_token_id).long()
    patch = processor.video_processor.temporal_patch_size
    inputs["second_per_grid_ts"] = torch.tensor([patch * scene.seconds / scene.frames for scene in scenes])
    return inputs


def own_pixels(inputs: Inputs, parallel: SequenceParallel | None) -> Inputs:
    """The inputs of rows that lie over several processes, with those pixels alone that this one's tower encodes; a
    copy, which does not keep the others' in memory."""
    if parallel is None:
        return inputs
    own = dict(inputs)
    for pixels, grids in PIXELS.values():
        if pixels in inputs:
            _, patches = share_of(inputs[grids].tolist(), parallel.rank, parallel.degree)
            own[pixels] = inputs[pixels][patches].clone()
    return own


def stretched(rows: Tensor, places: Tensor, counts: Tensor, length: int) -> Tensor:
    """Rows [B, l] as rows [B, length] in which what stands at a row's place [B] is there so many times, counts [B]."""
    at = torch.arange(length).expand(len(rows), -1)
    before, later = places[:, None], (counts - 1)[:, None]
    source = torch.where(at <= before, at, torch.maximum(before, at - later))
    return rows.gather(1, source.clamp(max=rows.shape[1] - 1))


def staged(inputs: Inputs, precision: str) -> Inputs:
    """Inputs as a GPU fetches them at its own pace, from memory that stays in place, where they were not drawn there;
    pixels in the precision that the tower's first product rounds them to."""
    pixels = [name for name, _ in PIXELS.values() if name in inputs]
    half = {name: inputs[name].bfloat16() for name in pixels if precision == "bf16"}
    made = {name: half.get(name, tensor) for name, tensor in inputs.items()}
    return {
        name: tensor if tensor.is_cuda or name in FOR_HOST else tensor.pin_memory() for name, tensor in made.items()
    }


def encoded(
    source: Source,
    processor: Any,
    pixels_per_frame: int,
    numbers: Iterable[range],
    wait: Wait = _simply,
    device: torch.device | str = "cpu",
    ready: Callable[[Inputs], Inputs] = dict,
) -> Iterator[Inputs]:
    """Inputs for the samples of these numbers, in order; meanwhile threads read and encode the next ones.

    One thread encodes: tokenizers serve one at a time. `wait` gives the batch of a future once it is made; `ready` is
    what that thread does last.
    """

    def make(reads: Reads) -> Inputs:
        return ready(encode(processor, [read.result() for read in reads.values()], pixels_per_frame, device))

    readers, encoder = ThreadPoolExecutor(source.readers), ThreadPoolExecutor(1)
    waiting: list[tuple[Reads, Future[Inputs]]] = []
    try:
        for indices in numbers:
            reads = {index: readers.submit(source.__getitem__, index) for index in indices}
            waiting.append((reads, encoder.submit(make, reads)))
            if len(waiting) > PREFETCHED:
                yield wait(*waiting.pop(0))
        while waiting:
            yield wait(*waiting.pop(0))
    finally:  # what was read ahead is not waited for
        for threads in (readers, encoder):
            threads.shutdown(wait=False, cancel_futures=True)


def place_rows(batch: Inputs, positions: Positions) -> Inputs:
    """A batch with position ids [3, B, L], time, height and width: the model would else find them amid a step."""
    names = (
        *("input_ids", "attention_mask", "mm_token_type_ids"),
        *("image_grid_thw", "video_grid_thw", "second_per_grid_ts"),
    )
    axes, _ = positions(**{name: batch[name] for name in names if name in batch})
    return {**batch, "position_ids": axes}


def place_tokens(sample: Inputs, positions: Positions) -> Inputs:
    """A sample, alone in its batch, with position ids [4, 1, L]: each token's number, then time, height and width."""
    axes = place_rows(sample, positions)["position_ids"]
    numbers = torch.arange(axes.shape[-1], device=axes.device)
    return {**sample, "position_ids": torch.cat([numbers.expand(1, 1, -1), axes])}


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The inputs there, but for what tells the host how to launch a step: to read it back would wait for the device."""
    return {
        name: tensor if name in FOR_HOST else tensor.to(device, non_blocking=True) for name, tensor in inputs.items()
    }


def packed(samples: Iterable[MicroBatch], most: int) -> Iterator[MicroBatch]:
    """Rows of as many samples as have `most` tokens together, in order; a sample of more has a row of its own.

    Each of `samples` is one that `place_tokens` made. A row ends with its step.
    """
    row: list[MicroBatch] = []
    for sample in samples:
        if row and sum(each.tokens for each in row) + sample.tokens > most:
            yield one_row(row)
            row = []
        row.append(sample)
        if sample.last:
            yield one_row(row)
            row = []


def one_row(samples: Sequence[MicroBatch]) -> MicroBatch:
    """Samples one after the other; the model keeps them apart, as position ids begin again with each."""
    inputs = {}
    for name in dict.fromkeys(name for sample in samples for name in sample.inputs):
        parts = [sample.inputs[name] for sample in samples if name in sample.inputs]
        inputs[name] = torch.cat(parts, dim=-1 if name in BY_TOKEN else 0)
    return MicroBatch(inputs, sum(sample.tokens for sample in samples), samples[-1].last)


def idle(tokens: int, pad_token: int, device: torch.device) -> MicroBatch:
    """A row without a sample: takes part in what all processes do together, and gives a loss of 0."""
    ids = torch.full((1, tokens), pad_token, device=device)
    places = torch.arange(tokens, device=device).expand(4, 1, -1)
    marks = {"attention_mask": torch.ones_like(ids), "mm_token_type_ids": torch.zeros_like(ids)}
    labels = torch.full_like(ids, IGNORED, device="cpu")
    return MicroBatch({"input_ids": ids, **marks, "labels": labels, "position_ids": places}, tokens=0, last=True)


def padded(batch: MicroBatch, multiple: int, pad_token: int) -> MicroBatch:
    """The batch with rows of a multiple of so many tokens, padded on the right."""
    missing = -batch.inputs["input_ids"].shape[1] % multiple
    fill = {"input_ids": pad_token, "attention_mask": 0, "labels": IGNORED, "mm_token_type_ids": 0, "position_ids": 1}
    wider = {name: pad(batch.inputs[name], (0, missing), value=fill[name]) for name in fill if name in batch.inputs}
    return replace(batch, inputs={**batch.inputs, **wider})


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
    labels = []
    for row in input_ids.tolist():
        target = [IGNORED] * len(row)
        for place, token in enumerate(row):
            if token == start and row[place : place + len(header)] == header:
                first = place + len(header)
                last = row.index(end, first) + 1
                target[first:last] = row[first:last]
        labels.append(target)
    return torch.tensor(labels)


def answer_loss(model: nn.Module, batch: Inputs) -> Tensor:
    """Mean negative log likelihood of each sample's answer tokens, [samples], in the order of their tokens.

    Logits are computed only where some row has an answer: 36,000 tokens times 152,000 words would be 22 GB. Of rows
    that lie over several processes each computes its share of them. Where labels are on the CPU nothing here waits for
    a device.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    device = batch["input_ids"].device
    targets = pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)  # nothing is predicted from a row's last token
    is_answer = targets != IGNORED
    places = is_answer.any(dim=0).nonzero().squeeze(1)
    inner: Any = getattr(model, "module", model)
    parallel = inner.model.parallel
    own = targets[:, places if parallel is None else parallel.share(places)]
    logits = model(**inputs, keep=places.to(device, non_blocking=True), use_cache=False).logits
    own = own.to(device, non_blocking=True)
    losses = cross_entropy(logits.float().flatten(0, 1), own.flatten(), ignore_index=IGNORED, reduction="none")
    losses = losses.view_as(own) if parallel is None else parallel.collect(losses.view_as(own))
    answers = is_answer[:, places].flatten().nonzero().squeeze(1).to(device, non_blocking=True)
    return _means(losses[:, : len(places)].flatten().index_select(0, answers), count_answers(batch))


def _means(losses: Tensor, counts: list[int]) -> Tensor:
    """The mean of each sample's losses, [samples]: all at once where samples have equally many."""
    if len(set(counts)) == 1 and counts[0]:
        return losses.view(-1, counts[0]).sum(dim=1) / counts[0]
    return torch.stack([each.sum() / max(1, len(each)) for each in losses.split(counts)])


def count_answers(batch: Inputs) -> list[int]:
    """Answer tokens of each sample. A row is a sample, unless position ids say which of its samples a token is of."""
    is_answer = batch["labels"] != IGNORED
    positions = batch.get("position_ids")
    if positions is None or len(positions) == 3:
        return is_answer.sum(dim=1).tolist()
    sample = (positions[0].to(is_answer.device) == 0).cumsum(dim=1)
    return sample[is_answer].bincount(minlength=int(sample.max()) + 1)[1:].tolist()
