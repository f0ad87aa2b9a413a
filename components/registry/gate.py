"""The promotion gate: a pure function from the evidence of two models to a decision with reasons.

Every check is recorded, passed or not; a refusal is a result, not an exception. Metrics are
comparable only under equal protocol fingerprints (same benchmark files, same held-out data, same
sampling). A reviewer's approval is a further check of a model that passes all others. There is no
correction for several requirements that are tested at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Literal

from components.core.artifact import Artifact
from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError
from components.registry.client.naming import numbers
from components.registry.config import GateConfig, Requirement, benchmark_of
from components.registry.evidence import (
    Evidence,
    interval_of_difference,
    pairing_error,
    protocol_differences,
)

GATE_VERSION = 1
"""Raise it when the same rules and metrics can give another decision: refusals then expire."""
TIMED_OUT = "timeout"
"""Name of the approver if no reviewer answered in time."""
_APPROVAL_RULE = "approved by a reviewer"

Outcome = Literal["promoted", "refused", "already_champion", "rolled_back"]


class Check(Config):
    """The result of a rule."""

    rule: str
    passed: bool
    detail: str
    """The values that the rule was applied to."""


class Decision(Config):
    """The outcome of the gate with every check."""

    outcome: Outcome
    checks: ListOrTuple[Check]

    @property
    def promoted(self) -> bool:
        """Whether the candidate becomes the champion."""
        return self.outcome == "promoted"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The failed checks as text."""
        return tuple(f"{check.rule}: {check.detail}" for check in self.checks if not check.passed)

    @property
    def failed_a_rule(self) -> bool:
        """Whether a check other than the approval failed."""
        return any(not check.passed and check.rule != _APPROVAL_RULE for check in self.checks)


class Approval(Config):
    """A reviewer's answer to a comparison, or its timeout."""

    approved: bool
    name: str
    """The reviewer."""
    reason: str = ""
    champion: int | None
    """The version of the champion in the comparison; None: there was no champion."""


def metrics_of(evaluations: Mapping[str, Artifact]) -> dict[str, float]:
    """Return the numeric statistics of evaluations by benchmark, as `benchmark/...`."""
    return {
        f"{benchmark}/{name}": value
        for benchmark, evaluation in sorted(evaluations.items())
        for name, value in numbers(evaluation.statistics).items()
    }


def require_rules(gate: GateConfig, stage: str) -> None:
    """Check that the gate can evaluate a stage, before the stage is trained.

    Raises:
        ConfigError: the gate has no requirements for the stage.
    """
    if not gate.requirements.get(stage):
        raise ConfigError(
            f"the gate has no requirements for the stage {stage!r}",
            expected=f"one of {', '.join(gate.requirements)}, with at least one requirement",
            fix=f"add promotion.requirements.{stage} to the recipe",
        )


def decide(
    gate: GateConfig, stage: str, candidate: Evidence, champion: Evidence | None
) -> Decision:
    """Evaluate a candidate against the champion, or alone if there is no champion.

    Raises:
        ConfigError: the gate has no requirements for the stage.
    """
    if champion and champion.digest == candidate.digest:
        return Decision(outcome="already_champion", checks=())
    require_rules(gate, stage)
    checks = [
        _check_logits(gate, candidate),
        *_check_code_and_sandbox(gate, candidate),
        *_check_contamination(gate, candidate),
    ]
    for requirement in gate.requirements[stage]:
        checks += _check_requirement(requirement, candidate, champion)
    return _decision(checks)


def apply_approval(
    decision: Decision,
    gate: GateConfig,
    approval: Approval | None,
    champion: int | None,
    rollback_note: str = "",
) -> Decision:
    """Add the approval check to a promotion if an approval was given or is required.

    Args:
        champion: the current champion; an approval of another comparison fails.
        rollback_note: who rolled this version back and why; requires an approval.
    """
    is_required = gate.approval == "manual" or bool(rollback_note)
    if not decision.promoted or (approval is None and not is_required):
        return decision
    if approval is None:
        passed = False
        detail = rollback_note or "no reviewer was asked; run the same command again"
    elif approval.champion != champion:
        passed = False
        detail = (
            f"{approval.name} reviewed a comparison with {_version_text(approval.champion)}, and "
            f"the champion is {_version_text(champion)} by now; run the same command again"
        )
    else:
        passed = approval.approved
        detail = f"{approval.name}: {approval.reason or 'no reason given'}"
    return _decision([*decision.checks, _check(_APPROVAL_RULE, passed, detail)])


def _version_text(version: int | None) -> str:
    return "no champion" if version is None else f"version {version}"


def _decision(checks: list[Check]) -> Decision:
    passed = all(check.passed for check in checks)
    return Decision(outcome="promoted" if passed else "refused", checks=tuple(checks))


def _check(rule: str, passed: bool, detail: str) -> Check:
    return Check(rule=rule, passed=passed, detail=detail)


def _check_logits(gate: GateConfig, candidate: Evidence) -> Check:
    difference = candidate.logit_difference
    passed = difference is not None and difference <= gate.max_logit_difference  # False for NaN.
    return _check(
        f"exported logits differ from Hugging Face's by at most {gate.max_logit_difference:g}",
        passed,
        "not measured" if difference is None else f"{difference:.3g}",
    )


