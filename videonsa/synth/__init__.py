"""Synthetic videos with questions: needle (a rare frame), order (time), layout (space). numpy only."""

from videonsa.synth.families import FAMILIES, check_asked, vocabulary
from videonsa.synth.sample import SECONDS, SPLITS, Sample, make_sample, prompt_text

__all__ = ["FAMILIES", "SECONDS", "SPLITS", "Sample", "check_asked", "make_sample", "prompt_text", "vocabulary"]
