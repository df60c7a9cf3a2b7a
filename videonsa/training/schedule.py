"""The learning rate of each step, and which weights decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from videonsa.config import TrainSettings


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Of step number `step` (from 0): linear warm-up to the peak, then a cosine to 0."""
    warmup = round(settings.warmup_fraction * steps)
    if step < warmup:
        share = settings.warmup_start + (1 - settings.warmup_start) * step / warmup
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    return settings.learning_rate * share


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW; matrices decay, biases and norms do not."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
