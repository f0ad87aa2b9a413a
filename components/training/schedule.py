"""The learning rate as a pure function of the step, so that a resumed stage needs no scheduler state.

Linear warm-up to the peak, cosine to the final rate over `decay_steps` after the warm-up, then constant: the schedule
of CodeGen's released code (350M Multi: 3k + 147k of 150k steps; NL: 300k of 350k). One difference, on purpose: steps
count from 1 here, so the first update already moves the weights; there the first rate is 0.
"""

from __future__ import annotations

import math

from components.training.config import StageConfig


def learning_rate(step: int, config: StageConfig) -> float:
    """The rate of optimizer step `step`, counted from 1."""
    if step <= config.warmup_steps:
        return config.learning_rate * (step / config.warmup_steps)
    annealed = min((step - config.warmup_steps) / config.decay_steps, 1.0)
    fall = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + fall * (1 + math.cos(math.pi * annealed)) / 2
