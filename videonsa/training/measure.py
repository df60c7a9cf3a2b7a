"""Mean gates of a checkpoint over training samples: what gate_mode="static" uses (paper, table 34)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLProcessor

from videonsa.config import SettingsError, TrainSettings
from videonsa.hub import loading_arguments
from videonsa.modeling import load_model
from videonsa.modeling.vision import speed_up_vision
from videonsa.surroundings import full_products, settings_decide
from videonsa.training.batch import encoded
from videonsa.training.gates import gate_sums, mean_of
from videonsa.training.run import make_source


@settings_decide()
@full_products()
def measure_gates(
    checkpoint: str | Path,
    nsa: dict[str, Any],
    settings: TrainSettings,
    samples: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Mean gates over samples that are evenly spread over a training.

    Args:
        checkpoint: folder, hub name or name@revision; bfloat16 on a GPU, float32 on a CPU, as it is evaluated.
        nsa: fields of NSASettings while measuring, gate_mode dynamic.
        settings: of the training whose samples are taken; its model is not.
        samples: at most; no more than the training has.
        on_progress: called with (samples done, samples in all).
    Returns:
        {"static_gates": [layers][heads][3], "samples", "tokens": vision tokens that were seen}.
    Raises:
        SettingsError: a checkpoint or data that cannot be used; samples without any vision.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model = load_model(checkpoint, nsa=nsa, dtype=torch.bfloat16 if cuda else torch.float32).to(device)
    speed_up_vision(model)
    name, revision = loading_arguments(checkpoint)
    processor = Qwen2_5_VLProcessor.from_pretrained(name, **revision)
    source = make_source(settings, processor)
    total = source.batch(source.steps - 1).stop
    count = min(samples, total)
    numbers = [range(place, place + 1) for place in (index * total // count for index in range(count))]

    def batches() -> Iterator[dict[str, Tensor]]:
        for done, batch in enumerate(encoded(source, processor, settings.pixels_per_frame, numbers, device=device), 1):
            yield {name: tensor.to(device) for name, tensor in batch.items()}
            if on_progress is not None:
                on_progress(done, count)

    sums, tokens = gate_sums(model, batches(), device)
    gates = mean_of(sums, tokens)
    if gates is None:
        raise SettingsError(f"data={settings.data!r}: no vision token in {count} samples to take mean gates over")
    return {"static_gates": gates, "samples": count, "tokens": int(tokens)}
