"""VideoNSA-Bench: native sparse attention for video-language models, its ablation and its analysis."""

__version__ = "0.1.0"
