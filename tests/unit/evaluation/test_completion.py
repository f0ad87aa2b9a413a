"""Completions of a prompt, from a model that memorized a program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.models import write_reciting

from components.core.errors import ConfigError
from components.evaluation.sampling.completion import CompletionParams, complete
from components.evaluation.sampling.sampler import Sampler

PROGRAM = "def add(a, b):\n    return a + b\n"
GREEDY = CompletionParams(temperature=0.0, max_new_tokens=32)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return Sampler(write_reciting(tmp_path_factory.mktemp("checkpoint"), PROGRAM))


def test_the_model_completes_its_program(sampler: Sampler) -> None:
    (completion,) = complete(sampler, "def add(a", GREEDY)
    assert ("def add(a" + completion.text, completion.is_finished) == (PROGRAM, True)


def test_a_completion_ends_before_the_first_stop_text(sampler: Sampler) -> None:
    (completion,) = complete(sampler, "def add(a", GREEDY.replace(stop=("+", "return")))
    assert (completion.text, completion.is_finished) == (", b):\n    ", True)


def test_a_completion_at_its_token_limit_is_not_finished(sampler: Sampler) -> None:
    (completion,) = complete(sampler, "def add(a", GREEDY.replace(max_new_tokens=2))
    assert PROGRAM.startswith("def add(a" + completion.text)
    assert (completion.num_tokens, completion.is_finished) == (2, False)


def test_the_rules_of_the_benchmarks_can_be_disabled(tmp_path: Path) -> None:
    folder = write_reciting(tmp_path, "a = 1\n# the end\n")
    short, full = (
        complete(Sampler(folder), "a =", GREEDY.replace(truncated=truncated))[0]
        for truncated in (True, False)
    )
    assert (short.text, full.text) == (" 1\n", " 1\n# the end\n")
    assert short.is_finished


def test_a_cancelled_call_returns_the_finished_completions_only(sampler: Sampler) -> None:
    answers = iter([False, False, True])
    assert complete(sampler, "def add(a", GREEDY, lambda: next(answers)) == []
    assert not list(answers)


def test_the_nth_completion_depends_on_seed_plus_n_only(sampler: Sampler) -> None:
    params = CompletionParams(
        num_samples=3, temperature=2.0, top_p=1.0, seed=5, max_new_tokens=8, truncated=False
    )
    three = complete(sampler, "def", params)
    assert len({completion.text for completion in three}) > 1
    assert complete(sampler, "def", params.replace(num_samples=1, seed=6)) == three[1:2]


@pytest.mark.parametrize(
    ("prompt", "params", "got"),
    [("", GREEDY, "empty"), ("def", CompletionParams(max_new_tokens=10**6), "1,000,000")],
)
def test_invalid_prompts_and_params_are_refused(
    sampler: Sampler, prompt: str, params: CompletionParams, got: str
) -> None:
    with pytest.raises(ConfigError, match=got):
        complete(sampler, prompt, params)
