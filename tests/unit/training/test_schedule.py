"""The learning rate, compared with values computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.training.config import StageConfig
from components.training.schedule import learning_rate

MULTI_350M = StageConfig(
    steps=150_000,
    warmup_steps=3_000,
    decay_steps=147_000,
    learning_rate=1.8e-4,
    min_learning_rate=3.0e-5,
    global_batch_tokens=524_288,
)
NL_350M = MULTI_350M.replace(
    steps=350_000, decay_steps=300_000, learning_rate=3.0e-4, min_learning_rate=3.0e-5
)


@pytest.mark.parametrize(
    ("stage", "step", "rate"),
    [
        (MULTI_350M, 1, 6.0e-8),  # 1.8e-4 / 3000
        (MULTI_350M, 1_500, 0.9e-4),
        (MULTI_350M, 3_000, 1.8e-4),
        (MULTI_350M, 3_000 + 73_500, 1.05e-4),  # half of the decay: the mean of both ends
        # A third of the decay: cos(60 degrees) = 1/2, so a quarter of the range.
        (MULTI_350M, 3_000 + 49_000, 1.425e-4),
        (MULTI_350M, 150_000, 3.0e-5),
        (NL_350M, 303_000, 3.0e-5),
        (NL_350M, 350_000, 3.0e-5),  # constant after the decay
    ],
)
def test_learning_rates_are_those_of_the_paper(stage: StageConfig, step: int, rate: float) -> None:
    assert learning_rate(step, stage) == pytest.approx(rate, rel=1e-12)


@given(st.integers(2, 60), st.data())
def test_the_learning_rate_rises_to_the_peak_and_never_rises_after_it(
    steps: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    stage = MULTI_350M.replace(
        steps=steps, warmup_steps=warmup, decay_steps=data.draw(st.integers(1, 2 * steps))
    )
    rates = [learning_rate(step, stage) for step in range(1, steps + 1)]
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert all(0 < rate <= stage.learning_rate for rate in rates)
    assert warmup == 0 or rates[warmup - 1] == stage.learning_rate
