"""VideoNSA on transformers' Qwen2.5-VL. Importing this package registers it with the Auto classes."""

from videonsa.modeling.attention import AttentionInputs, capture_attention
from videonsa.modeling.auto import register
from videonsa.modeling.configuration import VideoNSAConfig
from videonsa.modeling.load import load_model
from videonsa.modeling.model import VideoNSAForConditionalGeneration, VideoNSAModel

register()

__all__ = [
    "AttentionInputs",
    "VideoNSAConfig",
    "VideoNSAForConditionalGeneration",
    "VideoNSAModel",
    "capture_attention",
    "load_model",
]
