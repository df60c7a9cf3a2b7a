"""Synthetic videos with questions: needle (a rare frame), order (time), layout (space), and the same of long videos.

numpy only; videonsa/drawing.py makes frames of the long ones' scenes, by torch.
"""

from videonsa.synth.families import FAMILIES, LONG, SECONDS, SHORT, check_asked, vocabulary
from videonsa.synth.sample import SPLITS, Sample, make_sample, prompt_text
from videonsa.synth.scene import SUFFIX, Scene, read_scene, write_scene

__all__ = [
    "FAMILIES",
    "LONG",
    "SECONDS",
    "SHORT",
    "SPLITS",
    "SUFFIX",
    "Sample",
    "Scene",
    "check_asked",
    "make_sample",
    "prompt_text",
    "read_scene",
    "vocabulary",
    "write_scene",
]
