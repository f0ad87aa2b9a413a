"""The gates of a recipe: the requirements for a new champion, and for starting the next stage.

A requirement names metrics as the registry records them (`benchmark/corpus/language`), so a new
benchmark needs no code here. docs/promoting.md describes every rule with an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config, ListOrTuple

UNIFORM_BITS_PER_BYTE = 8.0
"""Bits per byte of the uniform distribution over bytes: log2(256)."""


class Requirement(Config):
    """A condition for the mean of the named metrics, absolute and relative to the champion."""

    metrics: Annotated[ListOrTuple[str], Field(min_length=1)]
    """Names such as `bits_per_byte/mono/Python`; the part before the first slash is the
    benchmark. Several metrics count by their mean."""
    better: Literal["lower", "higher"] = "lower"
    """The direction of an improvement."""
    min_gain: float = 0.0
    """Minimum improvement over the champion, in the metric's unit; 0 means not worse."""
    confidence: Annotated[float | None, Field(gt=0, lt=1)] = None
    """0.95: the lower bound of the gain's 95 % interval must exceed `min_gain` (paired bootstrap
    over problems). Only for means over problems (HumanEval and MTPB). None: the gain decides."""
    threshold: float | None = None
    """Absolute limit: a maximum if lower is better, a minimum if higher is better."""

    @property
    def label(self) -> str:
        """The value that the requirement limits, as text."""
        if len(self.metrics) == 1:
            return self.metrics[0]
        return f"the mean of {', '.join(self.metrics)}"

    @property
    def limit(self) -> str:
        """The absolute limit as text, such as `at most 1.2`; empty without a threshold."""
        if self.threshold is None:
            return ""
        return f"{'at most' if self.better == 'lower' else 'at least'} {self.threshold:g}"


def benchmark_of(metric: str) -> str:
    """Return the part of a metric's name before the first slash."""
    return metric.split("/")[0]


def default_requirements(corpus: str, languages: Sequence[str]) -> tuple[Requirement, ...]:
    """The requirements for a stage that the recipe gives none: better than the uniform distribution
    and not worse than the champion, on the languages of the corpus that it was trained on."""
    metrics = tuple(f"bits_per_byte/{corpus}/{language}" for language in languages)
    return (Requirement(metrics=metrics, threshold=UNIFORM_BITS_PER_BYTE),)


class GateConfig(Config):
    """The rules of promotion; only the required metrics depend on the stage."""

    schema_version: ClassVar[int] = 2

    requirements: dict[str, ListOrTuple[Requirement]] = Field(default_factory=dict)
    """By stage; a stage that is absent has `default_requirements`. (Prefect's forms would drop a
    field with the name `required`.)"""
    max_logit_difference: float = Field(default=1e-4, ge=0)
    """Largest absolute difference between our logits and the Hugging Face logits of the exported
    checkpoint (fp32; assumption). A model above it is not registered."""
    require_clean_code: bool = False
    """Refuse a model that was trained from code with uncommitted changes."""
    require_sandbox: bool = True
    """Refuse scores of benchmarks whose programs ran without a sandbox."""
    max_contaminated_documents: int | None = Field(default=None, ge=0)
    """Maximum number of documents that contained a part of a benchmark, for each benchmark with
    executed programs, summed over the training corpora. Such documents are rejected from training;
    a high number suggests that more were missed. Corpora that were not searched are refused.
    None: no limit."""
    approval: Literal["auto", "manual"] = "auto"
    """`manual`: a reviewer makes the final decision on a model that passes, and the flow waits."""
    approval_timeout_s: int = Field(default=86_400, ge=1)
    """Maximum time to wait for the reviewer; then the model is refused. Assumption: a day."""


class StageGateConfig(Config):
    """The gate between a stage and the stages that start from its checkpoint."""

    requirements: ListOrTuple[Requirement] = ()
    """Absolute limits of metrics of the checkpoint: each requirement has a `threshold`."""
    approval: Literal["auto", "manual"] = "auto"
    """auto: the requirements decide. manual: a reviewer decides, and the flow waits; the reviewer
    sees which requirements are met."""
    approval_timeout_s: int = Field(default=86_400, ge=1)
    """Maximum time to wait for the reviewer; then the run stops. Assumption: a day."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of all requirements."""
        return tuple(metric for item in self.requirements for metric in item.metrics)

    @model_validator(mode="after")
    def _check_requirements(self) -> Self:
        if self.approval == "auto" and not self.requirements:
            raise ValueError("at least one of requirements, or approval manual")
        for requirement in self.requirements:
            is_relative = requirement.min_gain != 0.0 or requirement.confidence is not None
            if requirement.threshold is None or is_relative:
                raise ValueError(
                    "requirements with a threshold, and without min_gain and confidence, because "
                    "nothing is compared with a champion"
                )
        return self
