"""MTPB: programs written over several turns of a conversation, judged by the last value that they print.

Protocol: docs/paper.md, section 5. In several turns, the history begins with an import, and each turn appends the prompt as
a comment and then the completion, cut by CodeGen's rules. In a single turn all prompts of a problem come first, each as a
comment, and one completion follows (our definition; the paper's script was not released).

One decision on perplexity: the prompt of a turn is what this turn appends, `# `, its text and the line's end. Several turns:
exp of the mean over all prompt tokens of `-log p(token | everything before it)`, what the model itself had written
included. A single turn: the same of the joined prompts. Tokens of the first import count in neither.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import JsonValue

from components.core.errors import ConfigError
from components.evaluation.benchmarks.mtpb_defects import is_solvable
from components.evaluation.benchmarks.problem import Benchmark, ExpectedPrint, Problem
from components.evaluation.benchmarks.problems import (
    MTPB_SHA256,
    MtpbProblem,
    as_problem,
    load_mtpb,
)
from components.evaluation.benchmarks.protocol import (
    BenchmarkProtocol,
    ExtraMetrics,
    ProblemCounts,
    SampleSet,
)
from components.evaluation.config import MtpbConfig
from components.evaluation.sandbox import Limits
from components.evaluation.scoring.intervals import mean_with_interval

PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"
"""What every history starts with (the official sampling script)."""
MEMORY_MIB = 2048
"""Address space of a program (measured: importing NumPy, pandas and scikit-learn takes 0.5 GiB of it)."""
MULTI, SINGLE = "multi", "single"
HARD, EASY = 0.3, 0.7
"""A problem is hard where fewer of its programs of several turns pass, and easy where more do (the paper's bounds, of the
average over its models; here of the model that is measured)."""


def plan(config: MtpbConfig, problems_file: Path) -> BenchmarkProtocol:
    """The chosen problems and cases in several turns and, if asked for, in one.

    Raises:
        EvaluationError: `problems_file` is not the pinned file.
        ConfigError: a chosen problem does not exist, or nothing was chosen.
    """
    return planned(load_mtpb(problems_file), config)


def planned(problems: list[MtpbProblem], config: MtpbConfig) -> BenchmarkProtocol:
    """The same of any problems.

    Raises:
        ConfigError: a chosen problem does not exist, or nothing was chosen.
    """
    chosen = _chosen(problems, config)
    cases = [(problem, case) for problem in chosen for case in config.cases]
    multi = Benchmark("mtpb", MTPB_SHA256, tuple(_in_turns(*one) for one in cases))
    draws = [_draw(MULTI, multi, config, config.max_new_tokens)]
    if config.single_turn:
        single = Benchmark("mtpb", MTPB_SHA256, tuple(_in_one(*one) for one in cases))
        draws.append(_draw(SINGLE, single, config, 2 * config.max_new_tokens))

    def facts(counted: Mapping[str, Sequence[ProblemCounts]]) -> ExtraMetrics:
        return _facts(counted, {str(one.number): one for one in chosen})

    # What is expected never enters the process of a program, whatever the mode.
    return BenchmarkProtocol(
        tuple(draws), Limits(config.cpu_limit_s, MEMORY_MIB), "split", (), facts
    )


def conversations(record: Mapping[str, Any]) -> list[Problem]:
    """The cases of a record in MTPB's form, in several turns."""
    if not isinstance(record["prompts"], list):
        raise TypeError("prompts are to be a list of texts")
    problem = as_problem(record)
    if not isinstance(problem.max_new_tokens, int) or problem.max_new_tokens < 1:
        raise TypeError(f"max_gen_length is {problem.max_new_tokens!r}, not a number from 1")
    if len(problem.inputs) > len(problem.outputs):
        raise ValueError(f"{len(problem.inputs)} inputs, {len(problem.outputs)} outputs")
    return [_in_turns(problem, case) for case in range(len(problem.inputs))]


def _chosen(problems: list[MtpbProblem], config: MtpbConfig) -> list[MtpbProblem]:
    wanted = None if config.problem_ids is None else set(config.problem_ids)
    chosen = [problem for problem in problems if wanted is None or problem.number in wanted]
    missing = sorted((wanted or set()) - {problem.number for problem in chosen})
    if missing or not chosen or not config.cases:
        raise ConfigError(
            f"MTPB has no problems {missing}"
            if missing
            else "MTPB is asked for no problem, or for no case",
            expected=f"numbers from 1 to {len(problems)}, and cases from 0 to 4",
            fix="mend evaluation.mtpb.problem_ids or evaluation.mtpb.cases",
        )
    return chosen


