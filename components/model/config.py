"""The shape of a model, and the figures that follow from the shape alone.

Only what distinguishes one CodeGen from another is a field. What they all share (parallel blocks, an MLP four times as
wide as the model, LayerNorm's epsilon, the rotary base) is a constant of `transformer`. This module imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config

QKV_BLOCKS = 4
"""Released checkpoints store queries, values and keys in this many blocks (docs/paper.md section 2): heads divide by it."""

DecodeMode = Literal["eager", "graphs", "compiled"]
"""How a GPU draws the next token of all samples (`fixed`): kernel by kernel, as a recorded CUDA graph, or as a graph of
kernels that were compiled. Nothing of a model's shape, but this module is what a flow may import."""
Count = Annotated[int, Field(gt=0)]


class ModelConfig(Config):
    """The shape of one CodeGen model."""

    num_layers: Count
    num_heads: Count
    """A multiple of 4: the layout of released checkpoints needs it."""
    head_dim: Count
    """Even, since positions rotate pairs."""
    rotary_dim: Count
    """Leading dimensions of every head that carry the position; even, at most `head_dim`."""
    context_length: Count
    """Tokens in a training sequence, and the most that a prompt and its completion may have together."""
    padded_vocab_size: Count
    """Rows of the embedding and of the head; rows past the tokenizer's ids are padding and are never sampled."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.num_heads % QKV_BLOCKS:
            raise ValueError(f"num_heads must be a multiple of {QKV_BLOCKS}, got {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even, got {self.head_dim}")
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ValueError(
                f"rotary_dim must be even and at most head_dim {self.head_dim}, got {self.rotary_dim}"
            )
        return self

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.num_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """All parameters, embedding and head included.

        A layer has 12 d^2 weights (qkv 3, output 1, MLP 8) and 7 d biases and gains (MLP 5, LayerNorm 2).
        """
        d, rows = self.d_model, self.padded_vocab_size
        return self.num_layers * (12 * d * d + 7 * d) + 2 * rows * d + rows + 2 * d

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of one training step per token of a full sequence, forward and backward.

        6 per weight that is multiplied (the embedding is a look-up), and for the attention over a causal half of the
        context 6 * layers * d * T: PaLM (arXiv 2204.02311) appendix B, halved for causality. No recomputation.
        """
        weights = self.num_layers * 12 * self.d_model**2 + self.padded_vocab_size * self.d_model
        return 6 * weights + 6 * self.num_layers * self.d_model * self.context_length
