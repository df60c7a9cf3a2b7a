"""Load a checkpoint of VideoNSA or of stock Qwen2.5-VL, by folder or hub name, with NSA settings of the caller's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from videonsa.config import SettingsError
from videonsa.modeling.configuration import VideoNSAConfig, check_nsa_fields
from videonsa.modeling.model import VideoNSAForConditionalGeneration

MODEL_TYPES = (VideoNSAConfig.model_type, "qwen2_5_vl")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def load_model(checkpoint: str | Path, *, nsa: dict[str, Any] | None = None, **kwargs: Any):
    """The model in eval mode, with the fields in `nsa` changed; further arguments go to `from_pretrained`.

    Raises SettingsError, in one line, for a folder without configuration or weights, a model of another type, or a
    setting that is not valid.
    """
    check_nsa_fields(nsa or {})
    folder = Path(checkpoint)
    if folder.is_dir():
        _check_folder(folder)
    elif str(checkpoint).startswith(("/", "./", "../")) or str(checkpoint).count("/") > 1:
        raise SettingsError(f"checkpoint {str(checkpoint)!r}: there is no such folder")
    if nsa and "semantics" in nsa:  # known at load, so that the release is not first given its own
        kwargs["semantics"] = nsa["semantics"]
    model = VideoNSAForConditionalGeneration.from_pretrained(str(checkpoint), **kwargs)
    model.set_nsa(**(nsa or {}))
    return model.eval()


def _check_folder(folder: Path) -> None:
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, json.JSONDecodeError, AttributeError):
        raise SettingsError(f"checkpoint {str(folder)!r}: no readable config.json in it") from None
    if model_type not in MODEL_TYPES:
        valid = " or ".join(MODEL_TYPES)
        raise SettingsError(f"checkpoint {str(folder)!r}: its model_type is {model_type!r}; it must be {valid}")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise SettingsError(f"checkpoint {str(folder)!r}: no weights in it ({' or '.join(WEIGHTS)})")