def _draw(label: str, benchmark: Benchmark, config: MtpbConfig, max_new_tokens: int) -> SampleSet:
    return SampleSet(
        label,
        benchmark,
        config.num_samples,
        config.temperature,
        config.top_p,
        max_new_tokens,
        scored=True,
    )


def _in_turns(problem: MtpbProblem, case: int) -> Problem:
    first, *others = (f"# {prompt}\n" for prompt in problem.turns(case))
    return _problem(problem, case, (PREFIX + first, *others), problem.max_new_tokens)


def _in_one(problem: MtpbProblem, case: int) -> Problem:
    """One completion has to be as long as those of all turns together."""
    joined = "".join(f"# {prompt}\n" for prompt in problem.turns(case))
    return _problem(
        problem, case, (PREFIX + joined,), problem.max_new_tokens * len(problem.prompts)
    )


def _problem(
    problem: MtpbProblem, case: int, turns: tuple[str, ...], max_new_tokens: int
) -> Problem:
    return Problem(
        task_id=f"{problem.number}/{case}",
        turns=turns,
        checker=ExpectedPrint(problem.outputs[case]),
        max_new_tokens=max_new_tokens,
        suffix="\n\n",
        group=str(problem.number),
        unscored_prefix=PREFIX,
    )


def _facts(
    counted: Mapping[str, Sequence[ProblemCounts]], problems: Mapping[str, MtpbProblem]
) -> ExtraMetrics:
    """What is told of MTPB beside pass@k: see `results.json` in docs/evaluation.md."""
    multi = counted[MULTI]
    details: dict[str, JsonValue] = {
        "num_problems": len(problems),
        "num_cases": len(multi) // len(problems),
        "num_passable": sum(_passable(one) for one in multi),
    }
    perplexities = {label: _perplexities(some) for label, some in counted.items()}
    figures: dict[str, JsonValue] = {
        f"prompt_perplexity_{label}": one["all"] for label, one in perplexities.items()
    }
    details["perplexity"] = {label: dict(one) for label, one in perplexities.items()}
    if multi[0].num_passed is None:
        return ExtraMetrics({**details, "rates": None}, figures)
    divisions = {
        "difficulty": {number: _difficulty(rate) for number, rate in _rates(multi).items()},
        "category": {number: one.category for number, one in problems.items()},
        "num_turns": {number: str(len(one.prompts)) for number, one in problems.items()},
    }
    details["num_by_difficulty"] = dict(Counter(divisions["difficulty"].values()))
    details["rates"] = {label: _divided(some, divisions) for label, some in counted.items()}
    for label, some in counted.items():
        rate, passable = (
            mean_with_interval(list(_rates(some).values())),
            [one for one in some if _passable(one)],
        )
        figures |= rate.figures(f"pass_rate_{label}")
        figures[f"pass_rate_of_passable_{label}"] = _mean_of_cases(passable) if passable else None
    return ExtraMetrics(details | figures, figures)


def _divided(
    counted: Sequence[ProblemCounts], divisions: Mapping[str, Mapping[str, str]]
) -> dict[str, JsonValue]:
    """The pass rate of each problem, and the mean of those of each part of every division."""
    rates = _rates(counted)
    means: dict[str, JsonValue] = {"problem": dict(rates)}
    for name, parts in divisions.items():
        means[name] = {
            part: fmean(rates[number] for number in rates if parts[number] == part)
            for part in sorted(set(parts.values()))
        }
    return means


def _rates(counted: Sequence[ProblemCounts]) -> dict[str, float]:
    """The pass rate of each problem, over its cases."""
    return {
        group: _mean_of_cases(one for one in counted if one.group == group)
        for group in dict.fromkeys(c.group for c in counted)
    }


def _mean_of_cases(counted: Iterable[ProblemCounts]) -> float:
    return fmean((one.num_passed or 0) / one.num_samples for one in counted)


def _difficulty(rate: float) -> str:
    return "hard" if rate < HARD else "easy" if rate > EASY else "medium"


def _passable(one: ProblemCounts) -> bool:
    number, case = one.task_id.split("/")
    return is_solvable(int(number), int(case))


def _perplexities(counted: Sequence[ProblemCounts]) -> dict[str, float | None]:
    """Of all samples, and of those that passed and of those that did not; none where it is too large for a number."""
    values = [
        (_exp(nats / tokens), one.passed[place] if one.passed else None)
        for one in counted
        for place, (nats, tokens) in enumerate(zip(one.prompt_nats, one.prompt_tokens, strict=True))
        if tokens
    ]
    parts = {
        "all": values,
        "passed": [one for one in values if one[1]],
        "not passed": [one for one in values if one[1] is False],
    }
    means = {
        name: fmean(value for value, _ in some) if some else math.inf
        for name, some in parts.items()
    }
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
