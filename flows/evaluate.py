"""Evaluation of every checkpoint: bits per byte, HumanEval, MTPB. Runs alone, or as a part of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.config import Config
from flows.corpora import corpus_place
from flows.desk import Desk, desk
from flows.execution import Execution
from flows.initial import initial_of
from flows.inputs import check_inputs
from flows.measure import Bench, keep, measure
from flows.prepare import Corpora, prepare
from flows.recipes import Recipe
from flows.showing import show_scores
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
    initial = None if checkpoints else initial_of(recipe, execution, parent_run)
    corpora = corpora or prepare(recipe, execution, parent_run=parent_run, initial=initial)
    checkpoints = checkpoints or train(recipe, execution, corpora, parent_run=parent_run, initial=initial)
    with desk(recipe, execution, "evaluate", parent_run) as here:
        here.run.tracking.remember(corpora.raw.values())
        mtpb = _mtpb_file(here)
        bits, humaneval, talks = {}, {}, {}
        with Bench(here) as bench:
            for stage, one in checkpoints.items():
                bits[stage] = _bits_per_byte(here, stage, one, corpora)
                humaneval[stage] = _humaneval(here, stage, one, bench)
                if mtpb.path:
                    talks[stage] = _mtpb(here, stage, one, bench, mtpb.path)
        skipped = {} if mtpb.path else {"mtpb": mtpb.missing}
        made = Evaluations(bits_per_byte=bits, humaneval=humaneval, mtpb=talks, skipped=skipped)
        show_scores(here, checkpoints, corpora.prepared, made.by_stage(), skipped)
    return made


def _mtpb_file(here: Desk) -> FoundMtpb:
    from components.evaluation.problems import find_mtpb

    execution = here.execution
    found = here.task("find MTPB", lambda _: find_mtpb(execution.mtpb_file, execution.workspace_path / "cache"))
    if not found.path:
        here.warn(f"MTPB is skipped: {found.missing}")
    return found


def _bits_per_byte(here: Desk, stage: str, checkpoint: Artifact, corpora: Corpora) -> Artifact:
    from components.evaluation.held_out import CODE_VERSION, run_bits_per_byte

    limit, place = here.recipe.evaluation.held_out_max_sequences, here.execution.training

    def build(folder: Path, run: TrackedRun) -> dict[str, JsonValue]:
        statistics = run_bits_per_byte(
            folder,
            checkpoint=here.store.open(checkpoint),
            prepared={corpus: corpus_place(here.store, one, place) for corpus, one in corpora.prepared.items()},
            max_sequences=limit,
            streaming=place.streaming,
        )
        keep(folder, run)
        return statistics

    return here.make(
        f"bits per byte of {stage}",
        "evaluation",
        f"{checkpoint.name}-bits-per-byte",
        config={"max_sequences": limit},
        parents={"checkpoint": checkpoint} | corpora.prepared,
        code_version=CODE_VERSION,
        tags={"stage": stage, "benchmark": "bits_per_byte"},
        build=build,
    )


def _humaneval(here: Desk, stage: str, checkpoint: Artifact, bench: Bench) -> Artifact:
    from components.evaluation.humaneval import plan

    return measure(here, "HumanEval", stage, checkpoint, plan(here.recipe.evaluation.humaneval), bench)


def _mtpb(here: Desk, stage: str, checkpoint: Artifact, bench: Bench, problems: Path) -> Artifact:
    from components.evaluation.mtpb import plan

    return measure(here, "MTPB", stage, checkpoint, plan(here.recipe.evaluation.mtpb, problems), bench)
