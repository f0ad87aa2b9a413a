"""What a model must show before it is promoted: the part of a recipe that this room owns.

Design decision: a requirement names metrics as the registry records them (`benchmark/corpus/language`), so the gate needs no
code for a new benchmark. How metrics are measured, and under which protocol, is the evaluation's business. Every rule and
an example of each: docs/promoting.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.core.config import Config, ListOrTuple

UNIFORM_BITS_PER_BYTE = 8.0
"""Bits per byte of a guess that holds every byte equally likely: log2(256)."""


class Requirement(Config):
    """One figure that has to hold: the mean of the named metrics, alone and against the champion's."""

    metrics: Annotated[ListOrTuple[str], Field(min_length=1)]
    """Names like `bits_per_byte/mono/Python`; the part before the first slash is the benchmark. Several: their mean."""
    better: Literal["lower", "higher"] = "lower"
    """Which direction is an improvement."""
    min_gain: float = 0.0
    """How much better than the champion it has to be, in the metric's own unit; 0 means no worse."""
    confidence: Annotated[float | None, Field(gt=0, lt=1)] = None
    """0.95: the lower end of the gain's 95 % interval has to be `min_gain` or more, by a paired bootstrap over problems.
    Only for figures that are means over problems (HumanEval's and MTPB's). None: the gain itself decides."""
    threshold: float | None = None
    """What it has to reach in any case: at most this where lower is better, at least this where higher is."""


def _bits_per_byte(corpus: str, *languages: str) -> tuple[Requirement, ...]:
    names = tuple(f"bits_per_byte/{corpus}/{language}" for language in languages)
    return (Requirement(metrics=names, threshold=UNIFORM_BITS_PER_BYTE),)


def _own_domains() -> dict[str, tuple[Requirement, ...]]:
    return {
        "nl": _bits_per_byte("nl", "English"),
        "multi": _bits_per_byte("multi", "C", "C++", "Go", "Java", "JavaScript", "Python"),
        "mono": _bits_per_byte("mono", "Python"),
    }


class GateConfig(Config):
    """The rules of promotion, the same for every model name but for the required metrics of its stage."""

    requirements: dict[str, ListOrTuple[Requirement]] = Field(default_factory=_own_domains)
    """By stage: each stage answers for its own domain. (A field called `required` would be lost in Prefect's forms.)"""
    max_logit_difference: float = Field(default=1e-4, ge=0)
    """Largest absolute difference between our logits and Hugging Face's on the exported checkpoint (fp32; assumption); what
    differs by more is not registered."""
    require_clean_code: bool = False
    """Refuse a model that was trained from a working tree with uncommitted changes."""
    require_sandbox: bool = True
    """Refuse scores of benchmarks whose programs ran without isolation."""
    max_contaminated_documents: int | None = Field(default=None, ge=0)
    """Documents at most that held a part of a benchmark, for each benchmark whose programs were judged, summed over the
    corpora that the model learnt from. They were left out of training; many of them say that more may have escaped. Corpora
    in which nobody looked are refused. None: not asked."""
    approval: Literal["automatic", "person"] = "automatic"
    """Who has the last word on a model that passes: nobody, or a person, for whom the flow waits."""
    approval_timeout_s: int = Field(default=86_400, ge=1)
    """How long a person is waited for; afterwards the model is refused. Assumption: a day."""
