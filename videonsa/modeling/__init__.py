"""VideoNSA on transformers' Qwen2.5-VL. Importing this package registers it with the Auto classes."""

from videonsa.methods.meter import Meter, MethodDidNotRun
from videonsa.methods.paper import AttentionInputs
from videonsa.modeling.attention import capture_attention, looking
from videonsa.modeling.auto import register
from videonsa.modeling.backbone import VideoNSAModel, metered
from videonsa.modeling.configuration import VideoNSAConfig
from videonsa.modeling.load import load_model
from videonsa.modeling.model import VideoNSAForConditionalGeneration

register()

__all__ = [
    "AttentionInputs",
    "Meter",
    "MethodDidNotRun",
    "VideoNSAConfig",
    "VideoNSAForConditionalGeneration",
    "VideoNSAModel",
    "capture_attention",
    "load_model",
    "looking",
    "metered",
]
