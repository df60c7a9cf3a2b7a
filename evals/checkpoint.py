"""A checkpoint in memory: model, processor and the settings that it was saved with."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLProcessor

from evals.drawn import Reading, drawing
from evals.measure import MIB, weight_bytes
from videonsa.config import BRANCHES, NSASettings, SettingsError, one_of, require
from videonsa.fingerprint import NOT_WEIGHTS, fingerprint
from videonsa.hub import folder_at, loading_arguments, split_revision
from videonsa.identity import identity
from videonsa.methods import registry
from videonsa.methods.entries import MethodSettings
from videonsa.modeling import VideoNSAForConditionalGeneration, load_model
from videonsa.modeling.packed import BITS, packed_layers
from videonsa.modeling.vision import speed_up_vision
from videonsa.surroundings import settings_decide
from videonsa.video import Readers
from videonsa.weights import ask

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

VIDEO_TOKEN = "<|video_pad|>"


@dataclass
class Checkpoint:
    """A loaded model that serves several cells: `use` changes its attention."""

    model: VideoNSAForConditionalGeneration
    processor: Qwen2_5_VLProcessor
    identity: str  # 12 digits for configuration and weights
    saved: NSASettings  # the attention that the model was made with
    warm: set[Hashable] = field(default_factory=set)  # what has run once: attentions, kinds of the tower's passes
    readers: Readers = field(default_factory=Readers)  # of the videos that it is asked about; they end with it
    peaks: dict[Hashable, float] = field(default_factory=dict)  # MiB by attention and length; of a CPU

    def use(self, nsa: Mapping[str, Any], method: MethodSettings | None = None) -> NSASettings:
        """Attend as the model was made, but for the given settings; or by another method in NSA's place.

        Raises SettingsError for a bad name or value, and for NSA with gates that the model does not have.
        """
        fields = [f.name for f in dataclasses.fields(NSASettings)]
        unknown = [name for name in nsa if name not in fields]
        if unknown:
            raise SettingsError(f"unknown NSA setting {unknown[0]!r}; known settings: {', '.join(fields)}")
        asked = ask(self.saved, nsa if method is None else {**nsa, "attention": "dense"})
        self.model.set_nsa(**{name: getattr(asked, name) for name in fields})
        self.model.set_method(method)
        return self.model.config.nsa

    @property
    def spends(self) -> Hashable:
        """Tells the present attention from others."""
        return repr(self.model.config.spends)

    @property
    def watches(self) -> Hashable:
        """Attentions that agree in it share a pass of the vision tower."""
        settings = self.model.config.spends
        method: Any = registry.load(registry.entry_of(settings))
        return method.watches(settings)

    def take_gates(self, gates: list[Any]) -> None:
        """Mean gates [layers][heads][3] for gate_mode="static". Raises SettingsError for other shapes."""
        text = self.model.config.text_config
        shape = (text.num_hidden_layers, text.num_attention_heads, len(BRANCHES))
        found = tuple(torch.tensor(gates).shape)
        require(found == shape, "static_gates", f"shape {list(found)}", f"[layers, heads, branches] = {list(shape)}")
        self.model.config.static_gates = gates

    @property
    def weights(self) -> dict[str, Any]:
        """What the weights are in memory, as records keep it: in which type they compute, MiB of all, what is packed.

        Packed ones are unpacked at each use (videonsa/modeling/packed.py), which costs time and saves memory.
        """
        layers, dtype = packed_layers(self.model), str(self.model.dtype).removeprefix("torch.")
        packed = {"method": "awq", "bits": BITS, "group_size": layers[0].group_size} if layers else None
        sizes = {"layers": len(layers), "mib": round(sum(map(weight_bytes, layers)) / MIB, 3)}
        about = {"dtype": dtype, "mib": round(weight_bytes(self.model) / MIB, 3)}
        return about | {"packed": packed and packed | sizes}

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def reading(self) -> Reading:
        """What reads or draws the videos that it is asked about."""
        return drawing(self.readers, self.device)

    @property
    def tokens_per_frame(self) -> int:
        """Vision tokens a frame patch at most, as the checkpoint's processor has it."""
        merged = self.processor.video_processor.patch_size * self.processor.video_processor.merge_size
        return max(1, self.processor.video_processor.size["longest_edge"] // merged**2)


@settings_decide()
def load(
    checkpoint: str | Path,
    nsa: dict[str, Any] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    method: MethodSettings | None = None,
) -> Checkpoint:
    """Load a folder, a hub name or name@revision. What nothing names stays as saved; a stock Qwen2.5-VL is dense.

    Args:
        nsa: fields of NSASettings to change.
        method: what attends in NSA's place.
        device: "cuda", "cuda:1", "cpu"; None: a GPU where there is one.
        dtype: bfloat16, float16, float32; None: bfloat16 on a GPU, float32 on a CPU.
    Raises:
        SettingsError: no weights, another model, no processor, an unknown setting or device; one line.
    """
    place = _device(device)
    if dtype is not None:
        one_of("dtype", dtype, DTYPES)
    kind = DTYPES[dtype] if dtype else torch.bfloat16 if place.type == "cuda" else torch.float32
    model = load_model(checkpoint, dtype=kind)
    speed_up_vision(model)
    saved = model.config.nsa
    if model.has_fresh_gates:
        saved = dataclasses.replace(saved, attention="dense")
        model.drop_gates()
    loaded = Checkpoint(model.to(place), _processor(checkpoint), identity_of(checkpoint, model), saved)
    loaded.use(nsa or {}, method)
    return loaded


def from_memory(model: VideoNSAForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> Checkpoint:
    """A model that was never saved, for tests and probes."""
    return Checkpoint(model.eval(), processor, identity_of("", model), model.config.nsa)


def identity_of(checkpoint: str | Path, model: VideoNSAForConditionalGeneration) -> str:
    """12 digits for what answers: a folder's content, a hub name and its revision, or the sums of a model in memory."""
    if checkpoint and (folder := folder_at(str(checkpoint))):
        return fingerprint(folder)
    revision = getattr(model.config, "_commit_hash", None)
    if checkpoint and revision:
        return identity({"hub": split_revision(str(checkpoint))[0], "revision": revision})
    settings = {key: value for key, value in model.config.to_dict().items() if key not in NOT_WEIGHTS}
    sums = [float(tensor.detach().double().sum()) for tensor in model.state_dict().values()]
    return identity({"config": settings, "sums": sums})


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device={name!r} is not valid: give cpu, cuda or cuda:N") from None
    require(device.type != "cuda" or torch.cuda.is_available(), "device", name, "torch sees no GPU here; give cpu")
    return device


def _processor(checkpoint: str | Path) -> Qwen2_5_VLProcessor:
    try:
        place, revision = loading_arguments(checkpoint)
        processor = Qwen2_5_VLProcessor.from_pretrained(place, **revision)
        if VIDEO_TOKEN not in processor.tokenizer.get_vocab():  # without its files, a tokenizer that knows nothing
            raise ValueError(f"its tokenizer does not know {VIDEO_TOKEN}")
        return processor
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SettingsError(
            f"checkpoint {str(checkpoint)!r}: no processor or tokenizer files in it ({reason})"
        ) from None
