"""May this model become the champion? A pure function from evidence to a decision, with its reasons.

Design decision: the answer is a record of every check, passed or not, never an exception: a refused model is a result that
people look at. Figures count as comparable only under equal protocol fingerprints (same benchmark files, same held-out
bytes, same sampling). A person's word is one check more, of a model that passes all others. Not covered: that several
requirements are tested at once; each interval has its own level.
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
from components.registry.config import GateConfig, Requirement
from components.registry.evidence import (
    Evidence,
    benchmark_of,
    interval_of_difference,
    pairing_error,
    protocol_differences,
)

GATE_VERSION = 1
"""Raised when the same rules and figures may lead to another decision, so that refusals are looked at again."""
TIMED_OUT = "nobody"
"""Whose word it is where time ran out for a person's."""
_APPROVAL_RULE = "a person approves of it"

Outcome = Literal["promoted", "refused", "already champion", "rolled back"]


class Check(Config):
    """One rule, whether it holds, and the figures it was judged by."""

    rule: str
    passed: bool
    found: str


class Decision(Config):
    """The gate's answer and every check behind it."""

    outcome: Outcome
    checks: ListOrTuple[Check]

    @property
    def promoted(self) -> bool:
        """Whether the candidate takes the champion's place."""
        return self.outcome == "promoted"

    @property
    def reasons(self) -> tuple[str, ...]:
        """The checks that failed, as sentences."""
        return tuple(f"{check.rule}: {check.found}" for check in self.checks if not check.passed)

    @property
    def failed_a_rule(self) -> bool:
        """Whether a rule of the gate failed, and not only a person's approval."""
        return any(not check.passed and check.rule != _APPROVAL_RULE for check in self.checks)


class Approval(Config):
    """A person's word on one comparison, or that there was none."""

    approved: bool
    name: str
    """Whose word it is."""
    reason: str = ""
    champion: int | None
    """The version that was champion in the comparison; none where there was none."""


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
            fix=f"add promotion.requirements.{stage} to the recipe",
        )


def decide(
    gate: GateConfig, stage: str, candidate: Evidence, champion: Evidence | None
) -> Decision:
    """Judge a candidate of a stage against the present champion, or alone where there is none.

    Raises:
        ConfigError: the gate has no requirements for this stage.
    """
    if champion and champion.digest == candidate.digest:
        return Decision(outcome="already champion", checks=())
    require_rules(gate, stage)
    checks = [
        _logits(gate, candidate),
        *_provenance(gate, candidate),
        *_contamination(gate, candidate),
    ]
    for requirement in gate.requirements[stage]:
        checks += _requirement(requirement, candidate, champion)
    passed = all(check.passed for check in checks)
    return Decision(outcome="promoted" if passed else "refused", checks=tuple(checks))


def apply_approval(
    decision: Decision,
    gate: GateConfig,
    approval: Approval | None,
    champion: int | None,
    rolled_back: str = "",
) -> Decision:
    """The decision after a person's word, where one is given or wanted. A model that is refused needs none.

    Args:
        champion: the version that is champion now. A word on a comparison with another one does not count.
        rolled_back: who rolled this version back, and why, where somebody did: no gate alone makes it champion again.
    """
    if not decision.promoted or (
        approval is None and gate.approval == "automatic" and not rolled_back
    ):
        return decision
    if approval is None:
        passed, found = False, rolled_back or "nobody was asked; run the same command again"
    elif approval.champion != champion:
        passed = False
        found = (
            f"{approval.name} judged a comparison with {_version(approval.champion)}, and the champion is "
            f"{_version(champion)} by now; run the same command again"
        )
    else:
        passed, found = (
            approval.approved,
            f"{approval.name}: {approval.reason or 'no reason was given'}",
        )
    check = Check(rule=_APPROVAL_RULE, passed=passed, found=found)
    return Decision(outcome="promoted" if passed else "refused", checks=(*decision.checks, check))


def _version(number: int | None) -> str:
    return "no champion" if number is None else f"version {number}"


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
        checks.append(
            Check(
                rule="trained from committed code", passed=candidate.git_dirty is False, found=clean
            )
        )
    if gate.require_sandbox:
        isolation = {True: "isolated", False: "not isolated", None: "no program ran"}[
            candidate.sandboxed
        ]
        checks.append(
            Check(
                rule="no generated program ran outside a sandbox",
                passed=candidate.sandboxed is not False,
                found=isolation,
            )
        )
    return checks


