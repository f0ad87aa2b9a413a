"""The gate's rules one by one, on evidence written by hand."""

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


def evidence(figure: float = 2.0, **changes: object) -> Evidence:
    values = {
        "digest": f"{figure}",
        "metrics": {PYTHON: figure},
        "protocols": {"bits_per_byte": "a" * 64},
        "logit_difference": 1e-5,
        "sandboxed": True,
        "git_dirty": False,
    }
    return Evidence.parse({**values, **changes})


def reasons(gate: GateConfig, candidate: Evidence, champion: Evidence | None = None) -> str:
    decision = decide(gate, "mono", candidate, champion)
    assert decision.promoted == (not decision.reasons)
    return "; ".join(decision.reasons)


def test_the_first_model_is_promoted_when_it_holds_alone() -> None:
    decision = decide(GATE, "mono", evidence(), None)
    assert decision.promoted
    assert [check.passed for check in decision.checks] == [True] * 4


def test_a_first_model_that_knows_nothing_is_refused() -> None:
    assert "at most 8: 8.5" in reasons(GATE, evidence(8.5))


@pytest.mark.parametrize(("figure", "promoted"), [(1.9, True), (2.0, True), (2.1, False)])
def test_no_worse_than_the_champion(figure: float, promoted: bool) -> None:
    assert (
        decide(GATE, "mono", evidence(figure, digest="other"), evidence(2.0)).promoted == promoted
    )


def test_a_demanded_gain_has_to_be_reached() -> None:
    gate = GateConfig(requirements={"mono": (Requirement(metrics=(PYTHON,), min_gain=0.25),)})
    assert decide(gate, "mono", evidence(1.75), evidence(2.0)).promoted
    assert "a gain of 0.125" in reasons(gate, evidence(1.875), evidence(2.0))


def test_higher_may_be_better() -> None:
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


def test_several_metrics_count_by_their_mean() -> None:
    names = ("bits_per_byte/multi/C", "bits_per_byte/multi/C++")
    gate = GateConfig(requirements={"mono": (Requirement(metrics=names),)})
    before = evidence(1.0, metrics=dict(zip(names, (2.0, 3.0), strict=True)))
    after = evidence(2.0, metrics=dict(zip(names, (2.2, 2.7), strict=True)))
    assert decide(gate, "mono", after, before).promoted
    assert "2.5 against 2.45" in reasons(gate, before, after)


def test_other_protocols_are_refused_whatever_the_score() -> None:
    other = evidence(1.0, protocols={"bits_per_byte": "b" * 64})
    assert "same protocol" in reasons(GATE, other, evidence(2.0))
    assert "candidate unstated" in reasons(GATE, evidence(1.0, protocols={}), evidence(2.0))
    assert "champion unstated" in reasons(GATE, evidence(1.0), evidence(2.0, protocols={}))


def test_a_figure_that_was_not_measured_is_no_figure() -> None:
    assert "not measured for the candidate" in reasons(GATE, evidence(metrics={}))
    assert "not measured for the champion" in reasons(
        GATE, evidence(1.0), evidence(2.0, metrics={})
    )


@pytest.mark.parametrize("difference", [None, math.nan, math.inf, 2e-4])
def test_logits_must_be_huggingfaces(difference: float | None) -> None:
    assert "logits" in reasons(GATE, evidence(logit_difference=difference))


def test_the_sandbox_is_asked_for_when_programs_ran() -> None:
    assert "sandbox" in reasons(GATE, evidence(sandboxed=False))
    assert decide(GATE, "mono", evidence(sandboxed=None), None).promoted
    assert decide(
        GATE.replace(require_sandbox=False), "mono", evidence(sandboxed=False), None
    ).promoted


FOUR = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 0.25}
BETTER = {
    "a": 0.5,
    "b": 0.5,
    "c": 0.9,
    "d": 0.75,
}  # Gains 0.5, 0, -0.1, 0.5: 0.225 in the mean, at 95 % from -0.05 to 0.5.


