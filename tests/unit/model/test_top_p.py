"""Top-p sampling agrees with its definition: sort all tokens and add them one by one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import EvaluationError
from components.model.generation import sample_top_p


def reference(logits: list[float], temperature: float, top_p: float) -> dict[int, float]:
    """Return the probability of every token of the nucleus."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    total = sum(weights)
    nucleus, mass = [], 0.0
    for token in sorted(range(len(logits)), key=lambda token: -weights[token]):
        nucleus.append(token)
        mass += weights[token] / total
        if mass >= top_p:
            break
    return {token: weights[token] / total / mass for token in nucleus}


def frequencies(
    logits: list[float], temperature: float, top_p: float, num_draws: int
) -> dict[int, float]:
    """Return token frequencies for evenly spaced uniforms, within 1 / num_draws of p."""
    uniforms = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    rows = torch.tensor(logits).expand(num_draws, -1)
    tokens, counts = sample_top_p(rows, uniforms, temperature=temperature, top_p=top_p).unique(
        return_counts=True
    )
    return {int(token): int(count) / num_draws for token, count in zip(tokens, counts, strict=True)}


@settings(deadline=None, max_examples=60)
@given(
    num_ids=st.sampled_from([1, 2, 7, 63, 65, 150]),
    sharpness=st.sampled_from([0.01, 1.0, 6.0]),
    temperature=st.sampled_from([0.2, 0.6, 1.0, 1.7]),
    top_p=st.sampled_from([0.001, 0.5, 0.9, 0.951, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_tokens_of_the_nucleus_are_sampled_by_their_probability(
    num_ids: int, sharpness: float, temperature: float, top_p: float, seed: int
) -> None:
    logits = (
        sharpness * torch.randn(num_ids, generator=torch.Generator().manual_seed(seed))
    ).tolist()
    expected = reference(logits, temperature, top_p)
    got = frequencies(logits, temperature, top_p, 2000)
    # Rounding may move the last token of `expected` out of the nucleus.
    assert set(got) <= set(expected)
    for token, probability in expected.items():
        assert got.get(token, 0.0) == pytest.approx(probability, abs=1 / 2000 + 1e-6)


def test_temperature_is_applied_before_top_p() -> None:
    # p is 0.6, 0.3, 0.1. At temperature 0.5 it is 0.36, 0.09, 0.01 of 0.46: 0.783 exceeds 0.75.
    logits = [math.log(0.6), math.log(0.3), math.log(0.1)]
    assert set(frequencies(logits, 0.5, 0.75, 1000)) == {0}
    assert set(frequencies(logits, 1.0, 0.75, 1000)) == {0, 1}


def test_a_nucleus_larger_than_the_candidates_is_complete() -> None:
    # 2,500 almost equal tokens; the nucleus of 0.5 has some of the even tokens, the likelier half.
    logits = torch.zeros(2500)
    logits[::2] += 0.01
    mass_of_each = math.exp(0.01) / (1250 * math.exp(0.01) + 1250)
    uniforms = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000
    tokens = sample_top_p(logits.expand(3000, -1), uniforms, temperature=1.0, top_p=0.5).unique()
    assert (tokens % 2 == 0).all()
    assert len(tokens) == math.ceil(0.5 / mass_of_each) < 1250


def test_a_row_is_independent_of_rows_that_need_more_candidates() -> None:
    sharp = 20 * torch.randn(3000, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(3000)
    uniforms = torch.tensor([0.3, 0.9, 0.3, 0.9], dtype=torch.float64)
    together = sample_top_p(
        torch.stack([sharp, flat, flat, sharp]), uniforms, temperature=1.0, top_p=0.95
    )
    for row, logits in enumerate([sharp, flat, flat, sharp]):
        assert (
            sample_top_p(logits[None], uniforms[row : row + 1], temperature=1.0, top_p=0.95)[0]
            == together[row]
        )


def test_extreme_uniforms_sample_the_first_and_the_last_token_of_the_nucleus() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).expand(2, -1)
    uniforms = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sample_top_p(logits, uniforms, temperature=1.0, top_p=0.8).tolist() == [1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        sample_top_p(
            torch.tensor([[1.0, value, 2.0]]),
            torch.tensor([0.5], dtype=torch.float64),
            temperature=1.0,
            top_p=0.9,
        )
