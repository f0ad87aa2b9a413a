"""Evaluation of every checkpoint: bits per byte, HumanEval, MTPB. Runs alone, or as a part of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.errors import EvaluationError
from components.core.files import read_jsonl
from flows.desk import Desk, desk
from flows.execution import Execution
from flows.inputs import check_inputs
from flows.prepare import Corpora, prepare
from flows.recipes import Recipe
from flows.train import train

if TYPE_CHECKING:  # They would import more than a flow needs to be looked at.
    from components.evaluation.problems import FoundMtpb
    from components.evaluation.report.results import Measurement
    from components.registry.runs import TrackedRun


class Evaluations(Config):
    """What was measured of each stage's checkpoint, and what was left out and why."""

    bits_per_byte: dict[str, Artifact]
    humaneval: dict[str, Artifact]
    mtpb: dict[str, Artifact]
    skipped: dict[str, str]
    """Benchmark to reason."""

    def of(self, stage: str) -> dict[str, Artifact]:
        """The measurements of one stage by benchmark."""
        named = {"bits_per_byte": self.bits_per_byte, "humaneval": self.humaneval, "mtpb": self.mtpb}
        return {name: group[stage] for name, group in named.items() if stage in group}

    def by_stage(self) -> dict[tuple[str, Measurement], Artifact]:
        """All measurements, by stage and benchmark."""
        named: dict[Measurement, dict[str, Artifact]] = {
            "bits-per-byte": self.bits_per_byte,
            "humaneval": self.humaneval,
            "mtpb": self.mtpb,
        }
        return {(stage, name): one for name, group in named.items() for stage, one in group.items()}


@flow(name="evaluate", flow_run_name="evaluate {recipe.name}")
def evaluate(
    recipe: Recipe,
    execution: Execution,
    corpora: Corpora | None = None,
    checkpoints: dict[str, Artifact] | None = None,
    parent_run: str | None = None,
) -> Evaluations:
    """Measure every checkpoint. What is not given is prepared and trained first."""
    if parent_run is None:  # The pipeline has checked already.
        check_inputs(recipe, execution)
    corpora = corpora or prepare(recipe, execution, parent_run=parent_run)
    checkpoints = checkpoints or train(recipe, execution, corpora, parent_run=parent_run)
    with desk(recipe, execution, "evaluate", parent_run) as here:
        isolation, mtpb = _isolation(here), _mtpb_file(here)
        return Evaluations(
            bits_per_byte={stage: _bits_per_byte(here, stage, one, corpora) for stage, one in checkpoints.items()},
            humaneval={stage: _humaneval(here, stage, one, isolation) for stage, one in checkpoints.items()},
            mtpb={stage: _mtpb(here, stage, one, isolation, mtpb.path) for stage, one in checkpoints.items()}
            if mtpb.path
            else {},
            skipped={} if mtpb.path else {"mtpb": mtpb.missing},
        )


def _isolation(here: Desk) -> str:
    """What isolates programs here, or an empty string: part of a score's recipe, since without it there is no score."""
    from components.evaluation.sandbox import probe

    report = here.task("test the sandbox", lambda _: probe(unsafe=here.execution.unsafe_execution))
    if not report.available:
        here.warn(f"nothing that a model writes is executed: {report.missing}; {report.remedy}")
    elif not report.isolated:
        here.warn("what a model writes is executed without isolation, as asked: no model measured so is promoted")
    return report.isolation


def _mtpb_file(here: Desk) -> FoundMtpb:
    from components.evaluation.problems import find_mtpb

    execution = here.execution
    found = here.task("find MTPB", lambda _: find_mtpb(execution.mtpb_file, execution.workspace_path / "cache"))
    if not found.path:
        here.warn(f"MTPB is skipped: {found.missing}")
    return found