def programs(values: dict[str, float], **changes: object) -> Evidence:
    known = {
        "metrics": {FIRST_TRY: sum(values.values()) / len(values)},
        "protocols": {"humaneval": "b"},
    }
    return evidence(
        **{"digest": f"{values}", **known, "by_problem": {FIRST_TRY: values}, **changes}
    )


def with_confidence(
    confidence: float | None, min_gain: float = 0.0, better: str = "higher"
) -> GateConfig:
    requirement = {
        "metrics": (FIRST_TRY,),
        "better": better,
        "confidence": confidence,
        "min_gain": min_gain,
    }
    return GateConfig(requirements={"mono": (Requirement.parse(requirement),)})


def test_a_gain_that_may_be_luck_is_refused_where_confidence_is_asked_for() -> None:
    champion, candidate = programs(FOUR), programs(BETTER)
    assert decide(with_confidence(None), "mono", candidate, champion).promoted
    assert "-0.05 to 0.5, over 4 problems" in reasons(with_confidence(0.95), candidate, champion)
    assert decide(
        with_confidence(0.5, min_gain=0.09), "mono", candidate, champion
    ).promoted  # From 0.1 to 0.35.
    assert "begins above 0.11" in reasons(with_confidence(0.5, min_gain=0.11), candidate, champion)


def test_a_tie_shows_no_gain() -> None:
    """As where neither of two small models solves anything: both figures are 0, and so is the interval."""
    nothing = dict.fromkeys(FOUR, 0.0)
    champion, candidate = programs(nothing, digest="one"), programs(nothing, digest="two")
    assert decide(with_confidence(None), "mono", candidate, champion).promoted
    assert "0 to 0, over 4 problems" in reasons(with_confidence(0.95), candidate, champion)
    assert decide(with_confidence(0.95, min_gain=-0.01), "mono", candidate, champion).promoted


def test_where_lower_is_better_the_interval_is_of_the_gain_all_the_same() -> None:
    gate = with_confidence(0.5, min_gain=0.09, better="lower")
    assert decide(gate, "mono", programs(FOUR), programs(BETTER)).promoted
    assert "-0.35 to -0.1" in reasons(gate, programs(BETTER), programs(FOUR))


def test_confidence_needs_figures_by_problem_of_both() -> None:
    assert "no figures of" in reasons(
        with_confidence(0.95), programs(BETTER), programs(FOUR, by_problem={})
    )
    assert "no figures of" in reasons(
        with_confidence(0.95), programs(BETTER, by_problem={}), programs(FOUR)
    )
    assert decide(
        with_confidence(0.95), "mono", programs(BETTER, by_problem={}), None
    ).promoted  # Against nobody.


def test_other_protocols_are_refused_with_the_field_that_differs() -> None:
    sets = (
        {"t0.2": {"temperature": 0.2}},
        {"t0.2": {"temperature": 0.2}, "t0.6": {"temperature": 0.6}},
    )
    champion = programs(FOUR, settings={"humaneval": {"sets": sets[0]}})
    candidate = programs(
        BETTER, settings={"humaneval": {"sets": sets[1]}}, protocols={"humaneval": "c"}
    )
    (check,) = (
        one
        for one in decide(with_confidence(0.5), "mono", candidate, champion).checks
        if not one.passed
    )
    assert check.rule == "humaneval was run by the same protocol for both"
    assert (
        check.detail
        == "sets differs: t0.2, t0.6 against t0.2; evaluate the champion the same way first"
    )


