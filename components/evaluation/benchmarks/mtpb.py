"""MTPB: programs written over several turns, checked by the last value that they print.

Protocol (docs/paper.md, section 5): with several turns, the history begins with an import; each
turn appends the prompt as a comment and then the truncated completion. With a single turn, all
prompts of a problem come first, each as a comment, and a single completion follows (our definition;
the paper's script was not released).

Prompt perplexity: the prompt of a turn is the text that the turn appends (`# `, its text and the
line break). Several turns: exp of the mean over all prompt tokens of
`-log p(token | everything before it)`, where the text before includes the model's own completions.
A single turn: the same over the joined prompts. Tokens of the initial import do not count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from pydantic import JsonValue

from components.core.errors import ConfigError
from components.evaluation.benchmarks.problem import (
    Benchmark,
    ExpectedPrint,
    Problem,
    parse_jsonl,
    read_pinned,
)
from components.evaluation.benchmarks.protocol import (
    BenchmarkProtocol,
    ExtraMetrics,
    ProblemCounts,
    SampleSet,
)
from components.evaluation.config import MTPB_SHA256, MtpbConfig
from components.evaluation.sandbox import ResourceLimits
from components.evaluation.scoring.score_statistics import mean_with_interval

_DEFAULT_MAX_NEW_TOKENS = 256
"""Tokens per turn if the file states none (the official sampling script's default)."""

PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"
"""The beginning of every history (the official sampling script)."""
MEMORY_MIB = 2048
"""Address space of a program (measured: importing NumPy, pandas and scikit-learn takes 0.5 GiB)."""
MULTI, SINGLE = "multi", "single"
"""Labels of the sample sets: several turns, or a single turn."""
HARD, EASY = 0.3, 0.7
"""Problems with a pass rate (several turns) below HARD are hard, above EASY easy (the paper's
bounds, which it applies to the average over its models; this code applies them to the evaluated
model)."""

_ALL_CASES = frozenset(range(5))
_UNSOLVABLE_CASES: dict[int, frozenset[int]] = {
    89: _ALL_CASES,  # expects a dictionary, which the checker never accepts
    41: frozenset({1, 4}),  # expects None, which the checker never accepts
    38: _ALL_CASES,  # reads a CSV file that does not exist
    46: _ALL_CASES,  # likewise
    23: frozenset({0, 1, 2, 3}),  # expects a random number
    9: frozenset({2}),  # wrong expected values from here on
    31: frozenset({0}),
    55: frozenset({2}),
    56: frozenset({3}),
    94: frozenset({1}),
}
"""Cases by problem that no program can pass (docs/paper.md, section 5). The main pass rate
counts them as failures, as upstream and the paper do. Problem 14, which upstream's guard breaks,
can be passed here."""


class MtpbProblem(NamedTuple):
    """A program to write in several turns, as in the file."""

    number: int
    name: str
    category: str
    prompts: tuple[str, ...]
    inputs: tuple[dict[str, Any], ...]
    """Per test case: the values that are inserted into the prompts."""
    outputs: tuple[Any, ...]
    """Per test case: the value that the program must print."""
    max_new_tokens: int

    def turns(self, case: int) -> list[str]:
        """Return the prompts of a test case."""
        return [prompt.format(**self.inputs[case]) for prompt in self.prompts]


def load_mtpb(path: Path) -> list[MtpbProblem]:
    """Load the 115 problems, sorted by number.

    Raises:
        EvaluationError: the file has another SHA-256.
    """
    problems = map(parse_mtpb_problem, parse_jsonl(read_pinned(path, MTPB_SHA256)))
    return sorted(problems, key=lambda problem: problem.number)


def parse_mtpb_problem(record: Mapping[str, Any]) -> MtpbProblem:
    """Parse a record in MTPB's format."""
    return MtpbProblem(
        number=int(record["id"]),
        name=record.get("name", ""),
        category=record.get("category", ""),
        prompts=tuple(record["prompts"]),
        inputs=tuple(record["inputs"]),
        outputs=tuple(record["outputs"]),
        max_new_tokens=record.get("max_gen_length", _DEFAULT_MAX_NEW_TOKENS),
    )


def parse_conversation(record: Mapping[str, Any]) -> list[Problem]:
    """Parse a custom record in MTPB's format: a problem with several turns for each test case."""
    if not isinstance(record["prompts"], list):
        raise TypeError("prompts must be a list of texts")
    problem = parse_mtpb_problem(record)
    if not isinstance(problem.max_new_tokens, int) or problem.max_new_tokens < 1:
        raise TypeError(f"max_gen_length is {problem.max_new_tokens!r}, not a number from 1")
    if len(problem.inputs) > len(problem.outputs):
        raise ValueError(f"{len(problem.inputs)} inputs, {len(problem.outputs)} outputs")
    return [_multi_turn(problem, case) for case in range(len(problem.inputs))]


def is_solvable(problem: int, case: int) -> bool:
    """Whether a correct program can pass this case (from 0) of this problem."""
    return case not in _UNSOLVABLE_CASES.get(problem, frozenset())


# -- protocol --------------------------------------------------------------------------------------


def build_protocol(config: MtpbConfig, problems_file: Path) -> BenchmarkProtocol:
    """Return the protocol of the selected problems and cases.

    Raises:
        EvaluationError: `problems_file` is not the pinned file.
        ConfigError: a selected problem does not exist, or nothing is selected.
    """
    return conversation_protocol(load_mtpb(problems_file), config)


def conversation_protocol(problems: list[MtpbProblem], config: MtpbConfig) -> BenchmarkProtocol:
    """Return MTPB's protocol for these problems.

    Raises:
        ConfigError: a selected problem does not exist, or nothing is selected.
    """
    selected = _choose(problems, config)
    cases = [(problem, case) for problem in selected for case in config.cases]
    multi = tuple(_multi_turn(problem, case) for problem, case in cases)
    sample_sets = [_sample_set(MULTI, multi, config, config.max_new_tokens)]
    if config.single_turn:
        single = tuple(_single_turn(problem, case) for problem, case in cases)
        sample_sets.append(_sample_set(SINGLE, single, config, 2 * config.max_new_tokens))
    by_number = {str(problem.number): problem for problem in selected}

    def extra_metrics(counts: Mapping[str, Sequence[ProblemCounts]]) -> ExtraMetrics:
        return _extra_metrics(counts, by_number)

    # The expected value never enters the process of a program, so every mode is `split`.
    limits = ResourceLimits(config.cpu_limit_s, MEMORY_MIB)
    return BenchmarkProtocol(tuple(sample_sets), limits, "split", (), extra_metrics)


def _choose(problems: list[MtpbProblem], config: MtpbConfig) -> list[MtpbProblem]:
    ids = config.problem_ids
    selected = [problem for problem in problems if ids is None or problem.number in ids]
    missing = sorted(set(ids or ()) - {problem.number for problem in selected})
    if missing or not selected or not config.cases:
        raise ConfigError(
            f"MTPB has no problems {missing}" if missing else "no problem or no case of MTPB",
            expected=f"problem numbers from 1 to {len(problems)}, and cases from 0 to 4",
            fix="correct evaluation.mtpb.problem_ids or evaluation.mtpb.cases",
        )
    return selected


def _sample_set(
    label: str, problems: tuple[Problem, ...], config: MtpbConfig, max_new_tokens: int
) -> SampleSet:
    return SampleSet(
        label,
        Benchmark("mtpb", MTPB_SHA256, problems),
        config.num_samples,
        config.temperature,
        config.top_p,
        max_new_tokens,
        scores_prompts=True,
    )


def _multi_turn(problem: MtpbProblem, case: int) -> Problem:
    first, *others = (f"# {prompt}\n" for prompt in problem.turns(case))
    return _problem(problem, case, (PREFIX + first, *others), problem.max_new_tokens)


def _single_turn(problem: MtpbProblem, case: int) -> Problem:
    """Join all prompts; the completion may be as long as those of all turns together."""
    prompts = problem.turns(case)
    text = PREFIX + "".join(f"# {prompt}\n" for prompt in prompts)
    return _problem(problem, case, (text,), problem.max_new_tokens * len(prompts))


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


# -- metrics ---------------------------------------------------------------------------------------


def _extra_metrics(
    counts_by_set: Mapping[str, Sequence[ProblemCounts]], problems: Mapping[str, MtpbProblem]
) -> ExtraMetrics:
    """Compute pass rates and perplexities (`results.json` in docs/evaluation.md)."""
    multi = counts_by_set[MULTI]
    perplexities = {label: _perplexities(counts) for label, counts in counts_by_set.items()}
    details: dict[str, JsonValue] = {
        "num_problems": len(problems),
        "num_cases": len(multi) // len(problems),
        "num_solvable": sum(_is_solvable_case(count) for count in multi),
        "perplexity": {label: dict(means) for label, means in perplexities.items()},
    }
    metrics: dict[str, JsonValue] = {
        f"prompt_perplexity_{label}": means["all"] for label, means in perplexities.items()
    }
    if multi[0].num_passed is None:
        return ExtraMetrics({**details, "rates": None}, metrics)
    divisions = {
        "difficulty": {number: _difficulty(rate) for number, rate in _pass_rates(multi).items()},
        "category": {number: problem.category for number, problem in problems.items()},
        "num_turns": {number: str(len(problem.prompts)) for number, problem in problems.items()},
    }
    details["num_by_difficulty"] = dict(Counter(divisions["difficulty"].values()))
    details["rates"] = {
        label: _rates_by_division(counts, divisions) for label, counts in counts_by_set.items()
    }
    for label, counts in counts_by_set.items():
        rates = list(_pass_rates(counts).values())
        metrics |= mean_with_interval(rates).as_metrics(f"pass_rate_{label}")
        solvable = [count for count in counts if _is_solvable_case(count)]
        metrics[f"pass_rate_solvable_{label}"] = _mean_pass_rate(solvable) if solvable else None
        strict_rates = list(_strict_pass_rates(counts).values())
        metrics |= mean_with_interval(strict_rates).as_metrics(f"pass_rate_strict_{label}")
    return ExtraMetrics(details | metrics, metrics)


def _rates_by_division(
    counts: Sequence[ProblemCounts], divisions: Mapping[str, Mapping[str, str]]
) -> dict[str, JsonValue]:
    """Return both pass rates of each problem, and the mean rate of each group of every division."""
    rates = _pass_rates(counts)
    means: dict[str, JsonValue] = {
        "problem": dict(rates),
        "problem_strict": dict(_strict_pass_rates(counts)),
    }
    for name, group_of_problem in divisions.items():
        by_group: dict[str, list[float]] = {}
        for number, rate in rates.items():
            by_group.setdefault(group_of_problem[number], []).append(rate)
        groups = sorted(set(group_of_problem.values()))
        means[name] = {group: fmean(by_group[group]) for group in groups}
    return means


def _pass_rates(counts: Sequence[ProblemCounts]) -> dict[str, float]:
    """Return the pass rate of each problem over its cases."""
    by_problem: dict[str, list[ProblemCounts]] = {}
    for count in counts:
        by_problem.setdefault(count.group, []).append(count)
    return {problem: _mean_pass_rate(cases) for problem, cases in by_problem.items()}


def _strict_pass_rates(counts: Sequence[ProblemCounts]) -> dict[str, float]:
    return _pass_rates([count._replace(passed=count.strictly_passed) for count in counts])


def _mean_pass_rate(counts: Iterable[ProblemCounts]) -> float:
    return fmean((count.num_passed or 0) / count.num_samples for count in counts)


def _difficulty(rate: float) -> str:
    if rate < HARD:
        return "hard"
    return "easy" if rate > EASY else "medium"


def _is_solvable_case(count: ProblemCounts) -> bool:
    number, case = count.task_id.split("/")
    return is_solvable(int(number), int(case))


def _perplexities(counts: Sequence[ProblemCounts]) -> dict[str, float | None]:
    """Return mean perplexities of all, passed and failed samples; None if not finite."""
    groups: dict[str, list[float]] = {"all": [], "passed": [], "failed": []}
    for count in counts:
        samples = zip(count.prompt_nats, count.prompt_tokens, strict=True)
        for index, (nats, num_tokens) in enumerate(samples):
            if num_tokens == 0:
                continue
            perplexity = _exp(nats / num_tokens)
            groups["all"].append(perplexity)
            if count.passed:
                groups["passed" if count.passed[index] else "failed"].append(perplexity)
    means = {name: fmean(values) if values else math.inf for name, values in groups.items()}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
