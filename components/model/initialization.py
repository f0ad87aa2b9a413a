"""First weights: CodeGen's own initialisation, a pure function of the shape and a seed.

Source: docs/paper.md section 3 and the authors' JAX code (`decoder/inter/modules.py`). Weights are drawn from a normal
cut at two standard deviations, of standard deviation 1/sqrt(fan_in) before the cut; the two projections into the residual
stream have (2/layers)/sqrt(d_model). The embedding is a linear map from one-hot vectors there, so its fan-in is the number
of its rows. Biases are 0, LayerNorm gains 1. The cut is not compensated for, which is Haiku's behaviour.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from components.model.transformer import CodeGen

TRUNCATION_STD = 2.0
"""Standard deviations at which Haiku's TruncatedNormal cuts."""


@torch.no_grad()
def initialise(model: CodeGen, seed: int) -> None:
    """Fill every parameter in place, in the order of the layers, from one generator on the CPU.

    The same seed and shape give the same weights on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    d = config.d_model

    into_residual = 2.0 / config.num_layers / math.sqrt(d)
    stds = {
        "embedding": 1 / math.sqrt(config.padded_vocab_size),
        "qkv": 1 / math.sqrt(d),
        "attention_out": into_residual,
        "mlp_in": 1 / math.sqrt(d),
        "mlp_out": into_residual,
        "head": 1 / math.sqrt(d),
    }
    for name, parameter in model.named_parameters():
        module, part = name.split(".")[-2:]
        if part == "bias":
            parameter.zero_()
        elif module in stds:
            std = stds[module]
            values = torch.empty(parameter.shape)
            nn.init.trunc_normal_(
                values,
                std=std,
                a=-TRUNCATION_STD * std,
                b=TRUNCATION_STD * std,
                generator=generator,
            )
            parameter.copy_(values)
        else:
            parameter.fill_(1.0)