@pytest.mark.parametrize(
    ("contamination", "reason"),
    [
        ({"humaneval": {"nl": 0, "mono": 3}}, None),
        ({"humaneval": {"nl": 1, "mono": 3}}, "humaneval: 4, which were left out"),
        (
            {"humaneval": {"nl": 0, "mono": 0}, "mtpb": {"nl": None, "mono": 0}},
            "mtpb: nobody looked in nl",
        ),
        ({}, "searched for benchmarks: not stated"),
    ],
)
def test_contamination_stays_below_the_limit(
    contamination: dict[str, dict[str, int | None]], reason: str | None
) -> None:
    gate, candidate = (
        GATE.replace(max_contaminated_documents=3),
        evidence(contamination=contamination),
    )
    assert decide(GATE, "mono", candidate, None).promoted
    assert (reason is None) == decide(gate, "mono", candidate, None).promoted
    assert (reason or "") in reasons(gate, candidate)


PERSON = GATE.replace(approval="person")
YES, NO = (
    Approval(approved=word, name="grace", reason="I looked", champion=1) for word in (True, False)
)


@pytest.mark.parametrize(
    ("gate", "approval", "champion", "promoted"),
    [
        (GATE, None, 1, True),
        (PERSON, None, 1, False),
        (PERSON, YES, 1, True),
        (PERSON, YES, 2, False),
        (PERSON, YES, None, False),
        (PERSON, NO, 1, False),
        (GATE, NO, 1, False),
    ],
)
def test_a_persons_word_is_the_last(
    gate: GateConfig, approval: Approval | None, champion: int | None, promoted: bool
) -> None:
    decision = apply_approval(decide(gate, "mono", evidence(), None), gate, approval, champion)
    assert decision.promoted == promoted == (not decision.reasons)


def test_a_persons_word_cannot_save_what_the_gate_refuses() -> None:
    refused = decide(PERSON, "mono", evidence(9.0), None)
    assert apply_approval(refused, PERSON, YES, 1) == refused


@pytest.mark.parametrize("dirty", [True, None])
def test_clean_code_is_asked_for_where_the_recipe_says_so(dirty: bool | None) -> None:
    assert decide(GATE, "mono", evidence(git_dirty=dirty), None).promoted
    assert "committed code" in reasons(
        GATE.replace(require_clean_code=True), evidence(git_dirty=dirty)
    )


def test_the_champion_itself_is_not_judged_again() -> None:
    decision = decide(GATE, "mono", evidence(9.0, digest="same"), evidence(2.0, digest="same"))
    assert (decision.outcome, decision.promoted, decision.checks) == ("already champion", False, ())


def test_a_stage_without_requirements_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="'nl'"):
        decide(GATE, "nl", evidence(), None)
    with pytest.raises(ConfigError, match="'nl'"):
        decide(GateConfig(requirements={"nl": ()}), "nl", evidence(), None)


def test_every_stage_answers_for_its_own_domain_by_default() -> None:
    required = GateConfig().requirements
    assert required["nl"][0].metrics == ("bits_per_byte/nl/English",)
    assert len(required["multi"][0].metrics) == 6
    assert required["mono"][0].metrics == (PYTHON,)


def test_figures_of_evaluations_are_named_by_benchmark(make_evaluation) -> None:
    metrics = metrics_of({"bits_per_byte": make_evaluation(2.5)})
    assert metrics == {"bits_per_byte/mono/Python": 2.5, "bits_per_byte/multi/C++": 3.5}


@settings(deadline=None)
@given(st.floats(0, 8), st.floats(0, 8), st.floats(0, 8))
def test_a_better_figure_never_turns_a_promotion_into_a_refusal(
    candidate: float, better: float, champion: float
) -> None:
    better, candidate = sorted((better, candidate))
    judged = [
        decide(GATE, "mono", evidence(x, digest="new"), evidence(champion)).promoted
        for x in (candidate, better)
    ]
    assert judged[1] >= judged[0]


@settings(deadline=None)
@given(st.one_of(st.none(), st.floats(allow_nan=False)))
def test_evidence_survives_its_json(difference: float | None) -> None:
    before: Config = evidence(logit_difference=difference)
    after = Evidence.model_validate_json(before.model_dump_json())
    assert after == before or math.isinf(difference or 0)
