"""What a training starts from: weights that exist or are drawn, and gates that nobody has trained yet."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import Qwen2_5_VLProcessor

from videonsa.awq import ONLY_ASKED
from videonsa.config import SettingsError, TrainSettings, require, to_dict
from videonsa.hub import folder_at, loading_arguments
from videonsa.modeling import VideoNSAForConditionalGeneration, load_model
from videonsa.modeling.attention import VideoNSAAttention
from videonsa.small import SMALL
from videonsa.tiny import build_small
from videonsa.training.sharding import hollow, join, shares_weights
from videonsa.weights import saved_settings

log = logging.getLogger(__name__)

Start = tuple[VideoNSAForConditionalGeneration, Qwen2_5_VLProcessor, str]
FRESH, TRAINED, UNUSED = "fresh", "trained", "unused"  # gates, as a training finds them


def start(settings: TrainSettings) -> Start:
    """What `start_model` makes, in each process of a training. Where they share the weights the first one's model has
    them all, the others' has none until `shard` deals them out.

    Raises SettingsError in all of them.
    """
    if not shares_weights(settings):
        return start_model(settings)
    made: Start | SettingsError | None = None
    if join(settings).is_main_process:
        try:
            made = start_model(settings)
        except SettingsError as error:
            made = error
    sent: list[Any] = [(hollow(made[0]), *made[1:]) if isinstance(made, tuple) else made]
    broadcast_object_list(sent)
    found = sent[0] if made is None else made
    if isinstance(found, SettingsError):
        raise found
    return found


def start_model(settings: TrainSettings) -> Start:
    """The model to train, in float32 with the settings' NSA, its processor, and what its gates are at the start.

    Gates are fresh of small models made here, of stock weights, which have none, and of weights that were made densely.
    """
    torch.manual_seed(settings.seed)  # of fresh gates
    if settings.model in SMALL:
        (model, processor), fresh = build_small(settings.model, settings.nsa, settings.seed), True
    else:
        model = load_model(settings.model, nsa=to_dict(settings.nsa), dtype=torch.float32)
        if model.config.awq:
            raise SettingsError(f"model {settings.model!r}: {ONLY_ASKED}")
        fresh = model.has_fresh_gates or made_densely(settings.model)
        place, revision = loading_arguments(settings.model)
        processor = Qwen2_5_VLProcessor.from_pretrained(place, **revision)
    if not settings.learns_gates:
        return model, processor, UNUSED
    usual = set(settings.gate_start) == {0.5}
    valid = f"0.5 for each of the three branches: {settings.model} holds gates that were trained"
    require(fresh or usual, "gate_start", settings.gate_start, valid)
    if not usual:
        open_gates(model, settings.gate_start, settings.nsa.gate_temperature)
    return model, processor, FRESH if fresh else TRAINED


def made_densely(model: str) -> bool:
    """A folder of ours whose gates have never been used. Of a hub name nothing is known."""
    folder = folder_at(model)
    return folder is not None and saved_settings(folder).attention == "dense"


@torch.no_grad()
def open_gates(model: nn.Module, values: Sequence[float], temperature: float) -> None:
    """Let the fresh gates of (cmp, slc, swa) start near these values, in every head: by the biases, which are 0."""
    logits = torch.tensor([temperature * math.log(value / (1 - value)) for value in values])
    for layer in model.modules():
        if isinstance(layer, VideoNSAAttention):
            layer.g_proj_2.bias.copy_(logits.repeat(layer.num_heads))


def told(model: nn.Module, gates: str) -> dict[str, int | str]:
    """What a record says of the start: the numbers of all weights and of those that learn, and the gates."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    learning = sum(size for size, learns in sizes if learns)
    return {"parameters": sum(size for size, _ in sizes), "learning": learning, "gates": gates}
