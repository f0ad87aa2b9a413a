"""As what a checkpoint can be written. Imports no torch, so that the command line can offer the choices."""

from __future__ import annotations

from enum import StrEnum


class CheckpointFormat(StrEnum):
    """Whose names and rows the tensors have: those of the class of `transformers` that loads the folder."""

    codegen = "codegen"
    """`CodeGenForCausalLM`, as the authors released CodeGen."""
    gptj = "gptj"
    """`GPTJForCausalLM`, the same arithmetic with queries, keys and values apart; more inference servers know it."""


class Dtype(StrEnum):
    """How weights are stored."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
