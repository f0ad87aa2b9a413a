"""Metrics by problem from results of the scoring, and the evidence that is collected from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.report_programs import NO_JAIL, conversations, evaluated, functions
from fixtures.report_run import Run
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.files import read_json
from components.evaluation.sampling.samples import GeneratedSample
from components.evaluation.scoring.score_statistics import metrics_by_problem
from flows.steps.registration import collect_evidence, contamination, protocol_fingerprint


def by_temperature(label: str, sample: GeneratedSample) -> str:
    """Problem 2: all three at 0.2, one at 0.8. Problem 10: none at 0.2, one at 0.8."""
    passed = sample.problem.task_id.endswith("/2") if label == "t0.2" else sample.number == 0
    return f"    return x #: {'passed' if passed else 'wrong_answer'}"


def by_case(label: str, sample: GeneratedSample) -> str:
    """In several turns both cases of problem 1, and the first one of problem 2; in one turn
    nothing.
    """
    passed = label == "multi" and sample.problem.task_id in ("1/0", "1/1", "2/0")
    return f"print(1) #: {'passed' if passed else 'wrong_answer'}"


def read_metrics(run: Run, evaluation: Artifact) -> dict[str, dict[str, float]]:
    return metrics_by_problem(read_json(run.store.fetch_verified(evaluation) / "results.json"))


def version(artifact: Artifact) -> str:
    """The name with the version, such as `mono-6600f0dd1cf2`."""
    return artifact.label.removeprefix(f"{artifact.kind}/")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, statistics={"contaminated": {"humaneval": 3}})


@pytest.fixture
def humaneval(run: Run) -> Artifact:
    return evaluated(
        run,
        "multi",
        functions([2, 10], num_samples=3, temperatures=[0.8, 0.2], k=[1, 2]),
        by_temperature,
    )


def test_each_problem_has_its_pass_at_k_of_the_best_set(run: Run, humaneval: Artifact) -> None:
    # pass@1 is best at 0.2: all of three and none. pass@2 at 0.8: of 1 in 3 that pass, 1 -
    # C(2,2)/C(3,2), twice.
    metrics = read_metrics(run, humaneval)
    assert metrics["pass@1"] == {"HumanEval/2": 1.0, "HumanEval/10": 0.0}
    assert metrics["pass@2"] == pytest.approx({"HumanEval/2": 2 / 3, "HumanEval/10": 2 / 3})
    means = {name: sum(values.values()) / 2 for name, values in metrics.items()}
    assert means == pytest.approx(
        {name: humaneval.statistics[name] for name in ("pass@1", "pass@2")}
    )


def test_the_cases_of_a_conversation_are_one_problem(run: Run) -> None:
    evaluation = evaluated(run, "multi", conversations({1: ("string", 2), 2: ("math", 1)}), by_case)
    metrics = read_metrics(run, evaluation)
    assert metrics == {
        "pass_rate_multi": {"1": 1.0, "2": 0.5},
        "pass_rate_single": {"1": 0.0, "2": 0.0},
        "pass_rate_strict_multi": {"1": 1.0, "2": 0.5},
        "pass_rate_strict_single": {"1": 0.0, "2": 0.0},
    }
    assert evaluation.statistics["pass_rate_multi"] == 0.75


def test_without_execution_there_are_no_metrics(run: Run) -> None:
    assert read_metrics(run, evaluated(run, "multi", functions([2]), by_temperature, NO_JAIL)) == {}
    assert metrics_by_problem({"splits": {}}) == {}


def test_evidence_of_a_checkpoint_has_its_metrics_and_protocols(
    run: Run, humaneval: Artifact
) -> None:
    evidence = collect_evidence(run.store, run.checkpoints["multi"], {"humaneval": humaneval}, 1e-6)
    assert evidence.digest == run.checkpoints["multi"].digest
    assert evidence.metrics["humaneval/pass@1"] == 0.5
    assert evidence.by_problem["humaneval/pass@1"] == {"HumanEval/2": 1.0, "HumanEval/10": 0.0}
    assert evidence.protocols == {"humaneval": protocol_fingerprint(humaneval)}
    sets = evidence.settings["humaneval"]["sets"]
    assert isinstance(sets, dict)
    assert sorted(sets) == ["t0.2", "t0.8"]
    # mono comes later
    contaminated = {version(run.prepared[corpus]): 3 for corpus in ("nl", "multi")}
    assert evidence.contamination == {"humaneval": contaminated}
    assert evidence.sandboxed is True


def test_the_contamination_of_an_imported_model_is_unknown(run: Run) -> None:
    not_searched = contamination(run.store, run.checkpoints["nl"], "mtpb")
    assert not_searched == {version(run.prepared["nl"]): None}

    def build(folder: Path) -> dict[str, bool]:
        (folder / "config.json").write_text("{}")
        return {"imported": True}

    released = run.make("checkpoint", "released", {}, build)
    tuned = run.make(
        "checkpoint", "tuned", {"corpus": run.prepared["mono"], "initial": released}, lambda _: {}
    )
    assert contamination(run.store, tuned, "humaneval") == {
        version(run.prepared["mono"]): 3,
        version(released): None,
    }


def test_two_versions_of_a_corpus_are_both_counted(run: Run) -> None:
    def build(_: Path) -> dict[str, JsonValue]:
        return {"contaminated": {"humaneval": 0}}

    parents = {"raw": run.raw["mono"]}
    newer = run.store.get_or_build(
        "prepared-corpus",
        "mono",
        config={"version": 2},
        parents=parents,
        code_version=1,
        build=build,
    ).artifact
    tuned = run.make(
        "checkpoint", "tuned", {"corpus": newer, "initial": run.checkpoints["mono"]}, lambda _: {}
    )
    counts = contamination(run.store, tuned, "humaneval")
    assert counts == {version(corpus): 3 for corpus in run.prepared.values()} | {version(newer): 0}
    counts = contamination(run.store, tuned, "mtpb")
    assert counts == dict.fromkeys(map(version, (*run.prepared.values(), newer)))