def _bits_per_byte(here: Desk, stage: str, checkpoint: Artifact, corpora: Corpora) -> Artifact:
    from components.evaluation.held_out import CODE_VERSION, run_bits_per_byte

    limit = here.recipe.evaluation.held_out_max_sequences

    def build(folder: Path, run: TrackedRun) -> dict[str, JsonValue]:
        statistics = run_bits_per_byte(
            folder,
            checkpoint=here.store.open(checkpoint),
            prepared={corpus: here.store.open(one) for corpus, one in corpora.prepared.items()},
            max_sequences=limit,
        )
        _keep(folder, run)
        return statistics

    return here.make(
        f"bits per byte of {stage}",
        "evaluation",
        f"{checkpoint.name}-bits-per-byte",
        config={"max_sequences": limit},
        parents={"checkpoint": checkpoint} | corpora.prepared,
        code_version=CODE_VERSION,
        tags={"stage": stage, "benchmark": "bits-per-byte"},
        build=build,
    )


def _humaneval(here: Desk, stage: str, checkpoint: Artifact, isolation: str) -> Artifact:
    from components.evaluation.humaneval import CODE_VERSION, run_humaneval

    config = here.recipe.evaluation.humaneval
    run = partial(run_humaneval, config=config)
    return _programs(here, "HumanEval", stage, checkpoint, isolation, config, CODE_VERSION, run)


def _mtpb(here: Desk, stage: str, checkpoint: Artifact, isolation: str, problems: Path) -> Artifact:
    from components.evaluation.mtpb import CODE_VERSION, run_mtpb

    config = here.recipe.evaluation.mtpb
    run = partial(run_mtpb, config=config, problems_file=problems)
    return _programs(here, "MTPB", stage, checkpoint, isolation, config, CODE_VERSION, run)


def _programs(
    here: Desk,
    benchmark: str,
    stage: str,
    checkpoint: Artifact,
    isolation: str,
    config: Config,
    code_version: int,
    run_benchmark: Callable[..., dict[str, JsonValue]],
) -> Artifact:
    """Measure a checkpoint by the programs that it writes: sampled, executed in isolation or not at all, and kept."""
    from components.evaluation.sampling import Sampler

    def build(folder: Path, run: TrackedRun) -> dict[str, JsonValue]:
        sampler = Sampler(here.store.open(checkpoint))
        execution = here.execution
        statistics = run_benchmark(
            folder,
            sampler=sampler,
            workers=execution.evaluation_workers,
            seed=here.recipe.seed,
            unsafe=execution.unsafe_execution,
        )
        _require_isolation(isolation, statistics)
        _keep(folder, run)
        return statistics

    return here.make(
        f"{benchmark} of {stage}",
        "evaluation",
        f"{checkpoint.name}-{benchmark.lower()}",
        config={"benchmark": config.model_dump(mode="json"), "seed": here.recipe.seed, "isolation": isolation},
        parents={"checkpoint": checkpoint},
        code_version=code_version,
        tags={"stage": stage, "benchmark": benchmark.lower()},
        build=build,
    )


def _require_isolation(isolation: str, statistics: dict[str, JsonValue]) -> None:
    """Refuse to publish a score whose programs ran otherwise than its recipe states.

    Raises:
        EvaluationError: the sandbox passed its self-test a moment ago and failed it now, or the other way round.
    """
    if (statistics["sandbox"] or "") != isolation:
        raise EvaluationError(
            f"programs ran in {statistics['sandbox'] or 'no sandbox'} ({statistics['reason']})",
            expected=f"{isolation or 'no sandbox'}, as the probe at the start of the evaluation found",
            do="run the same command again; if it stays so, see `codegen doctor`",
        )


def _keep(folder: Path, run: TrackedRun) -> None:
    """The evaluation's files as the run's artifacts: results, and the samples as a table that MLflow compares."""
    for path in sorted(folder.glob("*.json*")):
        run.file(path)
    samples = folder / "samples.jsonl"
    if samples.exists():
        columns = ("task_id", "sample", "seed", "outcome", "raised")
        rows = [{name: row[name] for name in columns} for row in read_jsonl(samples)]
        run.table("samples.json", rows)
