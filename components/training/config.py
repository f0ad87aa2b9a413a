"""What a training stage is (identity), and where and how wide it runs (place).

`StageConfig` decides the weights and is part of the recipe. `TrainingPlace` decides only how the same work is spread
over processes; it is in no fingerprint. Another place gives the same batches in the same order, but sums them in another
order, so weights are bit-identical for one place and equal to rounding between two.

Defaults are those that CodeGen uses at every size (released code: salesforce/jaxformer; paper, section 2.2): Adam betas
0.9/0.999, eps 1e-8, weight decay 0.1, gradient clip 1.0, z-loss 1e-4. Precision is not a setting yet: all is fp32.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.core.config import Config
from components.tokenizer.config import Streaming

CHECKPOINTS_KEPT = 2
"""Checkpoints inside a stage; one more lies there while it is written."""


class StageConfig(Config):
    """One stage: how many optimizer steps, on how many tokens each, with which learning rates."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear warm-up from zero to `learning_rate`."""
    anneal_steps: int = Field(ge=1)
    """Steps of cosine decay after the warm-up; what is left of `steps` runs at `final_learning_rate`."""
    learning_rate: float = Field(gt=0)
    """The peak."""
    final_learning_rate: float = Field(ge=0)
    batch_tokens: int = Field(ge=1)
    """Tokens per optimizer step over all processes; a multiple of the context length."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled; matrices only, no biases and no LayerNorm parameters (assumption: the GPT-3 practice)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest global L2 norm of the gradient."""
    z_loss: float = Field(default=1e-4, ge=0)
    """Weight of log(Z)^2 in the loss."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps below steps ({self.steps}); the whole stage would be warm-up")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(f"final_learning_rate at most learning_rate ({self.learning_rate})")
        return self


class Stages(Config):
    """The three stages, in the order in which weights are handed on."""

    nl: StageConfig
    multi: StageConfig
    mono: StageConfig


class TrainingConfig(Config):
    """Training's part of a recipe."""

    stages: Stages


class TrainingPlace(Config):
    """How a stage is spread over processes, and how often it is saved."""

    num_processes: int = Field(default=1, ge=1)
    """Data-parallel ranks on this host."""
    threads_per_process: int = Field(default=1, ge=1)
    micro_batch: int = Field(default=1, ge=1)
    """Sequences per process and forward pass; the rest of the batch is accumulated."""
    zero_stage: int = Field(default=1, ge=0, le=2)
    """What is partitioned over the ranks: 0 nothing, 1 optimizer state, 2 gradients too. Stage 3 is not covered yet."""
    checkpoint_every_steps: int = Field(default=100, ge=1)
    """A killed stage loses at most this many steps of work."""
    streaming: Streaming | None = None
    """The cache for a corpus that is given by a URI; its credentials come from the file system's own configuration."""
