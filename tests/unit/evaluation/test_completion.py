"""Completions as a person asks for them, from a model that knows one program by heart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.models import write_reciting

from components.core.errors import ConfigError
from components.evaluation.sampling.completion import CompletionParams, complete
from components.evaluation.sampling.sampler import Sampler

PROGRAM = "def add(a, b):\n    return a + b\n"
LIKELIEST = CompletionParams(temperature=0.0, max_new_tokens=32)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return Sampler(write_reciting(tmp_path_factory.mktemp("checkpoint"), PROGRAM))


def test_the_rest_of_what_it_knows(sampler: Sampler) -> None:
    (found,) = complete(sampler, "def add(a", LIKELIEST)
    assert ("def add(a" + found.text, found.is_finished) == (PROGRAM, True)


def test_it_ends_before_a_text_that_is_to_stop_it(sampler: Sampler) -> None:
    (found,) = complete(sampler, "def add(a", LIKELIEST.replace(stop=("+", "return")))
    assert (found.text, found.is_finished) == (", b):\n    ", True)


def test_with_too_few_tokens_it_has_not_ended(sampler: Sampler) -> None:
    (found,) = complete(sampler, "def add(a", LIKELIEST.replace(max_new_tokens=2))
    assert PROGRAM.startswith("def add(a" + found.text)
    assert (found.num_tokens, found.is_finished) == (2, False)


def test_the_rules_of_the_benchmarks_are_left_out_on_request(tmp_path: Path) -> None:
    folder = write_reciting(tmp_path, "a = 1\n# the end\n")
    cut, whole = (
        complete(Sampler(folder), "a =", LIKELIEST.replace(truncated=truncated))[0]
        for truncated in (True, False)
    )
    assert (cut.text, whole.text) == (" 1\n", " 1\n# the end\n")
    assert cut.is_finished


def test_the_nth_completion_of_a_seed_is_always_the_same(sampler: Sampler) -> None:
    asked = CompletionParams(
        num_samples=3, temperature=2.0, top_p=1.0, seed=5, max_new_tokens=8, truncated=False
    )
    three = complete(sampler, "def", asked)
    assert len({one.text for one in three}) > 1
    assert complete(sampler, "def", asked.replace(num_samples=1, seed=6)) == three[1:2]


@pytest.mark.parametrize(
    ("prompt", "asked", "got"),
    [("", LIKELIEST, "empty"), ("def", CompletionParams(max_new_tokens=10**6), "1,000,000")],
)
def test_what_cannot_be_is_said(
    sampler: Sampler, prompt: str, asked: CompletionParams, got: str
) -> None:
    with pytest.raises(ConfigError, match=got):
        complete(sampler, prompt, asked)
