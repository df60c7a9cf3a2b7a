"""What one prefill computed, layer by layer: share of pairs, tokens, milliseconds of the choice and of attention."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class MethodDidNotRun(RuntimeError):
    """A method was asked and did not run in every layer: what came out is no answer of that method."""


@dataclass
class Clock:
    """Times of one kind in one layer: on a GPU pairs of events, which are read when all is done."""

    device: torch.device
    seconds: float = 0.0
    events: list[tuple[Any, Any]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self.events.append((start, end))
            return
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun

    @property
    def milliseconds(self) -> float:
        """Waits for the device."""
        if self.events:
            self.events[-1][1].synchronize()
        return 1000 * self.seconds + sum(start.elapsed_time(end) for start, end in self.events)


@dataclass
class Layer:
    """What one layer computed."""

    attention: Clock
    choice: Clock
    chooses: bool = False
    tokens: int = 0  # that entered the layer, over the batch
    pairs: Tensor | float = 0.0  # causal pairs of a query and a key that were computed, mean over the query heads
    means: float = 0.0  # pairs of a query and the mean of a block of keys, likewise


class Meter:
    """Attached to a method for one prefill; `report` says what was measured."""

    on = True  # somebody looks

    def __init__(self, method: str, layers: int, device: torch.device) -> None:
        self.method, self.device = method, device
        self.layers = dict.fromkeys(range(layers))  # type: dict[int, Layer | None]
        self.causal = 0.0  # pairs of dense attention over the prompt as it was given

    def starts(self, causal: float) -> None:
        """The pairs of dense attention over the prompt, before anything is dropped."""
        self.causal = causal

    def choice(self, layer: int) -> AbstractContextManager[None]:
        """Around the choice of what to attend to."""
        self._layer(layer).chooses = True
        return self._layer(layer).choice.running()

    def chose(self, layer: int, clock: Clock) -> None:
        """Work for the choice of a layer that was done before, in the vision tower."""
        here = self._layer(layer)
        here.chooses = True
        here.choice.seconds += clock.seconds
        here.choice.events += clock.events

    def attention(self, layer: int) -> AbstractContextManager[None]:
        """Around the attention itself."""
        return self._layer(layer).attention.running()

    def computed(self, layer: int, tokens: int, pairs: Tensor | float, means: float = 0.0) -> None:
        """What a layer did: tokens that entered it, causal pairs a query head, pairs with means of blocks."""
        here = self._layer(layer)
        here.tokens, here.pairs, here.means = tokens, pairs, means

    def _layer(self, number: int) -> Layer:
        if self.layers.get(number) is None:
            self.layers[number] = Layer(Clock(self.device), Clock(self.device))
        layer = self.layers[number]
        assert layer is not None
        return layer

    def report(self) -> dict[str, Any]:
        """{"method", "density", "block_means", "tokens": lists by layer, "choice_ms", "attention_ms": sums}.

        density: causal pairs of a query and a key that were computed, over those of dense attention on the prompt as it
        was given; block_means: pairs with a block's mean, over the same. choice_ms is None of a method that chooses
        nothing, or does it within its attention. Raises MethodDidNotRun for a layer in which the method was not asked.
        """
        missing = [number for number, layer in self.layers.items() if layer is None or not layer.tokens]
        if missing:
            raise MethodDidNotRun(
                f"method {self.method} ran in {len(self.layers) - len(missing)} of {len(self.layers)} layers; "
                f"not in {', '.join(map(str, missing[:8]))}"
            )
        layers = [layer for layer in self.layers.values() if layer is not None]
        chooses = any(layer.chooses for layer in layers)
        return {
            "method": self.method,
            "density": [_share(float(layer.pairs), self.causal) for layer in layers],
            "block_means": [_share(layer.means, self.causal) for layer in layers],
            "tokens": [layer.tokens for layer in layers],
            "choice_ms": round(sum(layer.choice.milliseconds for layer in layers), 3) if chooses else None,
            "attention_ms": round(sum(layer.attention.milliseconds for layer in layers), 3),
        }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 1.0


class NoMeter(Meter):
    """Nobody looks: nothing is measured."""

    on = False

    def __init__(self) -> None:
        pass

    def starts(self, causal: float) -> None:
        """Nothing."""

    def choice(self, layer: int) -> AbstractContextManager[None]:
        return nullcontext()

    def chose(self, layer: int, clock: Clock) -> None:
        """Nothing."""

    def attention(self, layer: int) -> AbstractContextManager[None]:
        return nullcontext()

    def computed(self, layer: int, tokens: int, pairs: Tensor | float, means: float = 0.0) -> None:
        """Nothing."""