def _contamination(gate: GateConfig, candidate: Evidence) -> list[Check]:
    if gate.max_contaminated_documents is None:
        return []
    if not candidate.contamination:
        return [
            Check(rule="its corpora were searched for benchmarks", passed=False, found="not stated")
        ]
    checks = []
    for benchmark, counts in sorted(candidate.contamination.items()):
        rule = f"at most {gate.max_contaminated_documents:,} documents of its corpora held a part of {benchmark}"
        blind = [corpus for corpus, count in counts.items() if count is None]
        total = sum(count for count in counts.values() if count is not None)
        passed = not blind and total <= gate.max_contaminated_documents
        found = (
            f"nobody looked in {', '.join(sorted(blind))}"
            if blind
            else f"{total:,}, which were left out"
        )
        checks.append(Check(rule=rule, passed=passed, found=found))
    return checks


def _requirement(
    requirement: Requirement, candidate: Evidence, champion: Evidence | None
) -> list[Check]:
    label = _label(requirement)
    own = _figure(requirement, candidate)
    if own is None:
        return [
            Check(rule=f"{label} is measured", passed=False, found="not measured for the candidate")
        ]
    checks = []
    if requirement.threshold is not None:
        bound = "at most" if requirement.better == "lower" else "at least"
        holds = (
            own <= requirement.threshold
            if requirement.better == "lower"
            else own >= requirement.threshold
        )
        checks.append(
            Check(
                rule=f"{label} is {bound} {requirement.threshold:g}",
                passed=holds,
                found=f"{own:.6g}",
            )
        )
    if champion is None:
        return [
            *checks,
            Check(
                rule=f"{label} is measured", passed=True, found=f"{own:.6g}, the first of its name"
            ),
        ]
    return [*checks, *_against(requirement, label, own, candidate, champion)]


def _against(
    requirement: Requirement, label: str, own: float, candidate: Evidence, champion: Evidence
) -> list[Check]:
    for benchmark in sorted({benchmark_of(name) for name in requirement.metrics}):
        if differing := _protocol(benchmark, candidate, champion):
            return [differing]
    theirs = _figure(requirement, champion)
    if theirs is None:
        found = "not measured for the champion; evaluate it first"
        return [Check(rule=f"{label} is measured", passed=False, found=found)]
    gain = theirs - own if requirement.better == "lower" else own - theirs
    checks = [
        Check(
            rule=f"{label} gains at least {requirement.min_gain:g} on the champion",
            passed=gain >= requirement.min_gain,
            found=f"{own:.6g} against {theirs:.6g}, a gain of {gain:.3g}",
        )
    ]
    if requirement.confidence is not None:
        checks.append(_interval(requirement, requirement.confidence, label, candidate, champion))
    return checks


def _protocol(benchmark: str, candidate: Evidence, champion: Evidence) -> Check | None:
    """The check that fails where a benchmark was run in different ways, or in ways that nobody stated."""
    ours, theirs = candidate.protocols.get(benchmark), champion.protocols.get(benchmark)
    if ours is not None and ours == theirs:
        return None
    if ours is None or theirs is None:
        found = f"{'candidate' if ours is None else 'champion'} unstated"
    else:
        found = "; ".join(protocol_differences(benchmark, candidate, champion))
    found = f"{found}; evaluate the champion the same way first"
    return Check(
        rule=f"{benchmark} was run by the same protocol for both", passed=False, found=found
    )


def _interval(
    requirement: Requirement, level: float, label: str, candidate: Evidence, champion: Evidence
) -> Check:
    rule = f"the {level:.4g} interval of {label}'s gain begins above {requirement.min_gain:g}"
    if reason := pairing_error(requirement.metrics, champion, candidate):
        return Check(rule=rule, passed=False, found=reason)
    # A gain is a difference in the direction that is better: where lower is, the champion's figure less the candidate's.
    pair = (candidate, champion) if requirement.better == "lower" else (champion, candidate)
    low, high, num_problems = interval_of_difference(requirement.metrics, *pair, level)
    found = f"{low:.3g} to {high:.3g}, over {num_problems:,} problems"
    return Check(rule=rule, passed=low > requirement.min_gain, found=found)


def _figure(requirement: Requirement, evidence: Evidence) -> float | None:
    values = [evidence.metrics.get(name, math.nan) for name in requirement.metrics]
    return None if any(math.isnan(value) for value in values) else fmean(values)


def _label(requirement: Requirement) -> str:
    return (
        requirement.metrics[0]
        if len(requirement.metrics) == 1
        else f"the mean of {', '.join(requirement.metrics)}"
    )
