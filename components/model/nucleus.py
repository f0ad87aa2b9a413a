"""Drawing one token from each row of logits: temperature, then the nucleus, then inverse transform sampling.

The nucleus is the smallest set of most probable tokens whose mass reaches p (Holtzman et al., arXiv 1904.09751, section
3.1), renormalised. Sorting 50,000 tokens per row would cost more than a small model, so a row is sorted only as far as its
nucleus reaches: the largest few first, all where their mass does not reach p. The result is the same as of a full sort.
Among tokens of exactly equal probability any may stand at the border of the nucleus.

Shapes: B rows, V token ids, C candidates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from components.core.errors import EvaluationError

CANDIDATES = 64
"""Tokens looked at first; a trained model's nucleus at p 0.95 seldom has more (assumption)."""


def sample_top_p(
    logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float, top_p: float
) -> Tensor:
    """One token id per row, int64 [B].

    Args:
        logits_BV: over the ids that may be drawn.
        uniforms_B: float64 in [0, 1), the only randomness: equal logits and uniforms give equal tokens.
        temperature: divides the logits before the nucleus is taken; 0: the likeliest token is taken, the first of equals.
        top_p: mass of the nucleus, in (0, 1].

    Raises:
        EvaluationError: a logit is not a finite number.
    """
    p_BV = torch.softmax(logits_BV.float() / (temperature or 1.0), -1)
    if p_BV[:, 0].isnan().any():
        raise EvaluationError(
            "the model's logits are not finite",
            expected="finite numbers",
            fix="look for a diverged loss in its training",
        )
    if temperature == 0:
        return logits_BV.argmax(-1)
    if p_BV.shape[1] <= CANDIDATES:
        return _draw_among(*_sorted(p_BV), uniforms_B, top_p)[0]
    drawn_B, reached_B = _draw_among(*p_BV.topk(CANDIDATES), uniforms_B, top_p)
    rows = (~reached_B).nonzero()[:, 0]
    if len(rows):
        drawn_B[rows] = _draw_among(*_sorted(p_BV[rows]), uniforms_B[rows], top_p)[0]
    return drawn_B


def _draw_among(
    p_BC: Tensor, ids_BC: Tensor, uniforms_B: Tensor, top_p: float
) -> tuple[Tensor, Tensor]:
    """What each row draws where its nucleus lies among its most probable candidates, and whether it does."""
    mass_BC = p_BC.double().cumsum(-1)
    reached_B = mass_BC[:, -1] >= top_p
    last_B1 = (mass_BC < top_p).sum(-1, keepdim=True).clamp(max=p_BC.shape[1] - 1)
    nucleus_mass_B1 = mass_BC.gather(-1, last_B1)
    chosen_B1 = torch.searchsorted(mass_BC, uniforms_B[:, None] * nucleus_mass_B1, right=True)
    return ids_BC.gather(-1, chosen_B1.minimum(last_B1))[:, 0], reached_B


def _sorted(p_BV: Tensor) -> tuple[Tensor, Tensor]:
    """All probabilities of each row and their ids, the most probable first.

    On a CPU NumPy sorts ten times as fast as PyTorch, if it is given plain numbers: the bits of a probability, which order
    like the probability itself, before its id.
    """
    if p_BV.device.type != "cpu":
        return torch.sort(p_BV, -1, descending=True)
    bits = p_BV.contiguous().numpy().view(np.int32).astype(np.int64)
    order = np.sort((-bits << 32) + np.arange(bits.shape[1]), axis=-1)
    ids = torch.from_numpy(order & 0xFFFFFFFF)
    return p_BV.gather(-1, ids), ids
