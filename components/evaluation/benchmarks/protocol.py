"""The protocol of a benchmark: how samples are generated, truncated and executed.

A protocol holds everything that defines a score except the model and the seed. Its fingerprint is
stored beside every score, and scores of different fingerprints are never compared.

Completions are truncated by the rules of CodeGen's released sampling code (docs/paper.md, section
4), for HumanEval and for every turn of MTPB. A rule that applies to a text applies at the same
position of every longer text, so generation may stop when `is_complete` returns true.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from pydantic import JsonValue

from components.evaluation.benchmarks.problem import Benchmark
from components.evaluation.sandbox import ExecutionMode, ResourceLimits

SAMPLES_VERSION = 2
"""Raised when equal settings give other samples or other files."""
SCORE_VERSION = 8
"""Raised when equal samples give other scores or other files."""

_CUT_BEFORE_SECOND = tuple(re.compile(pattern, re.MULTILINE) for pattern in (r"^print", r"^def"))
"""A completion ends before the second of these at the start of a line."""
_CUT_BEFORE_FIRST = re.compile(r"^#|<\|endoftext\|>|^'''|^\"\"\"|\n\n\n", re.MULTILINE)
"""A completion ends before the first of these."""

TRUNCATION_RULES = tuple(pattern.pattern for pattern in (*_CUT_BEFORE_SECOND, _CUT_BEFORE_FIRST))
"""The rules as text, for the fingerprint of a protocol."""


def truncate(completion: str) -> str:
    """Return `completion` up to the first position where a rule applies."""
    ends = [len(completion)]
    for pattern in _CUT_BEFORE_SECOND:
        matches = list(pattern.finditer(completion))
        if len(matches) > 1:
            ends.append(matches[1].start())
    if match := _CUT_BEFORE_FIRST.search(completion):
        ends.append(match.start())
    return completion[: min(ends)]


def is_complete(completion: str) -> bool:
    """Whether a rule truncates `completion`, so that further tokens cannot matter."""
    return len(truncate(completion)) < len(completion)


def library_versions() -> dict[str, JsonValue]:
    """Return the versions of Python and packages, which change what programs print."""
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "packages": {name: version(name) for name in ("numpy", "pandas", "scikit-learn")},
    }


class SampleSet(NamedTuple):
    """Settings of a set of samples: all problems of a benchmark at one temperature."""

    label: str
    """Name within the protocol: `t0.2`, or `single`."""
    benchmark: Benchmark
    num_samples: int
    """Per problem."""
    temperature: float
    top_p: float
    max_new_tokens: int
    """Most tokens of a completion; a problem may state fewer."""
    scores_prompts: bool = False
    """Whether the perplexity of the prompts is computed."""

    def settings(self) -> dict[str, JsonValue]:
        """Return everything that defines the samples except model, seed and precision."""
        return {
            "benchmark": self.benchmark.name,
            "problems": self.benchmark.digest,
            "num_samples": self.num_samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "truncation": list(TRUNCATION_RULES),
            "scores_prompts": self.scores_prompts,
        }


class ProblemCounts(NamedTuple):
    """Counts over the samples of a problem."""

    task_id: str
    group: str
    num_samples: int
    prompt_nats: tuple[float, ...]
    """Negative log likelihood of the prompts, per sample; empty if it was not computed."""
    prompt_tokens: tuple[int, ...]
    passed: tuple[bool, ...]
    """Per sample; empty if nothing was executed."""
    strictly_passed: tuple[bool, ...] = ()
    """Per sample, by the strict rule for printed values; empty if nothing was executed."""

    @property
    def num_passed(self) -> int | None:
        """The number of passed samples; None if nothing was executed."""
        return sum(self.passed) if self.passed else None


class ExtraMetrics(NamedTuple):
    """Metrics of a benchmark in addition to pass@k."""

    details: dict[str, JsonValue]
    """For `results.json`, with `num_problems`."""
    metrics: dict[str, JsonValue]
    """Metrics that are compared between models."""


class BenchmarkProtocol(NamedTuple):
    """How a benchmark is run and scored."""

    sample_sets: tuple[SampleSet, ...]
    limits: ResourceLimits
    """Before calibration to the speed of the machine."""
    mode: ExecutionMode
    k: tuple[int, ...]
    """Of pass@k."""
    extra_metrics: Callable[[Mapping[str, Sequence[ProblemCounts]]], ExtraMetrics] | None = None
    """Computes them from the counts of every sample set, by label."""

    @property
    def name(self) -> str:
        """The name of the benchmark."""
        return self.sample_sets[0].benchmark.name

    def settings(self, precision: str) -> dict[str, JsonValue]:
        """Return everything that defines a score except the model and the seed."""
        return {
            "benchmark": self.name,
            "samples_version": SAMPLES_VERSION,
            "score_version": SCORE_VERSION,
            "sets": {samples.label: samples.settings() for samples in self.sample_sets},
            "precision": precision,
            "mode": self.mode,
            "limits": {
                "cpu_s": self.limits.cpu_s,
                "wall_s": self.limits.wall_s,
                "memory_mib": self.limits.memory_mib,
            },
            "k": list(self.k),
            **library_versions(),
        }
