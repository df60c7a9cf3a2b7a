"""What lmms-eval finds through the entry point `lmms_eval.models`, for `python -m lmms_eval --model videonsa`."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The model's name in lmms-eval and the class behind it, imported when the model is asked for."""
    return ModelManifest(model_id="videonsa", chat_class_path="evals.model.VideoNSA")
