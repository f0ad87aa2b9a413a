"""Evaluation of every checkpoint: bits per byte, HumanEval, MTPB. Runs alone, or as a part of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.config import Config
from flows.prepare import PreparedData, prepare
from flows.runtime.context import FlowContext, open_flow_context
from flows.runtime.prefect_artifacts import show_scores
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.benchmark import BenchmarkSession, log_evaluation_files, run_benchmark
from flows.steps.corpora import corpus_uri
from flows.steps.init_model import initial_of
from flows.steps.preflight import preflight_check
from flows.train import train

if TYPE_CHECKING:  # They would import more than a flow needs to be looked at.
    from components.evaluation.benchmarks.problems import FoundMtpb
    from components.registry.tracking import TrackedRun
    from components.report.results import Measurement


class Evaluations(Config):
    """What was measured of each stage's checkpoint, and what was left out and why."""

    bits_per_byte: dict[str, Artifact]
    humaneval: dict[str, Artifact]
    mtpb: dict[str, Artifact]
    skipped: dict[str, str]
    """Benchmark to reason."""

    def of(self, stage: str) -> dict[str, Artifact]:
        """The measurements of one stage by benchmark."""
        named = {
            "bits_per_byte": self.bits_per_byte,
            "humaneval": self.humaneval,
            "mtpb": self.mtpb,
        }
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
    corpora: PreparedData | None = None,
    checkpoints: dict[str, Artifact] | None = None,
    parent_run: str | None = None,
) -> Evaluations:
    """Measure every checkpoint. What is not given is prepared and trained first."""
    if parent_run is None:  # The pipeline has checked already.
        preflight_check(recipe, execution)
    initial = None if checkpoints else initial_of(recipe, execution, parent_run)
    corpora = corpora or prepare(recipe, execution, parent_run=parent_run, initial=initial)
    checkpoints = checkpoints or train(
        recipe, execution, corpora, parent_run=parent_run, initial=initial
    )
    with open_flow_context(recipe, execution, "evaluate", parent_run) as here:
        here.run.tracking.register_dvc_md5(corpora.raw.values())
        mtpb = _mtpb_file(here)
        bits, humaneval, talks = {}, {}, {}
        with BenchmarkSession(here) as bench:
            for stage, one in checkpoints.items():
                bits[stage] = _bits_per_byte(here, stage, one, corpora)
                humaneval[stage] = _humaneval(here, stage, one, bench)
                if mtpb.path:
                    talks[stage] = _mtpb(here, stage, one, bench, mtpb.path)
        skipped = {} if mtpb.path else {"mtpb": mtpb.missing}
        made = Evaluations(bits_per_byte=bits, humaneval=humaneval, mtpb=talks, skipped=skipped)
        show_scores(here, checkpoints, corpora.prepared, made.by_stage(), skipped)
    return made


def _mtpb_file(here: FlowContext) -> MtpbFile:
    from components.evaluation.benchmarks.mtpb import find_mtpb

    execution = here.execution
    found = here.task(
        "find MTPB", lambda _: find_mtpb(execution.mtpb_path, execution.workspace_path / "cache")
    )
    if not found.path:
        here.warn(f"MTPB is skipped: {found.missing}")
    return found


def _bits_per_byte(
    here: FlowContext, stage: str, checkpoint: Artifact, corpora: PreparedData
) -> Artifact:
    from components.evaluation.bits_per_byte import CODE_VERSION, run_bits_per_byte

    limit, place = here.recipe.evaluation.held_out_max_sequences, here.execution.training

    def build(folder: Path, run: TrackedRun) -> dict[str, JsonValue]:
        statistics = run_bits_per_byte(
            folder,
            checkpoint=here.store.fetch_verified(checkpoint),
            prepared={
                corpus: corpus_uri(here.store, one, place)
                for corpus, one in corpora.prepared.items()
            },
            max_sequences=limit,
            streaming=place.streaming,
        )
        log_evaluation_files(folder, run)
        return statistics

    return here.get_or_build(
        f"bits per byte of {stage}",
        "evaluation",
        f"{checkpoint.name}-bits-per-byte",
        config={"max_sequences": limit},
        parents={"checkpoint": checkpoint} | corpora.prepared,
        code_version=CODE_VERSION,
        tags={"stage": stage, "benchmark": "bits_per_byte"},
        build=build,
    )


def _humaneval(
    here: FlowContext, stage: str, checkpoint: Artifact, bench: BenchmarkSession
) -> Artifact:
    from components.evaluation.benchmarks.humaneval import build_protocol

    return run_benchmark(
        here,
        "HumanEval",
        stage,
        checkpoint,
        build_protocol(here.recipe.evaluation.humaneval),
        bench,
    )


def _mtpb(
    here: FlowContext, stage: str, checkpoint: Artifact, bench: BenchmarkSession, problems: Path
) -> Artifact:
    from components.evaluation.benchmarks.mtpb import build_protocol

    return run_benchmark(
        here,
        "MTPB",
        stage,
        checkpoint,
        build_protocol(here.recipe.evaluation.mtpb, problems),
        bench,
    )
