"""The training loop: from a model and a source of samples to trained weights, resumable at any step.

A loop of our own and not transformers' Trainer, because three things go against the Trainer's grain: samples addressed
by number (so that a resumed run sees what the uninterrupted one would have seen), logits on answer tokens only, and
checkpoints that appear whole. Devices are accelerate's: under torchrun or `accelerate launch` the same code serves
several GPUs, each with all weights, or with its part of them (sharding.py).
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from videonsa.config import TrainSettings
from videonsa.modeling.exchange import SequenceParallel
from videonsa.placement import lanes, read_together
from videonsa.surroundings import collecting_new_objects
from videonsa.training.batch import (
    Inputs,
    MicroBatch,
    answer_loss,
    encoded,
    idle,
    on_device,
    own_pixels,
    packed,
    padded,
    place_rows,
    place_tokens,
    staged,
)
from videonsa.training.checkpoint import restore_checkpoint, save_checkpoint
from videonsa.training.gates import gate_sums, mean_of
from videonsa.training.journal import Journal, Teller, peak_memory
from videonsa.training.learning import choose_weights, merged
from videonsa.training.schedule import learning_rate, make_optimizer
from videonsa.training.sharding import Joined, join, sequence_groups, shard, shares_weights, whole_weights
from videonsa.training.skipped import FILE, Skipped, Skips, forget_after
from videonsa.training.sources import Source
from videonsa.training.watch import Leave, Left, Trouble, Waits, Watch

log = logging.getLogger(__name__)

GATE_SAMPLES = 1000  # training samples that the mean gates are taken over; a small run uses a fiftieth of its samples

# Weights may go without a gradient: a dense twin's gates always, the vision tower and the gates where the samples are
# text. DDP then must be told to look for them, or it waits for gradients that never come. A weight that no process used
# keeps its gradient None, so that AdamW neither moves nor decays it, the same as in one process. (A term of weight 0
# that touches everything would let it decay.) The search walks the graph once a step: milliseconds, where a step of 7B
# takes many seconds. Buffers are constants, alike in all processes from the start: no collective is needed for them.
UNUSED_WEIGHTS = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)


@dataclass(frozen=True)
class Step:
    """What all processes know of a step: they decide alike by it."""

    loss: float  # mean over the samples
    norm: float  # of the gradient
    tokens: int
    waited: float  # seconds for samples, of the process that waited longest
    memory: float  # bytes, the peak of the process that took most
    leave: bool  # one of them has been told to
    skipped: list[Skipped]  # passed over for its samples


class Diverged(FloatingPointError):
    """The loss or the gradient is no number any more, and so no weight will be."""


ADVICE = "try a lower train.learning_rate, or another seed"


def check_finite(step: int, loss: float, norm: float) -> None:
    """Raise Diverged, in all processes at once as both numbers are all processes', unless both are finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise Diverged(f"step {step}: loss {loss}, gradient norm {norm}: {ADVICE}")


