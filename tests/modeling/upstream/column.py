"""transformers' own tests of a vision-language model, on stock Qwen2.5-VL or on ours, by the variable COLUMN.

Run by ../test_upstream.py in the tests folder of transformers' source distribution. A sample has 24 vision tokens, so
that blocks and windows of 4 matter.
"""

import os
import unittest

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.models.auto import modeling_auto

from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

COLUMN = os.environ["COLUMN"]  # stock, dense or nsa
if COLUMN == "stock":
    CONFIG, MODELS, NSA = Qwen2_5_VLConfig, (Qwen2_5_VLModel, Qwen2_5_VLForConditionalGeneration), {}
else:
    from videonsa.modeling import VideoNSAConfig, VideoNSAForConditionalGeneration, VideoNSAModel

    CONFIG, MODELS = VideoNSAConfig, (VideoNSAModel, VideoNSAForConditionalGeneration)
    NSA = {"attention": COLUMN, "block_size": 4, "block_count": 2, "window": 4}
    for name, table in vars(modeling_auto).items():  # the tests look up by name what a class is for
        if name.endswith("_MAPPING_NAMES") and (theirs := table.get("qwen2_5_vl")):
            table["videonsa"] = theirs.replace("Qwen2_5_VL", "VideoNSA")

PAD, START, IMAGE, VIDEO = 2, 3, 4, 5
GRID, VISION, BEFORE, AFTER = (1, 4, 6), 24, 8, 7  # patches, tokens of the image, of the text before it and after it
PIXELS = 3 * 2 * 14 * 14


class Tester:
    """What the tests ask of a model's tester."""

    batch_size, seq_length, is_training = 3, BEFORE + VISION + AFTER, True
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 32, 2, 4, 99

    def get_config(self):
        return CONFIG(
            text_config={
                "hidden_size": self.hidden_size,
                "intermediate_size": 37,
                "num_hidden_layers": self.num_hidden_layers,
                "num_attention_heads": self.num_attention_heads,
                "num_key_value_heads": 2,
                "vocab_size": self.vocab_size,
                "max_position_embeddings": 512,
                "rope_parameters": {"type": "mrope", "mrope_section": [2, 1, 1], "rope_theta": 10000},
                "tie_word_embeddings": True,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "pad_token_id": PAD,
            },
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 32,
                "out_hidden_size": 32,
                "num_heads": 4,
                "patch_size": 14,
                "spatial_merge_size": 1,
                "temporal_patch_size": 2,
                "tokens_per_second": 1,
            },
            vision_start_token_id=START,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            **NSA,
        )

    def prepare_config_and_inputs_for_common(self):
        ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        ids[(ids >= START) & (ids <= VIDEO)] = PAD
        ids[:, BEFORE - 1], ids[:, BEFORE : BEFORE + VISION], ids[:, -1] = START, IMAGE, PAD
        return self.get_config(), {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == IMAGE).long(),
            "pixel_values": floats_tensor([self.batch_size * VISION, PIXELS]),
            "image_grid_thw": torch.tensor([GRID] * self.batch_size),
        }


class ColumnTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    """The common tests and, where they are there, those of generation."""

    all_model_classes = MODELS
    all_generative_model_classes = MODELS[1:]
    test_can_init_all_missing_weights_before_2023 = True  # whatever year a file's head names
    test_all_params_have_gradient = COLUMN != "dense"  # dense attention has no use for the gates

    def setUp(self):
        self.model_tester = Tester()
        self.config_tester = ConfigTester(self, config_class=CONFIG, has_text_modality=False)

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_reverse_loading_mapping(self):
        super().test_reverse_loading_mapping(skip_base_model=True)

    def prepare_config_and_inputs_for_generate(self, batch_size=2):
        config, inputs = super().prepare_config_and_inputs_for_generate(batch_size)
        inputs["pixel_values"] = floats_tensor([len(inputs["input_ids"]) * VISION, PIXELS])
        return config, inputs

    def test_padding_matches_padding_free_with_position_ids(self):
        """Samples packed into one row, as transformers' own test of Qwen2.5-VL packs them."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = MODELS[1](config).eval()
        names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
        axes, _ = model.model.get_rope_index(**{name: inputs[name] for name in names})
        text = torch.arange(self.model_tester.seq_length).repeat(self.model_tester.batch_size)[None, None]
        packed = {
            "input_ids": inputs["input_ids"].reshape(1, -1),
            "position_ids": torch.cat([text, axes.reshape(3, 1, -1)]),
            **{name: inputs[name] for name in ("pixel_values", "image_grid_thw")},
        }
        expected = model(**inputs, use_cache=False).logits.flatten(0, 1)
        torch.testing.assert_close(model(**packed, use_cache=False).logits[0], expected, rtol=1e-4, atol=1e-4)


del ModelTesterMixin, GenerationTesterMixin
