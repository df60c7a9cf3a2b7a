"""Make the Auto classes of transformers know VideoNSA wherever they know Qwen2.5-VL."""

from __future__ import annotations

from transformers import AutoConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel

from videonsa.modeling.backbone import VideoNSAModel
from videonsa.modeling.configuration import VideoNSAConfig
from videonsa.modeling.model import VideoNSAForConditionalGeneration

MODELS = {
    Qwen2_5_VLModel: VideoNSAModel,
    Qwen2_5_VLForConditionalGeneration: VideoNSAForConditionalGeneration,
}
PROCESSORS = (PROCESSOR_MAPPING, TOKENIZER_MAPPING, IMAGE_PROCESSOR_MAPPING, VIDEO_PROCESSOR_MAPPING)


def register() -> None:
    """AutoConfig, each model class that this version of transformers has for Qwen2.5-VL, and its stock processors."""
    AutoConfig.register(VideoNSAConfig.model_type, VideoNSAConfig)
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("AutoModel") and mapping is not None and Qwen2_5_VLConfig in mapping:
            auto.register(VideoNSAConfig, MODELS[mapping[Qwen2_5_VLConfig]])
    for mapping in PROCESSORS:
        mapping.register(VideoNSAConfig, mapping[Qwen2_5_VLConfig])
