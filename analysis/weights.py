"""Whose weights a cell was asked of: the name of published ones, or the recipe of those that were trained here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from videonsa.config import NSASettings, SettingsError, TrainSettings, from_dict

TWIN = "a dense twin by the paper's recipe"
OWN_VIDEONSA = "VideoNSA by the paper's recipe"  # with the release's semantics, as the published weights
OTHER = "weights trained here by another recipe"
# Settings that the paper's recipe leaves open: whose data these are cannot be seen. The attention is looked at apart.
OPEN = ("data", "video_folder", "families", "frames", "seed", "nsa")

# The paper's 36K tokens a sample: as the setting counts them, or as the paper counts a context, frames x tokens a frame
# of which two share a patch, with room for the text (profile `paper`).
TOKENS = (36_000, 19_024)


def weights_name(train: Mapping[str, Any]) -> str | None:
    """From a record's settings.train; None where the name of given weights is not known."""
    if train.get("checkpoint"):
        return train["name"] if "name" in train else train["checkpoint"]  # older records have the latter alone
    if not by_the_papers_recipe(train):
        return OTHER
    try:
        nsa = from_dict(NSASettings, train.get("nsa") or {})
    except SettingsError:
        return OTHER
    if nsa.attention == "dense":
        return TWIN
    return OWN_VIDEONSA if nsa == NSASettings(semantics="release", backend=nsa.backend) else OTHER


def by_the_papers_recipe(train: Mapping[str, Any]) -> bool:
    """Whether a training's settings are the paper's, the defaults of TrainSettings, on videos of whatever source."""
    counts = [field for field in dataclasses.fields(TrainSettings) if not field.metadata.get("no_effect")]
    fields = [field for field in counts if field.name not in OPEN]
    usual = {field.name: list(field.default) if isinstance(field.default, tuple) else field.default for field in fields}
    usual["max_tokens"] = train["max_tokens"] if train.get("max_tokens") in TOKENS else usual["max_tokens"]
    return train.get("data", "synth") != "synth" and all(
        train.get(name, value) == value for name, value in usual.items()
    )
