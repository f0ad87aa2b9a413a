"""The gate's rules one by one, on evidence written by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.config import Config
from components.core.errors import ConfigError
from components.registry.config import GateConfig, Requirement
from components.registry.gate import Evidence, decide, metrics_of

PYTHON = "bits_per_byte/mono/Python"
FIRST_TRY = "humaneval/pass@1"
GATE = GateConfig(requirements={"mono": (Requirement(metrics=(PYTHON,), limit=8.0),)})


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
    assert decide(GATE, "mono", evidence(figure, digest="other"), evidence(2.0)).promoted == promoted


def test_a_demanded_gain_has_to_be_reached() -> None:
    gate = GateConfig(requirements={"mono": (Requirement(metrics=(PYTHON,), min_gain=0.25),)})
    assert decide(gate, "mono", evidence(1.75), evidence(2.0)).promoted
    assert "a gain of 0.125" in reasons(gate, evidence(1.875), evidence(2.0))


def test_higher_may_be_better() -> None:
    gate = GateConfig(requirements={"mono": (Requirement(metrics=(FIRST_TRY,), better="higher", limit=0.1),)})
    protocols = {"humaneval": "b"}
    worse, better = (evidence(x, metrics={FIRST_TRY: x}, protocols=protocols) for x in (0.2, 0.3))
    assert decide(gate, "mono", better, worse).promoted
    assert "a gain of -0.1" in reasons(gate, worse, better)
    assert "at least 0.1: 0.05" in reasons(gate, evidence(0.05, metrics={FIRST_TRY: 0.05}, protocols=protocols))


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
    assert "not measured for the champion" in reasons(GATE, evidence(1.0), evidence(2.0, metrics={}))


@pytest.mark.parametrize("difference", [None, math.nan, math.inf, 2e-4])
def test_logits_must_be_huggingfaces(difference: float | None) -> None:
    assert "logits" in reasons(GATE, evidence(logit_difference=difference))


def test_the_sandbox_is_asked_for_when_programs_ran() -> None:
    assert "sandbox" in reasons(GATE, evidence(sandboxed=False))
    assert decide(GATE, "mono", evidence(sandboxed=None), None).promoted
    assert decide(GATE.replace(require_sandbox=False), "mono", evidence(sandboxed=False), None).promoted


@pytest.mark.parametrize("dirty", [True, None])
def test_clean_code_is_asked_for_where_the_recipe_says_so(dirty: bool | None) -> None:
    assert decide(GATE, "mono", evidence(git_dirty=dirty), None).promoted
    assert "committed code" in reasons(GATE.replace(require_clean_code=True), evidence(git_dirty=dirty))


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


@given(st.floats(0, 8), st.floats(0, 8), st.floats(0, 8))
def test_a_better_figure_never_turns_a_promotion_into_a_refusal(candidate: float, better: float, champion: float) -> None:
    better, candidate = sorted((better, candidate))
    judged = [decide(GATE, "mono", evidence(x, digest="new"), evidence(champion)).promoted for x in (candidate, better)]
    assert judged[1] >= judged[0]


@given(st.one_of(st.none(), st.floats(allow_nan=False)))
def test_evidence_survives_its_json(difference: float | None) -> None:
    before: Config = evidence(logit_difference=difference)
    after = Evidence.model_validate_json(before.model_dump_json())
    assert after == before or math.isinf(difference or 0)
