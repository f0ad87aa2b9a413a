"""The work of an evaluation, compared with counts of the benchmarks' own files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.benchmarks.mtpb import PREFIX, load_mtpb
from components.evaluation.config import EvaluationConfig, HumanEvalConfig, MtpbConfig
from components.evaluation.workload import (
    _HUMANEVAL_PROMPT_BYTES,
    _MTPB_PREFIX_BYTES,
    _MTPB_PROMPT_BYTES,
    _MTPB_SHAPES,
    num_held_out_tokens,
    sampling_work,
)


def test_the_paper_settings_give_the_counts_of_the_paper() -> None:
    humaneval, multi, single = sampling_work(EvaluationConfig())
    assert humaneval.num_samples == 164 * 200 * 3
    assert humaneval.num_new_tokens == 164 * 200 * 3 * 256
    # 451 bytes are 134 tokens; a completion of 256 tokens sees 134 to 389 tokens.
    assert humaneval.num_prompt_tokens == 164 * 3 * 134
    assert humaneval.num_attended_tokens == 164 * 200 * 3 * sum(range(134, 390))
    assert multi.num_samples == single.num_samples == 115 * 5 * 40
    # Turns of problems with at most 128 tokens, 256 and 512.
    assert multi.num_new_tokens == 200 * (390 * 128 + 118 * 256 + 6 * 512)
    assert num_held_out_tokens(EvaluationConfig(), 8, 2048) == 8 * 256 * 2048


def test_a_later_turn_computes_its_history_for_each_sample() -> None:
    """The first turn is the same for both samples of a problem, so it is computed once."""
    config = MtpbConfig(cases=(0,), num_samples=1, single_turn=False)
    _, once = sampling_work(EvaluationConfig(mtpb=config))
    _, twice = sampling_work(EvaluationConfig(mtpb=config.replace(num_samples=2)))
    first_turns = 115 * round((_MTPB_PREFIX_BYTES + _MTPB_PROMPT_BYTES) / 3.36)
    later_turns = once.num_prompt_tokens - first_turns
    assert twice.num_prompt_tokens == first_turns + 2 * later_turns
    assert twice.num_new_tokens == 2 * once.num_new_tokens
    assert twice.num_attended_tokens == 2 * once.num_attended_tokens


def test_selected_problems_count_like_the_mean() -> None:
    config = MtpbConfig(single_turn=False)
    _, everything = sampling_work(EvaluationConfig(mtpb=config))
    _, part = sampling_work(EvaluationConfig(mtpb=config.replace(problem_ids=(1, 2, 3, 4, 5))))
    assert part.num_samples == 5 * 5 * 40
    assert part.num_new_tokens == pytest.approx(everything.num_new_tokens / 23, abs=1)


def test_a_lower_limit_of_tokens_counts() -> None:
    config = EvaluationConfig(
        humaneval=HumanEvalConfig(max_new_tokens=16, num_samples=1, temperatures=(0.2,)),
        mtpb=MtpbConfig(max_new_tokens=16, num_samples=1, cases=(0,)),
    )
    humaneval, multi, single = sampling_work(config)
    assert humaneval.num_new_tokens == 164 * 16
    assert multi.num_new_tokens == 514 * 16
    assert single.num_new_tokens == 115 * 32


def test_the_constants_are_those_of_the_files(problems_file: Path) -> None:
    prompts = [problem.prompt for problem in load_humaneval()]
    assert round(sum(len(text.encode()) for text in prompts) / 164) == _HUMANEVAL_PROMPT_BYTES
    assert len(PREFIX) == _MTPB_PREFIX_BYTES
    problems = load_mtpb(problems_file)
    shapes = Counter((len(problem.prompts), problem.max_new_tokens) for problem in problems)
    assert {shape[1:]: shape.num_problems for shape in _MTPB_SHAPES} == shapes
    lines = [f"# {prompt}\n" for problem in problems for prompt in problem.turns(0)]
    assert round(sum(len(line.encode()) for line in lines) / 514) == _MTPB_PROMPT_BYTES
