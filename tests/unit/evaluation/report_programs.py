"""Evaluations for pages: sampled and scored by the project's own code, with verdicts that the completions state."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from report_run import Run
from scripted import ScriptedSampler

from components.core.artifact import Artifact
from components.core.errors import SandboxUnavailable
from components.evaluation.benchmarks.humaneval import (
    HumanEvalProblem,
    as_problem,
    function_protocol,
)
from components.evaluation.benchmarks.mtpb import MtpbProblem, conversation_protocol
from components.evaluation.benchmarks.problem import Benchmark
from components.evaluation.benchmarks.protocol import BenchmarkProtocol
from components.evaluation.config import HumanEvalConfig, MtpbConfig
from components.evaluation.sampling.samples import GeneratedSample, generate_samples
from components.evaluation.sandbox import ResourceLimits, SandboxReport, Verdict, unavailable_report
from components.evaluation.scoring.grading import score
from components.evaluation.scoring.program_executor import Program

JAIL = SandboxReport(
    available=True, isolation="bubblewrap 0.8.0: pid, net", self_test={"reads a canary": "refused"}
)
NO_JAIL = unavailable_report(
    SandboxUnavailable(
        "no bubblewrap", expected="a sandbox", fix="install the Debian package bubblewrap"
    )
)
REASON = "no bubblewrap; install the Debian package bubblewrap"
PROMPT = 'def f(x: int) -> bool:\n    """ x < 3 """\n'

Write = Callable[[str, GeneratedSample], str]
"""Given the label of a set and a sample that lacks a completion: the completion, which ends in ` #: ` and its verdict."""


class Stated:
    """A judge that believes the last verdict that a program states; executes nothing."""

    busy_s, num_retried, num_cached, slowest_canonical_s = 0.0, 0, 0, None

    def __init__(self, report: SandboxReport) -> None:
        self.report = report

    def results(self, programs: Sequence[Program]) -> list[Verdict] | None:
        return [_stated(str(one.source)) for one in programs] if self.report.available else None

    def calibrated(self, limits: ResourceLimits) -> ResourceLimits:
        return limits


def _stated(program: str) -> Verdict:
    *_, (kind, raised) = re.findall(r" #: (\w+) ?(\w*)", program)
    return Verdict(kind, raised)


def evaluated(
    run: Run,
    stage: str,
    plan: BenchmarkProtocol,
    write: Write,
    report: SandboxReport = JAIL,
    samples: Mapping[str, Artifact] | None = None,
) -> Artifact:
    """The evaluation of a stage by a plan; `samples`: what it is said to have judged, by the label of the set."""
    name = f"tiny-{stage}-{plan.name}"

    def sampled_into(folder: Path, label: str) -> Path:
        (draw,) = (one for one in plan.sample_sets if one.label == label)
        folder.mkdir(parents=True)
        generate_samples(
            folder, draw, ScriptedSampler(lambda request: write(label, request.key)), 7
        )
        return folder / "samples.jsonl"

    def build(folder: Path) -> Mapping[str, JsonValue]:
        drawn = Path(run.store.root).parent / "drawn" / name
        samples = {
            one.label: sampled_into(drawn / one.label, one.label) for one in plan.sample_sets
        }
        judge: Any = Stated(report)
        return score(folder, plan, samples, judge, precision="fp32", seed=7)

    return run.make(
        "evaluation", name, {"checkpoint": run.checkpoints[stage], **(samples or {})}, build
    )


def functions(numbers: Sequence[int], **settings: Any) -> BenchmarkProtocol:
    """HumanEval's protocol over problems of these numbers."""
    problems = (
        HumanEvalProblem(f"HumanEval/{number}", PROMPT, "f", "", "def check(f): pass\n")
        for number in numbers
    )
    benchmark = Benchmark("humaneval", "0" * 64, tuple(as_problem(one) for one in problems))
    return function_protocol(
        benchmark, HumanEvalConfig.parse({"num_samples": 1, "temperatures": [0.2], **settings})
    )


def conversations(problems: Mapping[int, tuple[str, int]], **settings: Any) -> BenchmarkProtocol:
    """MTPB's protocol over problems by their number: a category, and how many turns."""
    made = [
        MtpbProblem(
            number,
            f"n{number}",
            category,
            ("Say {x}.",) * num_turns,
            ({"x": "it"},) * 5,
            ("it",) * 5,
            64,
        )
        for number, (category, num_turns) in problems.items()
    ]
    # What does not exist cannot be chosen: nothing is, so that numbers may have gaps.
    return conversation_protocol(
        made, MtpbConfig.parse({"num_samples": 1, "cases": [0, 1], **settings})
    )
