"""May this model become the champion? A pure function from evidence to a decision, with its reasons.

Design decision: the answer is a record of every check, passed or not, never an exception: a refused model is a result that
people look at. Figures count as comparable only under equal protocol fingerprints (same benchmark files, same held-out
bytes, same sampling). Not covered yet: confidence intervals, contamination limits, approval by a person.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field

from components.core.artifact import Artifact
from components.core.config import Config, Items
from components.core.errors import ConfigError
from components.registry.config import GateConfig, Requirement
from components.registry.naming import numbers

Outcome = Literal["promoted", "refused", "already champion", "rolled back"]


class Evidence(Config):
    """What is known about one model when the gate decides."""

    digest: str
    """SHA-256 of the checkpoint's files."""
    metrics: dict[str, float]
    """Figures by name, `benchmark/corpus/language`."""
    protocols: dict[str, str]
    """Fingerprint of how each benchmark was run, by benchmark; everything that changes a score but the model."""
    logit_difference: Annotated[float | None, Field(allow_inf_nan=True)] = None
    """Largest absolute difference to Hugging Face's logits; none means not measured."""
    sandboxed: bool | None = None
    """Whether generated programs ran isolated; none means none ran."""
    git_dirty: bool | None = None
    """Whether the code that trained it had uncommitted changes; none means unknown."""


class Check(Config):
    """One rule, whether it holds, and the figures it was judged by."""

    rule: str
    passed: bool
    found: str


class Decision(Config):
    """The gate's answer and every check behind it."""

    outcome: Outcome
    checks: Items[Check]

    @property
    def promoted(self) -> bool:
        """Whether the candidate takes the champion's place."""
        return self.outcome == "promoted"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The checks that failed, as sentences."""
        return tuple(f"{check.rule}: {check.found}" for check in self.checks if not check.passed)


def metrics_of(evaluations: Mapping[str, Artifact]) -> dict[str, float]:
    """The figures of evaluation artifacts, by benchmark: the numeric statistics under `benchmark/...`."""
    return {
        f"{benchmark}/{name}": value
        for benchmark, evaluation in sorted(evaluations.items())
        for name, value in numbers(evaluation.statistics).items()
    }


def require_rules(gate: GateConfig, stage: str) -> None:
    """Check that the gate has something to judge a stage by; worth doing before the stage is trained.

    Raises:
        ConfigError: the gate has no requirements for this stage.
    """
    if not gate.requirements.get(stage):
        raise ConfigError(
            f"the gate requires nothing of the stage {stage!r}",
            expected=f"one of {', '.join(gate.requirements)}, with at least one requirement",
            do=f"add promotion.requirements.{stage} to the recipe",
        )


def decide(gate: GateConfig, stage: str, candidate: Evidence, champion: Evidence | None) -> Decision:
    """Judge a candidate of a stage against the present champion, or alone where there is none.

    Raises:
        ConfigError: the gate has no requirements for this stage.
    """
    if champion and champion.digest == candidate.digest:
        return Decision(outcome="already champion", checks=())
    require_rules(gate, stage)
    checks = [_logits(gate, candidate), *_provenance(gate, candidate)]
    for requirement in gate.requirements[stage]:
        checks += _requirement(requirement, candidate, champion)
    passed = all(check.passed for check in checks)
    return Decision(outcome="promoted" if passed else "refused", checks=tuple(checks))


def _logits(gate: GateConfig, candidate: Evidence) -> Check:
    difference = candidate.logit_difference
    return Check(
        rule=f"its exported logits differ from Hugging Face's by at most {gate.max_logit_difference:g}",
        passed=difference is not None and difference <= gate.max_logit_difference,  # False for NaN.
        found="not measured" if difference is None else f"{difference:.3g}",
    )


def _provenance(gate: GateConfig, candidate: Evidence) -> list[Check]:
    checks = []
    if gate.require_clean_code:
        clean = {False: "clean", True: "uncommitted changes", None: "unknown"}[candidate.git_dirty]
        checks.append(Check(rule="trained from committed code", passed=candidate.git_dirty is False, found=clean))
    if gate.require_sandbox:
        isolation = {True: "isolated", False: "not isolated", None: "no program ran"}[candidate.sandboxed]
        checks.append(
            Check(
                rule="no generated program ran outside a sandbox", passed=candidate.sandboxed is not False, found=isolation
            )
        )
    return checks


def _requirement(requirement: Requirement, candidate: Evidence, champion: Evidence | None) -> list[Check]:
    label = _label(requirement)
    own = _figure(requirement, candidate)
    if own is None:
        return [Check(rule=f"{label} is measured", passed=False, found="not measured for the candidate")]
    checks = []
    if requirement.limit is not None:
        bound = "at most" if requirement.better == "lower" else "at least"
        holds = own <= requirement.limit if requirement.better == "lower" else own >= requirement.limit
        checks.append(Check(rule=f"{label} is {bound} {requirement.limit:g}", passed=holds, found=f"{own:.6g}"))
    if champion is None:
        return [*checks, Check(rule=f"{label} is measured", passed=True, found=f"{own:.6g}, the first of its name")]
    return [*checks, _against(requirement, label, own, candidate, champion)]


def _against(requirement: Requirement, label: str, own: float, candidate: Evidence, champion: Evidence) -> Check:
    for benchmark in sorted({name.split("/")[0] for name in requirement.metrics}):
        ours, theirs = candidate.protocols.get(benchmark), champion.protocols.get(benchmark)
        if ours is None or ours != theirs:
            found = f"candidate {_short(ours)}, champion {_short(theirs)}; evaluate the champion the same way first"
            return Check(rule=f"{benchmark} was run by the same protocol for both", passed=False, found=found)
    theirs_figure = _figure(requirement, champion)
    if theirs_figure is None:
        return Check(rule=f"{label} is measured", passed=False, found="not measured for the champion; evaluate it first")
    gain = theirs_figure - own if requirement.better == "lower" else own - theirs_figure
    return Check(
        rule=f"{label} gains at least {requirement.min_gain:g} on the champion",
        passed=gain >= requirement.min_gain,
        found=f"{own:.6g} against {theirs_figure:.6g}, a gain of {gain:.3g}",
    )


def _figure(requirement: Requirement, evidence: Evidence) -> float | None:
    values = [evidence.metrics.get(name, math.nan) for name in requirement.metrics]
    return None if any(math.isnan(value) for value in values) else fmean(values)


def _label(requirement: Requirement) -> str:
    return requirement.metrics[0] if len(requirement.metrics) == 1 else f"the mean of {', '.join(requirement.metrics)}"


def _short(protocol: str | None) -> str:
    return protocol[:12] if protocol else "unstated"