def _check_code_and_sandbox(gate: GateConfig, candidate: Evidence) -> list[Check]:
    checks = []
    if gate.require_clean_code:
        state = {False: "clean", True: "uncommitted changes", None: "unknown"}
        detail = state[candidate.git_dirty]
        checks.append(_check("trained from committed code", candidate.git_dirty is False, detail))
    if gate.require_sandbox:
        isolation = {True: "isolated", False: "not isolated", None: "no program ran"}
        rule = "no generated program ran outside a sandbox"
        detail = isolation[candidate.sandboxed]
        checks.append(_check(rule, candidate.sandboxed is not False, detail))
    return checks


def _check_contamination(gate: GateConfig, candidate: Evidence) -> list[Check]:
    limit = gate.max_contaminated_documents
    if limit is None:
        return []
    if not candidate.contamination:
        return [_check("training corpora were searched for benchmarks", False, "unknown")]
    checks = []
    for benchmark, counts in sorted(candidate.contamination.items()):
        rule = (
            f"at most {limit:,} documents of the training corpora contained a part of {benchmark}"
        )
        not_searched = sorted(corpus for corpus, count in counts.items() if count is None)
        total = sum(count or 0 for count in counts.values())
        detail = f"{total:,}, all rejected"
        if not_searched:
            detail = f"not searched: {', '.join(not_searched)}"
        checks.append(_check(rule, not not_searched and total <= limit, detail))
    return checks


def _check_requirement(
    requirement: Requirement, candidate: Evidence, champion: Evidence | None
) -> list[Check]:
    label = requirement.label
    value = _mean(requirement, candidate.metrics)
    if value is None:
        return [_check(f"{label} is measured", False, "not measured for the candidate")]
    checks = []
    if requirement.threshold is not None:
        checks.append(check_threshold(requirement, candidate.metrics))
    if champion is None:
        detail = f"{value:.6g}, the first version"
        return [*checks, _check(f"{label} is measured", True, detail)]
    return [*checks, *_check_gain(requirement, label, value, candidate, champion)]


def check_threshold(requirement: Requirement, metrics: Mapping[str, float]) -> Check:
    """Check the absolute limit of a requirement, which must have one; fails without a value."""
    value = _mean(requirement, metrics)
    limit = requirement.threshold
    passed = False
    if value is not None and limit is not None:
        passed = value <= limit if requirement.better == "lower" else value >= limit
    rule = f"{requirement.label} is {requirement.limit}"
    return _check(rule, passed, "not measured" if value is None else f"{value:.6g}")


def _check_gain(
    requirement: Requirement, label: str, value: float, candidate: Evidence, champion: Evidence
) -> list[Check]:
    for benchmark in sorted({benchmark_of(metric) for metric in requirement.metrics}):
        if failed := _failed_protocol_check(benchmark, candidate, champion):
            return [failed]
    champion_value = _mean(requirement, champion.metrics)
    if champion_value is None:
        detail = "not measured for the champion; evaluate it first"
        return [_check(f"{label} is measured", False, detail)]
    gain = champion_value - value if requirement.better == "lower" else value - champion_value
    checks = [
        _check(
            f"{label} gains at least {requirement.min_gain:g} on the champion",
            gain >= requirement.min_gain,
            f"{value:.6g} against {champion_value:.6g}, a gain of {gain:.3g}",
        )
    ]
    if requirement.confidence is not None:
        level = requirement.confidence
        checks.append(_check_interval(requirement, level, label, candidate, champion))
    return checks


def _failed_protocol_check(benchmark: str, candidate: Evidence, champion: Evidence) -> Check | None:
    """Return the failed check if the protocols of a benchmark differ or are unknown."""
    candidate_protocol = candidate.protocols.get(benchmark)
    champion_protocol = champion.protocols.get(benchmark)
    if candidate_protocol is not None and candidate_protocol == champion_protocol:
        return None
    if candidate_protocol is None:
        problem = "unknown for the candidate"
    elif champion_protocol is None:
        problem = "unknown for the champion"
    else:
        problem = "; ".join(protocol_differences(benchmark, candidate, champion))
    detail = f"{problem}; evaluate the champion the same way first"
    return _check(f"the same protocol of {benchmark} for both models", False, detail)


def _check_interval(
    requirement: Requirement, level: float, label: str, candidate: Evidence, champion: Evidence
) -> Check:
    rule = f"the {level:.4g} interval of {label}'s gain starts above {requirement.min_gain:g}"
    if problem := pairing_error(requirement.metrics, champion, candidate):
        return _check(rule, False, problem)
    # The gain is positive for an improvement: champion - candidate if lower is better.
    pair = (candidate, champion) if requirement.better == "lower" else (champion, candidate)
    interval = interval_of_difference(requirement.metrics, *pair, level)
    detail = f"{interval.low:.3g} to {interval.high:.3g}, over {interval.num_problems:,} problems"
    return _check(rule, interval.low > requirement.min_gain, detail)


def _mean(requirement: Requirement, metrics: Mapping[str, float]) -> float | None:
    """Return the mean of the required metrics; None if a metric is missing or NaN."""
    values = [metrics.get(metric, math.nan) for metric in requirement.metrics]
    return None if any(math.isnan(value) for value in values) else fmean(values)
