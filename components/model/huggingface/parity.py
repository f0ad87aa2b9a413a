"""Our logits against those of `transformers`, for a folder as it lies on disk.

Two implementations that were written apart agree to rounding only where names, rows, settings and weights are all right; so
this stands before every registration and every export. One model is in memory at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from components.model.huggingface.checkpoint_reader import load_checkpoint
from components.model.transformer import CodeGen

_BATCH_SIZE, _MAX_LENGTH = 2, 128
"""Sequences that are compared, and their length at most."""


class Logits(NamedTuple):
    """What a model makes of some random tokens."""

    tokens: Tensor
    """[B, T]."""
    logits: Tensor
    """[B, T, V]."""


def logit_parity(folder: Path, *, seed: int = 0) -> float:
    """The largest absolute difference between our logits and those of `transformers` for a checkpoint, on random tokens.

    In fp32 it is rounding, some 1e-6; more means that the folder is not the model that was trained.
    """
    return difference(folder, logits_of_codegen(load_checkpoint(folder), seed=seed))


def logits_of_codegen(model: CodeGen, *, seed: int = 0) -> Logits:
    """Our logits of random tokens, padding rows included."""
    shape = (_BATCH_SIZE, min(_MAX_LENGTH, model.config.context_length))
    tokens_BT = torch.randint(
        model.config.padded_vocab_size, shape, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        return Logits(tokens_BT, model(tokens_BT))


def difference(folder: Path, ours: Logits) -> float:
    """The largest absolute difference of some logits to those that `transformers` computes in fp32 from a folder."""
    from transformers import (
        AutoModelForCausalLM,  # Slow to import, and the trainer needs this package without it.
    )
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # It would draw a bar for a load of a few milliseconds.
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return float((ours.logits - theirs(ours.tokens).logits).abs().max())
