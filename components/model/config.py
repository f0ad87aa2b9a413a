"""The shape of a model, the numbers that follow from it, and the choices of the command line.

Values that differ between CodeGen models are fields of `ModelConfig`; values that all of them share
(parallel blocks, MLP width, LayerNorm epsilon, rotary base) are constants in `transformer`.
This module imports no torch, so the command line can import it quickly.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, PositiveInt, WithJsonSchema, model_validator

from components.core.config import Config

QKV_BLOCKS = 4
"""Blocks of queries, values and keys in released checkpoints (docs/paper.md, section 2)."""

DecodeMode = Literal["eager", "graphs", "compiled"]
"""How a GPU runs a decode step: kernel by kernel, as a CUDA graph, or with compiled kernels."""


_MIN_TEMPERATURE = 1e-6
"""Far below any temperature of the paper; logits divided by it stay far from the largest float32
(assumption)."""


def require_temperature(temperature: float) -> float:
    """Return a temperature that logits can be divided by, or 0.

    Raises:
        ValueError: another number.
    """
    if temperature != 0 and not _MIN_TEMPERATURE <= temperature < math.inf:
        raise ValueError(f"0 for greedy decoding, or a number from {_MIN_TEMPERATURE:f} on")
    return temperature


Temperature = Annotated[
    float, AfterValidator(require_temperature), WithJsonSchema({"type": "number", "minimum": 0})
]
"""The temperature of samples; 0 is greedy decoding."""


class CheckpointFormat(StrEnum):
    """Tensor names and row order of a checkpoint: those of a model class of `transformers`."""

    codegen = "codegen"
    """`CodeGenForCausalLM`, as the authors released CodeGen."""
    gptj = "gptj"
    """`GPTJForCausalLM`: the same computation with separate queries, keys and values. More
    inference servers support it."""


class Dtype(StrEnum):
    """Data type of stored weights."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class ModelConfig(Config):
    """The shape of a CodeGen model."""

    num_layers: PositiveInt
    num_heads: PositiveInt
    """A multiple of 4, as the checkpoint format requires."""
    head_dim: PositiveInt
    """Even, because rotary embeddings rotate pairs."""
    rotary_dim: PositiveInt
    """Leading dimensions of each head that are rotated; even, at most `head_dim`."""
    context_length: PositiveInt
    """Tokens in a training sequence, and maximum of prompt and completion together."""
    padded_vocab_size: PositiveInt
    """Rows of the embedding and of the head. Rows past the tokenizer's ids are never sampled."""

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if self.num_heads % QKV_BLOCKS:
            raise ValueError(f"num_heads must be a multiple of {QKV_BLOCKS}, got {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim}")
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ValueError(
                f"rotary_dim must be even and at most head_dim {self.head_dim}, "
                f"got {self.rotary_dim}"
            )
        return self

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.num_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Number of parameters, including embedding and head.

        A layer has 12 d^2 weights (qkv 3, output 1, MLP 8) and 7 d biases and gains (MLP 5,
        LayerNorm 2).
        """
        d = self.d_model
        rows = self.padded_vocab_size
        return self.num_layers * (12 * d * d + 7 * d) + 2 * rows * d + rows + 2 * d

    @property
    def flops_per_token(self) -> int:
        """FLOPs of a training step per token of a full sequence, forward and backward.

        6 per multiplied weight (the embedding is a lookup), plus 6 * layers * d * T for attention
        over the causal half of the context. Source: PaLM (arXiv 2204.02311) appendix B, halved for
        causality. Activation recomputation is not counted.
        """
        weights = self.num_layers * 12 * self.d_model**2 + self.padded_vocab_size * self.d_model
        return 6 * weights + 6 * self.num_layers * self.d_model * self.context_length
