"""Drawing one token from each row of logits: temperature, then the nucleus, then inverse transform sampling.

The nucleus is the smallest set of most probable tokens whose mass reaches p (Holtzman et al., arXiv 1904.09751, section
3.1), renormalised. Sorting 50,000 tokens per row would cost more than a small model, so a row is sorted only as far as its
nucleus reaches: the largest few first, more where their mass does not reach p. The result is the same as of a full sort.
Among tokens of exactly equal probability any may stand at the border of the nucleus.

Shapes: B rows, V token ids, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.core.errors import EvaluationError

CANDIDATES = (64, 1024)
"""Tokens looked at first and next; a trained model's nucleus at p 0.95 seldom has more than 64 (assumption)."""


def draw(logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """One token id per row, int64 [B].

    Args:
        logits_BV: over the ids that may be drawn.
        uniforms_B: float64 in [0, 1), the only randomness: equal logits and uniforms give equal tokens.
        temperature: above 0; divides the logits before the nucleus is taken.
        top_p: mass of the nucleus, in (0, 1].

    Raises:
        EvaluationError: a logit is not a finite number.
    """
    p_BV = torch.softmax(logits_BV.float() / temperature, -1)
    drawn_B, reached_B = _draw_among(p_BV, uniforms_B, top_p, CANDIDATES[0])
    if p_BV[:, 0].isnan().any():
        raise EvaluationError(
            "the model's logits are not finite", expected="finite numbers", do="look for a diverged loss in its training"
        )
    for num_candidates in (*CANDIDATES[1:], p_BV.shape[1]):
        rows = (~reached_B).nonzero()[:, 0]
        if len(rows) == 0:
            break
        drawn_B[rows], reached_B[rows] = _draw_among(p_BV[rows], uniforms_B[rows], top_p, num_candidates)
    return drawn_B


def _draw_among(p_BV: Tensor, uniforms_B: Tensor, top_p: float, num_candidates: int) -> tuple[Tensor, Tensor]:
    """What each row draws where its nucleus lies among its most probable candidates, and whether it does."""
    num_candidates = min(num_candidates, p_BV.shape[1])
    p_BC, ids_BC = p_BV.topk(num_candidates)
    mass_BC = p_BC.double().cumsum(-1)
    reached_B = (mass_BC[:, -1] >= top_p) | (num_candidates == p_BV.shape[1])
    last_B1 = (mass_BC < top_p).sum(-1, keepdim=True).clamp(max=num_candidates - 1)
    nucleus_mass_B1 = mass_BC.gather(-1, last_B1)
    chosen_B1 = torch.searchsorted(mass_BC, uniforms_B[:, None] * nucleus_mass_B1, right=True)
    return ids_BC.gather(-1, chosen_B1.minimum(last_B1))[:, 0], reached_B
