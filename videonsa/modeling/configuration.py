"""Configuration of VideoNSA: Qwen2.5-VL's, and the fields of `NSASettings` flat beside it in config.json."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig

from videonsa.awq import read_awq
from videonsa.config import BRANCHES, NSASettings, SettingsError, require
from videonsa.methods import registry
from videonsa.methods.entries import MethodSettings

NSA_FIELDS = tuple(f.name for f in dataclasses.fields(NSASettings))


@strict
class VideoNSAConfig(Qwen2_5_VLConfig):
    r"""
    block_size, block_count, window, branches, gate_mode, gate_values, gate_temperature, attention, backend, semantics:
        See `videonsa.config.NSASettings`. All but the weights' shapes may be changed at load or on a live model.
    method (`dict`, *optional*):
        Another way to spend attention than NSA's settings say: {"name": one of `videonsa.methods.registry.names()`, and
        that method's settings}. None: as the fields above say.
    static_gates (`list`, *optional*):
        Mean gates over training samples, [layers][query heads][3 branches]; gate_mode="static" uses them.
    whole_seconds (`bool`, *optional*):
        Positions in time cut the seconds of a temporal patch to whole ones, so that patches of less than a second share
        one. None: as the transformers did that wrote a stock checkpoint, 4.52 to 5.2 do; all else counts the fraction.
    awq (`dict`, *optional*):
        Which weights stay packed, as `videonsa.awq.read_awq` makes it of an AWQ checkpoint's `quantization_config`.
    """

    model_type = "videonsa"

    block_size: int = 64
    block_count: int = 32
    window: int = 256
    branches: list[str] | tuple[str, ...] | str = BRANCHES
    gate_mode: str = "dynamic"
    gate_values: list[float] | tuple[float, ...] | str | None = None
    gate_temperature: float = 0.3
    attention: str = "nsa"
    backend: str = "auto"
    semantics: list[str] | tuple[str, ...] | str = "paper"
    method: dict | None = None
    static_gates: list | None = None
    whole_seconds: bool | None = None
    awq: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if quantization := kwargs.pop("quantization_config", None):
            self.awq = read_awq(quantization)  # and not transformers' business, which wants a package to load it
        super().__post_init__(**kwargs)
        if self.whole_seconds is None:
            self.whole_seconds = cuts_seconds(self.transformers_version)
        self.set_nsa(self.nsa)
        self.set_method(registry.from_record(self.method))

    @property
    def spends(self) -> NSASettings | MethodSettings:
        """How attention is spent: the settings of `method` where there is one, else `nsa`. Raises as `nsa` does."""
        return registry.from_record(self.method) or self.nsa

    def set_method(self, settings: MethodSettings | None) -> None:
        """Spend attention by another method than NSA's settings say; None: as they say.

        Raises SettingsError for a method that does not serve a model of this shape.
        """
        if settings is not None:
            settings.check_model(self.text_config.num_hidden_layers, self.text_config.num_attention_heads)
        self.method = None if settings is None else registry.as_record(settings)

    @property
    def nsa(self) -> NSASettings:
        """The settings, checked anew at each call: fields of a configuration may be assigned by anyone.

        Raises SettingsError for a field that is not valid, also for static gates that are asked for and not there.
        """
        settings = NSASettings(**{name: getattr(self, name) for name in NSA_FIELDS if hasattr(self, name)})
        missing = settings.attention == "nsa" and settings.gate_mode == "static" and self.static_gates is None
        valid = "this checkpoint holds no static_gates; train one, or use gate_mode=dynamic or fixed"
        require(not missing, "gate_mode", settings.gate_mode, valid)
        return settings

    def set_nsa(self, settings: NSASettings) -> None:
        """Take over all fields of the settings (lists instead of tuples: config.json knows no tuples)."""
        for name in NSA_FIELDS:
            value = getattr(settings, name)
            setattr(self, name, list(value) if isinstance(value, tuple) else value)


def cuts_seconds(transformers_version: str | None) -> bool:
    """Whether this version of transformers, of those that place text as Qwen2.5-VL does, cuts seconds to whole ones."""
    numbers = re.match(r"(\d+)\.(\d+)", transformers_version or "")
    return numbers is not None and (4, 52) <= (int(numbers[1]), int(numbers[2])) < (5, 3)


def check_nsa_fields(fields: dict[str, Any]) -> None:
    """Raise SettingsError for a name that is no NSA field."""
    unknown = [name for name in fields if name not in NSA_FIELDS]
    if unknown:
        raise SettingsError(f"unknown NSA setting {unknown[0]!r}; known settings: {', '.join(NSA_FIELDS)}")
