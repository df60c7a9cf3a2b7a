"""Which frames are asked, and how large: pure arithmetic."""

from __future__ import annotations

import itertools

import pytest
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

from videonsa.video import Clip, Fit, choose_frames
from videonsa.video.clip import smart_size, tokens_left


@pytest.mark.parametrize(
    ("size", "share", "expected"),
    [
        pytest.param((2, 2), 0.25, (1, 1), id="a-quarter"),
        pytest.param((2, 2), 0.5, (1, 2), id="the-number-before-the-shape"),
        pytest.param((16, 32), 0.25, (8, 16), id="half-each-side"),
        pytest.param((10, 10), 0.5, (7, 7), id="49-of-50-as-square-as-before"),
        pytest.param((3, 5), 1.0, (3, 5), id="all"),
        pytest.param((1, 1), 0.1, (1, 1), id="at-least-one"),
    ],
)
def test_the_nearest_rectangle(size, share, expected) -> None:
    assert tokens_left(*size, share) == expected


@pytest.mark.parametrize(
    ("available", "frames", "share", "expected"),
    [
        pytest.param(20, 8, 0.5, [0, 6, 13, 19], id="half"),
        pytest.param(20, 8, 0.1, [0, 19], id="at-least-a-patch"),
        pytest.param(20, 8, 1.0, [0, 3, 5, 8, 11, 14, 16, 19], id="all"),
        pytest.param(6, 64, 0.5, [0, 2, 3, 5], id="of-what-there-is"),  # 3 patches: 1.5 are rounded to 2
        pytest.param(1, 8, 0.5, [0], id="one-frame"),
    ],
)
def test_a_share_of_the_frames(available, frames, share, expected) -> None:
    assert choose_frames(0, available - 1, 2.0, frames, None, share).tolist() == expected


def test_one_frame_is_read_once() -> None:
    assert choose_frames(0, 0, 2.0, 8, None).tolist() == [0]


def test_sizes_are_those_of_the_processor() -> None:
    for height, width in itertools.product([10, 27, 56, 100, 719, 1080], [20, 28, 178, 1280, 1921]):
        for least, most in ((1, 64), (16, 64), (4, 768)):
            limits = (28, least * 28**2, most * 28**2)
            assert smart_size(height, width, *limits) == smart_resize(height, width, *limits), (height, width)
    with pytest.raises(ValueError, match="a frame of 2100 x 10 pixels: one side may be 200 times the other at most"):
        smart_size(10, 2100, 28, 1, 28**2)


def test_a_share_of_the_tokens_of_a_frame() -> None:
    fit = Fit(28, 28**2, 16 * 28**2)
    assert (fit.tokens(112, 224), fit.size(112, 224)) == ((2, 5), (56, 140))
    half = Fit(28, 28**2, 16 * 28**2, share=0.5)
    assert (half.tokens(112, 224), half.size(112, 224)) == ((1, 5), (28, 140))


def test_tokens_of_a_clip_are_a_limit_in_whole_patches() -> None:
    """4 tokens a patch of two frames: 10 tokens are two patches, 1 is one all the same."""
    for tokens, count in ((10, 4), (1, 2), (1000, 8)):
        clip = Clip(fps=2.0, fit=Fit(28, 28**2, 4 * 28**2), tokens=tokens)
        assert len(clip.choose(0, 19, 5.0, 56, 56)) == count
