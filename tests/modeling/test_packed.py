"""Weights of 4 bits, packed as AutoAWQ's GEMM layout does it: unpacked they are exactly what was meant."""

from __future__ import annotations

import pytest
import torch

from tests.awq import pack_words, quantise
from videonsa.modeling.packed import PackedLinear, unpack

# Columns 0 to 7 hold 0 to 7, or 15 to 8; a word has its columns in the order 0 2 4 6 1 3 5 7 from the lowest bits on.
RISING, FALLING = 0x75316420, 0x8ACE9BDF - 2**32


def test_words_by_hand():
    words = torch.tensor([[RISING, FALLING], [0, -1]], dtype=torch.int32)
    numbers = [[*range(8), *range(15, 7, -1)], [0] * 8 + [15] * 8]
    assert unpack(words).tolist() == numbers
    assert pack_words(torch.tensor(numbers)).tolist() == words.tolist(), "the tests' packer"


def by_hand() -> PackedLinear:
    """4 inputs in 2 groups, 8 outputs; all sums and products are exact also in half precision."""
    layer = PackedLinear(4, 8, bias=True, group_size=2)
    layer.qweight.copy_(torch.tensor([[RISING], [FALLING], [0], [-1]]))
    layer.qzeros.copy_(torch.tensor([[0], [RISING]]))
    layer.scales.copy_(torch.tensor([[0.5] * 8, [1, 1, 1, 1, 2, 2, 2, 2]]))
    layer.bias.data.copy_(torch.arange(8.0))
    return layer


def test_a_layer_by_hand():
    weight = [
        [0, 7.5, 0, 15],
        [0.5, 7, -1, 14],
        [1, 6.5, -2, 13],
        [1.5, 6, -3, 12],
        [2, 5.5, -8, 22],
        [2.5, 5, -10, 20],
        [3, 4.5, -12, 18],
        [3.5, 4, -14, 16],
    ]
    assert by_hand().weight().tolist() == weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layer_multiplies_as_a_plain_one_of_its_weights(dtype: torch.dtype):
    layer = by_hand()
    layer.bias.data = layer.bias.data.to(dtype)
    inputs = torch.tensor([[[1.0, 0, 0, 0], [0, 1, -1, 0], [2, 0, 0, 1]]], dtype=dtype)
    expected = torch.nn.functional.linear(inputs.float(), layer.weight(), torch.arange(8.0))
    assert torch.equal(layer(inputs).float(), expected)
    assert layer(inputs).dtype == dtype


def test_low_precision_rounds_once():
    """bfloat16 of the exact weight; a scale rounded first would give another number."""
    layer = PackedLinear(1, 8, bias=False, group_size=1)
    layer.qweight.fill_(-1)  # 15
    layer.scales.fill_(1.0048828125)  # no bfloat16; 15 times it is 15.0732
    assert layer.weight(torch.bfloat16)[0, 0] == 15.0625 == torch.tensor(15 * 1.0048828125).bfloat16()
    assert layer.weight(torch.bfloat16)[0, 0] != 15 * torch.tensor(1.0048828125).bfloat16()


def test_random_weights_in_groups():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 96, generator=generator)
    tensors, meant = quantise(weight, group=16)
    layer = PackedLinear(96, 40, bias=False, group_size=16)
    layer.load_state_dict(tensors)
    assert torch.equal(layer.weight(), meant)
    assert (meant - weight).abs().max() < 0.2, "a group of 16 within 15 steps"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_it_is_the_same_weight(dtype: torch.dtype):
    tensors, meant = quantise(torch.randn(256, 512, generator=torch.Generator().manual_seed(0)), group=128)
    layer = PackedLinear(512, 256, bias=False, group_size=128)
    layer.load_state_dict(tensors)
    weight = layer.cuda().weight(dtype)
    assert torch.equal(weight.cpu(), meant.to(dtype))
    inputs = torch.randn(3, 512, device="cuda", dtype=dtype)
    assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, weight))
