"""How a benchmark is run: which samples are drawn, and how their programs are executed and counted.

One decision: everything that defines a score but the model and the seed is in a plan, and nothing else is. Its fingerprint
stands beside every score, and scores of different fingerprints are never compared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from pydantic import JsonValue

from components.evaluation.benchmarks.problem import Benchmark
from components.evaluation.sampling.truncate import RULES
from components.evaluation.sandbox import Limits, Mode

SAMPLES_VERSION, SCORE_VERSION = 1, 4
"""Raised when equal settings would give other samples, or other scores of the same samples."""


def environment() -> dict[str, JsonValue]:
    """What programs find here that can change what they do: a newer pandas prints and rounds in its own way."""
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "packages": {name: version(name) for name in ("numpy", "pandas", "scikit-learn")},
    }


class SampleSet(NamedTuple):
    """One set of samples: the same problems under one temperature."""

    label: str
    """Names the set within its plan: `t0.2`, or `single`."""
    benchmark: Benchmark
    num_samples: int
    """Of every problem."""
    temperature: float
    top_p: float
    max_new_tokens: int
    """The most tokens of a completion, where the problem states none or more."""
    scored: bool = False
    """Whether the perplexity of the prompts is measured on the way."""

    def settings(self) -> dict[str, JsonValue]:
        """What decides the samples, but the model, the seed and the precision."""
        return {
            "benchmark": self.benchmark.name,
            "problems": self.benchmark.digest,
            "num_samples": self.num_samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "truncation": list(RULES),
            "scored": self.scored,
        }


class ProblemCounts(NamedTuple):
    """What became of the samples of one problem."""

    task_id: str
    group: str
    num_samples: int
    num_passed: int | None
    """None where nothing was executed."""
    prompt_nats: tuple[float, ...]
    """Of each sample: the cost of its prompts; empty where it was not measured."""
    prompt_tokens: tuple[int, ...]
    passed: tuple[bool, ...]
    """Of each sample; empty where nothing was executed."""


class ExtraMetrics(NamedTuple):
    """What else there is to be said of a benchmark."""

    details: dict[str, JsonValue]
    """For `results.json`; `num_problems` among them."""
    figures: dict[str, JsonValue]
    """Those that are compared between models."""


class BenchmarkProtocol(NamedTuple):
    """A benchmark as it is run."""

    draws: tuple[SampleSet, ...]
    limits: Limits
    """Before calibration: what a program may use where the limits were chosen."""
    mode: Mode
    k: tuple[int, ...]
    """Of pass@k."""
    facts: Callable[[Mapping[str, Sequence[ProblemCounts]]], ExtraMetrics] | None = None
    """Given the counts of every set by its label."""

    @property
    def name(self) -> str:
        """The benchmark's."""
        return self.draws[0].benchmark.name

    def settings(self, precision: str) -> dict[str, JsonValue]:
        """Everything that defines a score but the model and the seed: two scores compare only if this is equal."""
        limits = self.limits
        return {
            "benchmark": self.name,
            "samples_version": SAMPLES_VERSION,
            "score_version": SCORE_VERSION,
            "sets": {one.label: one.settings() for one in self.draws},
            "precision": precision,
            "mode": self.mode,
            "limits": {
                "cpu_s": limits.cpu_s,
                "wall_s": limits.wall_s,
                "memory_mib": limits.memory_mib,
            },
            "k": list(self.k),
            **environment(),
        }
