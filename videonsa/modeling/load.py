"""Load a checkpoint of VideoNSA or of stock Qwen2.5-VL, by folder or hub name, with NSA settings of the caller's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videonsa.config import SettingsError
from videonsa.hub import folder_at, loading_arguments
from videonsa.modeling.configuration import check_nsa_fields
from videonsa.modeling.model import VideoNSAForConditionalGeneration
from videonsa.weights import check_folder


def load_model(checkpoint: str | Path, *, nsa: dict[str, Any] | None = None, **kwargs: Any):
    """The model in eval mode, with the fields in `nsa` changed; further arguments go to `from_pretrained`.

    Raises SettingsError, in one line, for a folder without configuration or weights, a model of another type, or a
    setting that is not valid.
    """
    check_nsa_fields(nsa or {})
    folder = folder_at(str(checkpoint))
    if folder is not None:
        check_folder(folder)
    elif str(checkpoint).startswith(("/", "./", "../", "~")) or str(checkpoint).count("/") > 1:
        raise SettingsError(f"checkpoint {str(checkpoint)!r}: there is no such folder")
    if nsa and "semantics" in nsa:  # known at load, so that the release is not first given its own
        kwargs["semantics"] = nsa["semantics"]
    place, revision = loading_arguments(checkpoint)
    model = VideoNSAForConditionalGeneration.from_pretrained(place, **revision, **kwargs)
    model.set_nsa(**(nsa or {}))
    return model.eval()
