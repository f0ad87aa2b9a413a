"""Every rule of the gate, with hand-written evidence."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.config import Config
from components.core.errors import ConfigError
from components.registry.config import GateConfig, Requirement
from components.registry.evidence import Evidence
from components.registry.gate import Approval, apply_approval, decide, metrics_of

PYTHON = "bits_per_byte/mono/Python"
FIRST_TRY = "humaneval/pass@1"
GATE = GateConfig(requirements={"mono": (Requirement(metrics=(PYTHON,), threshold=8.0),)})


def evidence(value: float = 2.0, **changes: object) -> Evidence:
    fields = {
        "digest": f"{value}",
        "metrics": {PYTHON: value},
        "protocols": {"bits_per_byte": "a" * 64},
        "logit_difference": 1e-5,
        "sandboxed": True,
        "git_dirty": False,
    }
    return Evidence.parse({**fields, **changes})


def reasons(gate: GateConfig, candidate: Evidence, champion: Evidence | None = None) -> str:
    decision = decide(gate, "mono", candidate, champion)
    assert decision.promoted == (not decision.reasons)
    return "; ".join(decision.reasons)


def test_the_first_model_is_promoted_if_its_own_checks_pass() -> None:
    decision = decide(GATE, "mono", evidence(), None)
    assert decision.promoted
    assert [check.passed for check in decision.checks] == [True] * 4


def test_a_first_model_above_the_threshold_is_refused() -> None:
    assert "at most 8: 8.5" in reasons(GATE, evidence(8.5))


@pytest.mark.parametrize(("value", "promoted"), [(1.9, True), (2.0, True), (2.1, False)])
def test_a_candidate_may_not_be_worse_than_the_champion(value: float, promoted: bool) -> None:
    candidate = evidence(value, digest="other")
    assert decide(GATE, "mono", candidate, evidence(2.0)).promoted == promoted


def test_a_minimum_gain_must_be_reached() -> None:
    gate = GateConfig(requirements={"mono": (Requirement(metrics=(PYTHON,), min_gain=0.25),)})
    assert decide(gate, "mono", evidence(1.75), evidence(2.0)).promoted
    assert "a gain of 0.125" in reasons(gate, evidence(1.875), evidence(2.0))


def test_a_metric_can_improve_upwards() -> None:
    gate = GateConfig(
        requirements={"mono": (Requirement(metrics=(FIRST_TRY,), better="higher", threshold=0.1),)}
    )
    protocols = {"humaneval": "b"}
    worse, better = (evidence(x, metrics={FIRST_TRY: x}, protocols=protocols) for x in (0.2, 0.3))
    assert decide(gate, "mono", better, worse).promoted
    assert "a gain of -0.1" in reasons(gate, worse, better)
    assert "at least 0.1: 0.05" in reasons(
        gate, evidence(0.05, metrics={FIRST_TRY: 0.05}, protocols=protocols)
    )


def test_several_metrics_are_compared_by_their_mean() -> None:
    names = ("bits_per_byte/multi/C", "bits_per_byte/multi/C++")
    gate = GateConfig(requirements={"mono": (Requirement(metrics=names),)})
    champion = evidence(1.0, metrics=dict(zip(names, (2.0, 3.0), strict=True)))
    candidate = evidence(2.0, metrics=dict(zip(names, (2.2, 2.7), strict=True)))
    assert decide(gate, "mono", candidate, champion).promoted
    assert "2.5 against 2.45" in reasons(gate, champion, candidate)


def test_a_different_protocol_is_refused_whatever_the_metrics() -> None:
    other = evidence(1.0, protocols={"bits_per_byte": "b" * 64})
    assert "same protocol" in reasons(GATE, other, evidence(2.0))
    assert "unknown for the candidate" in reasons(GATE, evidence(1.0, protocols={}), evidence(2.0))
    assert "unknown for the champion" in reasons(GATE, evidence(1.0), evidence(2.0, protocols={}))


def test_a_missing_metric_is_refused() -> None:
    assert "not measured for the candidate" in reasons(GATE, evidence(metrics={}))
    assert "not measured for the champion" in reasons(
        GATE, evidence(1.0), evidence(2.0, metrics={})
    )


@pytest.mark.parametrize("difference", [None, math.nan, math.inf, 2e-4])
def test_logits_that_differ_from_huggingface_are_refused(difference: float | None) -> None:
    assert "logits" in reasons(GATE, evidence(logit_difference=difference))


def test_programs_without_a_sandbox_are_refused() -> None:
    assert "sandbox" in reasons(GATE, evidence(sandboxed=False))
    assert decide(GATE, "mono", evidence(sandboxed=None), None).promoted
    assert decide(
        GATE.replace(require_sandbox=False), "mono", evidence(sandboxed=False), None
    ).promoted


CHAMPION_VALUES = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 0.25}
CANDIDATE_VALUES = {"a": 0.5, "b": 0.5, "c": 0.9, "d": 0.75}
"""Gains 0.5, 0, -0.1, 0.5; mean 0.225, 95 % interval -0.05 to 0.5."""


def problem_evidence(values: dict[str, float], **changes: object) -> Evidence:
    fields = {
        "digest": f"{values}",
        "metrics": {FIRST_TRY: sum(values.values()) / len(values)},
        "protocols": {"humaneval": "b"},
        "by_problem": {FIRST_TRY: values},
    }
    return evidence(**{**fields, **changes})


def gate_with_confidence(
    confidence: float | None, min_gain: float = 0.0, better: str = "higher"
) -> GateConfig:
    requirement = {
        "metrics": (FIRST_TRY,),
        "better": better,
        "confidence": confidence,
        "min_gain": min_gain,
    }
    return GateConfig(requirements={"mono": (Requirement.parse(requirement),)})


def test_an_uncertain_gain_is_refused_if_the_gate_requires_confidence() -> None:
    champion = problem_evidence(CHAMPION_VALUES)
    candidate = problem_evidence(CANDIDATE_VALUES)
    assert decide(gate_with_confidence(None), "mono", candidate, champion).promoted
    assert "-0.05 to 0.5, over 4 problems" in reasons(
        gate_with_confidence(0.95), candidate, champion
    )
    # The interval is 0.1 to 0.35.
    assert decide(gate_with_confidence(0.5, min_gain=0.09), "mono", candidate, champion).promoted
    assert "starts above 0.11" in reasons(
        gate_with_confidence(0.5, min_gain=0.11), candidate, champion
    )


def test_a_tie_is_no_gain() -> None:
    """Two small models that solve no problem: the values are 0, and so is the interval."""
    zeros = dict.fromkeys(CHAMPION_VALUES, 0.0)
    champion = problem_evidence(zeros, digest="one")
    candidate = problem_evidence(zeros, digest="two")
    assert decide(gate_with_confidence(None), "mono", candidate, champion).promoted
    assert "0 to 0, over 4 problems" in reasons(gate_with_confidence(0.95), candidate, champion)
    assert decide(gate_with_confidence(0.95, min_gain=-0.01), "mono", candidate, champion).promoted


def test_the_interval_is_of_the_gain_if_lower_is_better() -> None:
    gate = gate_with_confidence(0.5, min_gain=0.09, better="lower")
    assert decide(
        gate, "mono", problem_evidence(CHAMPION_VALUES), problem_evidence(CANDIDATE_VALUES)
    ).promoted
    assert "-0.35 to -0.1" in reasons(
        gate, problem_evidence(CANDIDATE_VALUES), problem_evidence(CHAMPION_VALUES)
    )


def test_confidence_needs_values_by_problem_of_both_models() -> None:
    assert "no values by problem of" in reasons(
        gate_with_confidence(0.95),
        problem_evidence(CANDIDATE_VALUES),
        problem_evidence(CHAMPION_VALUES, by_problem={}),
    )
    assert "no values by problem of" in reasons(
        gate_with_confidence(0.95),
        problem_evidence(CANDIDATE_VALUES, by_problem={}),
        problem_evidence(CHAMPION_VALUES),
    )
    # There is no champion.
    assert decide(
        gate_with_confidence(0.95), "mono", problem_evidence(CANDIDATE_VALUES, by_problem={}), None
    ).promoted


def test_a_refusal_for_the_protocol_names_the_differing_field() -> None:
    sets = (
        {"t0.2": {"temperature": 0.2}},
        {"t0.2": {"temperature": 0.2}, "t0.6": {"temperature": 0.6}},
    )
    champion = problem_evidence(CHAMPION_VALUES, settings={"humaneval": {"sets": sets[0]}})
    candidate = problem_evidence(
        CANDIDATE_VALUES, settings={"humaneval": {"sets": sets[1]}}, protocols={"humaneval": "c"}
    )
    checks = decide(gate_with_confidence(0.5), "mono", candidate, champion).checks
    (check,) = (check for check in checks if not check.passed)
    assert check.rule == "the same protocol of humaneval for both models"
    assert (
        check.detail
        == "sets differs: t0.2, t0.6 against t0.2; evaluate the champion the same way first"
    )


@pytest.mark.parametrize(
    ("contamination", "reason"),
    [
        ({"humaneval": {"nl": 0, "mono": 3}}, None),
        ({"humaneval": {"nl": 1, "mono": 3}}, "humaneval: 4, all rejected"),
        (
            {"humaneval": {"nl": 0, "mono": 0}, "mtpb": {"nl": None, "mono": 0}},
            "mtpb: not searched: nl",
        ),
        ({}, "searched for benchmarks: unknown"),
    ],
)
def test_contamination_above_the_maximum_or_unknown_is_refused(
    contamination: dict[str, dict[str, int | None]], reason: str | None
) -> None:
    gate = GATE.replace(max_contaminated_documents=3)
    candidate = evidence(contamination=contamination)
    assert decide(GATE, "mono", candidate, None).promoted
    assert (reason is None) == decide(gate, "mono", candidate, None).promoted
    assert (reason or "") in reasons(gate, candidate)


MANUAL = GATE.replace(approval="manual")
APPROVED = Approval(approved=True, name="grace", reason="reviewed", champion=1)
REJECTED = APPROVED.replace(approved=False)


@pytest.mark.parametrize(
    ("gate", "approval", "champion", "promoted"),
    [
        (GATE, None, 1, True),
        (MANUAL, None, 1, False),
        (MANUAL, APPROVED, 1, True),
        (MANUAL, APPROVED, 2, False),
        (MANUAL, APPROVED, None, False),
        (MANUAL, REJECTED, 1, False),
        (GATE, REJECTED, 1, False),
    ],
)
def test_the_reviewer_makes_the_final_decision(
    gate: GateConfig, approval: Approval | None, champion: int | None, promoted: bool
) -> None:
    decision = apply_approval(decide(gate, "mono", evidence(), None), gate, approval, champion)
    assert decision.promoted == promoted == (not decision.reasons)


def test_an_approval_does_not_override_a_refusal_by_a_rule() -> None:
    refused = decide(MANUAL, "mono", evidence(9.0), None)
    assert apply_approval(refused, MANUAL, APPROVED, 1) == refused


@pytest.mark.parametrize("dirty", [True, None])
def test_uncommitted_code_is_refused_if_the_gate_requires_clean_code(dirty: bool | None) -> None:
    assert decide(GATE, "mono", evidence(git_dirty=dirty), None).promoted
    assert "committed code" in reasons(
        GATE.replace(require_clean_code=True), evidence(git_dirty=dirty)
    )


def test_the_champion_is_not_evaluated_against_itself() -> None:
    decision = decide(GATE, "mono", evidence(9.0, digest="same"), evidence(2.0, digest="same"))
    assert (decision.outcome, decision.promoted, decision.checks) == ("already_champion", False, ())


def test_a_stage_without_requirements_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'nl'"):
        decide(GATE, "nl", evidence(), None)
    with pytest.raises(ConfigError, match="'nl'"):
        decide(GateConfig(requirements={"nl": ()}), "nl", evidence(), None)


def test_metrics_of_evaluations_are_prefixed_with_the_benchmark(make_evaluation) -> None:
    metrics = metrics_of({"bits_per_byte": make_evaluation(2.5)})
    assert metrics == {"bits_per_byte/mono/Python": 2.5, "bits_per_byte/multi/C++": 3.5}


@settings(deadline=None)
@given(st.floats(0, 8), st.floats(0, 8), st.floats(0, 8))
def test_a_better_metric_never_turns_a_promotion_into_a_refusal(
    first: float, second: float, champion: float
) -> None:
    def is_promoted(value: float) -> bool:
        return decide(GATE, "mono", evidence(value, digest="new"), evidence(champion)).promoted

    better, worse = sorted((first, second))  # Lower is better.
    assert is_promoted(better) >= is_promoted(worse)


@settings(deadline=None)
@given(st.one_of(st.none(), st.floats(allow_nan=False)))
def test_evidence_is_equal_after_a_json_round_trip(difference: float | None) -> None:
    original: Config = evidence(logit_difference=difference)
    restored = Evidence.model_validate_json(original.model_dump_json())
    assert restored == original or math.isinf(difference or 0)
