"""The learning rate as a pure function of the step, so a resumed stage needs no scheduler state.

Linear warm-up to the peak, cosine decay to the minimum over `decay_steps`, then constant: the
schedule of CodeGen's released code (350M Multi: 3k + 147k of 150k steps; NL: 300k of 350k).
Decision: steps count from 1, so the first update already moves the weights; in CodeGen the first
rate is 0.
"""

from __future__ import annotations

import math

from components.training.config import StageConfig


def learning_rate(step: int, config: StageConfig) -> float:
    """The learning rate of optimizer step `step`, counted from 1."""
    if step <= config.warmup_steps:
        return config.learning_rate * (step / config.warmup_steps)
    progress = min((step - config.warmup_steps) / config.decay_steps, 1.0)
    decay_range = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + decay_range * (1 + math.cos(math.pi * progress)) / 2