def _local(weight: Tensor) -> Tensor:
    """This process's part of a weight that is sharded."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _whole(number: Tensor) -> Tensor:
    """A number that processes hold in parts."""
    return number.full_tensor() if isinstance(number, DTensor) else number


class Trainer:
    """One training run on this process's device."""

    def __init__(self, settings: TrainSettings, model: nn.Module, processor: Any, source: Source) -> None:
        self.settings, self.processor, self.source = settings, processor, source
        on_cpu = join(settings).device.type == "cpu"
        # Precision is ours (see _precision): a process that had an Accelerator with another one is refused.
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[UNUSED_WEIGHTS])
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.lanes, self.size = lanes(settings, self.world), read_together(settings)
        self.parallel = sequence_groups(model, settings)
        choose_weights(model, settings)
        if settings.activation_checkpointing:
            self._checkpoint_activations(model)
        model.train()
        self.bytes = sum(weight.nbytes for weight in model.parameters())  # of the weights, whole
        self.bytes_learning = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
        self.progress: dict[str, Any] = {"step": 0}
        self.teller, self.leave = Teller(), Leave()
        self.waits = Waits(settings.stall_seconds, source.name, self._stalled, "stall" in settings.stop_at)
        self.joined: Joined | None = None
        if shares_weights(settings):
            shard(model, self.accelerator.device, settings.precision, settings.offload)
            self.joined = Joined(model, settings.learns_gates)
        else:
            model = self.accelerator.prepare(model)
        self.model: Any = model
        self.positions = self._inner.get_rope_index
        self.optimizer = make_optimizer(self.model, settings)

    def resume(self, folder: Path) -> int:
        """Take up the newest checkpoint in `folder`, if there is one; returns the steps that are done."""
        self.progress = restore_checkpoint(self.accelerator, self.model, self.optimizer, folder / "checkpoints")
        return self.progress["step"]

    @collecting_new_objects()
    def run(self, folder: Path, journal: Journal | None = None) -> None:
        """Train on to the last step, with checkpoints in `folder`; the main process's `journal` gets the metrics.

        Raises, in all processes at the same step, Diverged, Trouble where the settings stop at it, and Left; and
        Stalled, in the process whose samples do not come.
        """
        first, steps = self.progress["step"], self.source.steps
        tokens, seconds = self.progress.get("tokens", 0), self.progress.get("seconds", 0.0)
        watch, due = Watch(self.progress.get("calm")), False
        if self.accelerator.is_main_process:
            log.info("steps %d to %d on %d x %s", first + 1, steps, self.world, self.accelerator.device)
        skips = self._skips(folder, first)
        batches = self._prefetch(self._numbers(first, steps))
        for step in range(first + 1, steps + 1):
            started = time.perf_counter()
            seen = self._step(step - 1, batches)
            took = time.perf_counter() - started
            tokens, seconds = tokens + seen.tokens, seconds + took
            said = [watch.see(seen.loss, seen.norm), self.waits.said]
            line = self._line(step, seen, took) | {"tokens": tokens, "seconds": round(seconds, 3)}
            self._note(line, steps, "; ".join(filter(None, said)), journal)
            skips.add(step, seen.skipped, self.rank == 0)
            check_finite(step, seen.loss, seen.norm)
            if said[0] is not None and "spike" in self.settings.stop_at:
                raise Trouble(f"step {step}: {said[0]}; {ADVICE}, or go on from the last checkpoint without stop_at")
            every = self.settings.save_every
            due = due or step % every == 0 or (step == steps > every)  # mean gates and final/ may take long
            if seen.leave or (due and not watch.doubts):
                state = {"tokens": tokens, "seconds": seconds, "skipped": sorted(skips.entries), "calm": watch.state}
                self._save(folder, step, state, watch.doubts)
                due = False
            if seen.leave:
                raise Left(f"{self.leave.why}: step {step} of {steps} is saved")

    def _line(self, step: int, seen: Step, took: float) -> dict[str, Any]:
        """A step's metrics."""
        return {
            "step": step,
            "loss": seen.loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": seen.norm,
            "tokens_per_s": round(seen.tokens / took, 1),
            "step_s": round(took, 4),
            "data_s": round(seen.waited, 4),
            "peak_gib": round(seen.memory / 2**30, 3),
        }

    def _note(self, line: dict[str, Any], steps: int, trouble: str, journal: Journal | None) -> None:
        if journal is not None:
            if trouble:
                log.warning("step %d: %s", line["step"], trouble)
            journal.write(line | ({"trouble": trouble} if trouble else {}))
        if trouble:
            self.teller.say(f"step {line['step']}: {trouble}")
        self.teller.step(line, steps)

    def _stalled(self, text: str) -> None:
        """Said at once, by the process that waits."""
        log.warning("%s", text)
        self.teller.say(text)

    def _save(self, folder: Path, step: int, state: dict[str, Any], doubts: bool) -> None:
        """A checkpoint of these steps; in doubt about the last of them the one before stays as well."""
        self.check_weights()
        keep = self.settings.keep_checkpoints + doubts
        place, needed = folder / "checkpoints", 3 * self.bytes_learning  # AdamW keeps two numbers a weight
        save_checkpoint(self.accelerator, self.model, self.optimizer, place, step, state, needed, keep)

    def _skips(self, folder: Path, first: int) -> Skips:
        if self.rank == 0:
            forget_after(folder / FILE, first)
        known = self.progress.get("skipped", ())
        return Skips(folder / FILE, self.settings.max_skipped, self.source.samples, known)

    def _all_skipped(self, found: list[Skipped]) -> list[Skipped]:
        """What all processes passed over."""
        if self.world == 1:
            return found
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, found)
        return [each for part in everyone for each in part]

    def check_weights(self) -> None:
        """Raise Diverged, in all processes at once, unless every weight is finite: only such weights are saved.

        A last update may be the one that goes too far, when there is no loss any more that would tell of it.
        """
        whole = torch.stack([torch.isfinite(_local(weight)).all() for weight in self.model.parameters()])
        if self.accelerator.reduce((~whole).sum(), "sum") > 0:
            raise Diverged(f"the last step made weights that are no numbers: {ADVICE}")

    def mean_gates(self) -> list[Any] | None:
        """Mean gates over training samples of steps from all of the run, [layers][heads][3].

        None for a dense model, and where these samples hold no vision; the settings and the sum over all processes
        decide that, never what this process has seen, for each must take part in the sum.
        """
        if self.settings.nsa.attention == "dense":
            return None
        samples = min(GATE_SAMPLES, self.source.steps * self.settings.batch_size // 50)
        count = max(1, samples // self.settings.batch_size)
        steps = [index * self.source.steps // count for index in range(count)]
        numbers = itertools.chain.from_iterable(self._numbers(step, step + 1) for step in steps)
        self.model.eval()
        with self._precision(), self._samples_whole():
            sums, tokens = gate_sums(
                self.model, (batch.inputs for batch in self._prefetch(numbers)), self.accelerator.device
            )
        return mean_of(*(self.accelerator.reduce(tensor, "sum") for tensor in (sums, tokens)))

    def weights(self) -> dict[str, Tensor]:
        """The trained weights, adapters merged, whole on the main process, also when they are sharded; elsewhere {}."""
        whole = self.accelerator.get_state_dict(self.model) if self.joined is None else whole_weights(self.model)
        return merged(whole, self.settings) if self.accelerator.is_main_process else {}

    @staticmethod
    def _checkpoint_activations(model: Any) -> None:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def _step(self, step: int, batches: Iterator[MicroBatch]) -> Step:
        """One optimizer step."""
        share = len(self.source.batch(step)) // self.lanes  # of the samples, this process's
        losses, tokens, last = [], 0, False
        self.waits.seconds, self.waits.said = 0.0, None
        while not last:
            batch = next(batches)
            last = batch.last
            with self._sums(last):
                with self._precision():
                    loss = answer_loss(self.model, batch.inputs).sum() / share
                loss.backward()
            losses.append(loss.detach())
            tokens += batch.tokens
        norm = _whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step, self.source.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        skipped = self.source.take_skipped(itertools.chain.from_iterable(self._numbers(step, step + 1)))
        mine = [tokens, self.waits.seconds, peak_memory(self.accelerator.device), self.leave.told]
        return self._shared(torch.stack(losses).sum(), norm, mine, skipped)

    def _shared(self, loss: Tensor, norm: Tensor, mine: list[float], skipped: list[Skipped]) -> Step:
        """The step as all processes know it; `mine`: this one's tokens, seconds waited, bytes, told to leave or not."""
        told = torch.stack([loss, norm.to(loss.device), *loss.new_tensor([*mine, len(skipped)])])
        losses, norms, tokens, waited, memory, leave, passed = self.accelerator.gather(told[None]).T.tolist()
        everywhere = self._all_skipped(skipped) if any(passed) else []  # objects are sent where there are any
        seen = int(sum(tokens)) * self.lanes // self.world
        return Step(_mean(losses), _mean(norms), seen, max(waited), max(memory), any(leave), everywhere)

    def _sums(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are summed over the processes at a step's last micro-batch; those of shared weights at each one,
        for a process would else keep them whole until then, in float32: 35 GB of 7B."""
        return nullcontext() if last or self.joined is not None else self.accelerator.no_sync(self.model)

    def _precision(self) -> torch.autocast:
        """Matrix products in bfloat16 over float32 weights, where the settings say so.

        Not accelerate's own: its precision is one for the whole process, which may train twice.
        """
        bf16 = self.settings.precision == "bf16"
        return torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=bf16)

    def _numbers(self, first: int, steps: int) -> Iterable[range]:
        """The sample numbers of the micro-batches of this process's lane, from step `first` on."""
        lane = self.rank * self.lanes // self.world
        for batch in map(self.source.batch, range(first, steps)):
            size = min(self.size, len(batch) // self.lanes)
            for start in range(batch.start + lane * size, batch.stop, size * self.lanes):
                yield range(start, start + size)

    def _ends_step(self, numbers: range) -> bool:
        """These are the last samples of a step in this process's lane."""
        batch = self.source.batch(self.source.step_of(numbers.start))
        return numbers.start + len(numbers) * self.lanes >= batch.stop

    @contextmanager
    def _samples_whole(self) -> Iterator[None]:
        """Each process sees all tokens of its lane's samples: sums over the processes count these alike often."""
        self._inner.parallel = None
        try:
            yield
        finally:
            self._inner.parallel = self.parallel

    @property
    def _inner(self) -> Any:
        """Tower and decoder, inside of what shares the work."""
        return getattr(self.model, "module", self.model).model

    def _prefetch(self, numbers: Iterable[range]) -> Iterator[MicroBatch]:
        """Micro-batches on the device, in order; of each step as many in every process where weights are shared."""
        samples = self._on_device(numbers)
        for batch in self._in_rows(samples) if self.settings.packing else samples:
            told = self._tell(batch)
            yield told
            while batch.last and not told.last:  # others have more
                told = self._tell(idle(1, self.processor.tokenizer.pad_token_id, self.accelerator.device))
                yield told

    def _on_device(self, numbers: Iterable[range]) -> Iterator[MicroBatch]:
        pixels, device = self.settings.pixels_per_frame, self.accelerator.device
        ready = partial(self._ready, None if self.settings.packing else self._inner.parallel)
        asked, coming = itertools.tee(numbers)  # some are read ahead
        batches = encoded(self.source, self.processor, pixels, coming, self.waits, device, ready)
        for each, inputs in zip(asked, batches, strict=True):
            tokens = int(inputs["attention_mask"].sum())
            yield MicroBatch(on_device(inputs, device), tokens, last=self._ends_step(each))

    def _ready(self, parallel: SequenceParallel | None, inputs: Inputs) -> Inputs:
        """What the thread that encodes does last."""
        placed = (place_tokens if self.settings.packing else place_rows)(inputs, self.positions)
        own = own_pixels(placed, parallel)
        return staged(own, self.settings.precision) if self.accelerator.device.type == "cuda" else own

    def _in_rows(self, samples: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """Packed; only then it is known which pixels of a row are this process's."""
        parallel = self._inner.parallel
        for row in packed(samples, self.settings.row_tokens or self.settings.max_tokens):
            yield replace(row, inputs=own_pixels(row.inputs, parallel))

    def _tell(self, batch: MicroBatch) -> MicroBatch:
        """The batch as this process takes it, when the others know of it."""
        if self.parallel is not None:
            batch = padded(batch, self.parallel.multiple, self.processor.tokenizer.pad_token_id)
        return batch if self.joined is None else replace(batch, last=self.joined.tell(batch.inputs, batch.last))
