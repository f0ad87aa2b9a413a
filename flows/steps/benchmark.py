"""One checkpoint, one benchmark: samples are drawn and kept, then judged and scored; every part is an artifact of its own.

Decisions: samples belong to a checkpoint and to how they were drawn, so another sandbox or another way of counting scores
them anew without the model. Programs are executed while further samples are drawn, and what came of them is kept until the
evaluation is published: a run that was killed executes none of them again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.errors import EvaluationError
from components.core.files import read_jsonl
from components.core.fingerprint import fingerprint
from components.data.config import CORPORA as STAGES
from flows.runtime.context import FlowContext

if TYPE_CHECKING:  # They would import more than a flow needs to be looked at.
    from components.evaluation.benchmarks.protocol import BenchmarkProtocol, SampleSet
    from components.evaluation.sampling.sampler import SamplerProtocol
    from components.registry.runs import TrackedRun


class BenchmarkSession(AbstractContextManager["BenchmarkSession"]):
    """What an evaluation works with: a judge for all of its programs, and the sampler of one checkpoint at a time."""

    def __init__(self, here: FlowContext) -> None:
        """Says aloud where nothing, or nothing isolated, is executed."""
        from components.evaluation.scoring.program_executor import ProgramExecutor

        self._here, self._sampler, self._of = here, ExitStack(), ""
        self._opened: SamplerProtocol | None = None
        self.judge = ProgramExecutor(
            here.execution.evaluation_workers,
            kind=here.execution.sandbox,
            unsafe=here.execution.unsafe_execution,
        )
        report = here.task("test the sandbox", lambda _: self.judge.report)
        if not report.available:
            here.warn(f"nothing that a model writes is executed: {report.missing}; {report.fix}")
        elif not report.isolated:
            here.warn(
                "what a model writes is executed without isolation, as asked: no model measured so is promoted"
            )

    def __exit__(self, *_: object) -> None:
        self._sampler.close()
        self.judge.__exit__()

    def progress(self) -> str:
        """How far execution has come, for those who wait for samples."""
        return (
            f"{self.judge.num_executed:,} programs executed" if self.judge.report.available else ""
        )

    def sampler(self, checkpoint: Artifact) -> SamplerProtocol:
        """What draws from a checkpoint; the one before is closed."""
        from components.evaluation.sampling.sampler_pool import open_sampler

        if self._opened is None or self._of != checkpoint.digest:
            self._sampler.close()
            folder, steps = (
                self._here.store.fetch_verified(checkpoint),
                self._here.execution.decode_mode,
            )
            self._opened = self._sampler.enter_context(open_sampler(folder, steps))
            self._of = checkpoint.digest
        return self._opened


def run_benchmark(
    here: FlowContext,
    benchmark: str,
    stage: str,
    checkpoint: Artifact,
    plan: BenchmarkProtocol,
    bench: BenchmarkSession,
) -> Artifact:
    """The evaluation of a checkpoint by the programs that it writes.

    Args:
        benchmark: its name for people.
        stage: what the checkpoint is called, for people; for filters, too, where it is a stage.
    """
    from components.evaluation.sampling.sampler_pool import local_precision
    from components.evaluation.scoring.grading import protocol_settings, score

    judge, seed = bench.judge, here.recipe.seed
    isolation, precision = judge.report.isolation, local_precision()
    config: dict[str, JsonValue] = {
        "protocol": protocol_settings(plan, judge, precision),
        "executed": judge.report.available,
    }
    name = f"{checkpoint.name}-{plan.name}"

    def build(folder: Path, run: TrackedRun) -> dict[str, JsonValue]:
        paths = {
            label: here.store.fetch_verified(one) / "samples.jsonl"
            for label, one in samples.items()
        }
        statistics = score(folder, plan, paths, judge, precision=precision, seed=seed)
        if (statistics["sandbox"] or "") != isolation:
            raise EvaluationError(
                f"programs ran in {statistics['sandbox'] or 'no sandbox'}",
                expected=f"{isolation or 'no sandbox'}, as found at the start of the evaluation",
                fix="run the same command again; if it stays so, see `codegen doctor`",
            )
        log_evaluation_files(folder, run)
        return statistics

    told_apart = {**config, "isolation": isolation, "checkpoint": checkpoint.digest, "seed": seed}
    journal = f"{name}-{fingerprint(told_apart)[:12]}.jsonl"
    with judge.journaled(here.execution.workspace_path / "execution-cache" / journal):
        samples = {
            draw.label: _samples(here, benchmark, stage, checkpoint, plan, draw, bench)
            for draw in plan.sample_sets
        }
        return here.get_or_build(
            f"{benchmark} of {stage}",
            "evaluation",
            name,
            config=config,
            parents={"checkpoint": checkpoint, **samples},
            code_version=2,  # Of the files; what changes a score raises `SCORE_VERSION`, which is in the protocol.
            tags=_tags(stage, plan),
            build=build,
        )


def _samples(
    here: FlowContext,
    benchmark: str,
    stage: str,
    checkpoint: Artifact,
    plan: BenchmarkProtocol,
    draw: SampleSet,
    bench: BenchmarkSession,
) -> Artifact:
    from components.evaluation.benchmarks.protocol import SAMPLES_VERSION
    from components.evaluation.sampling.sampler_pool import local_precision
    from components.evaluation.sampling.samples import (
        GeneratedSample,
        generate_samples,
        require_context_space,
    )
    from components.evaluation.scoring.grading import build_program

    def begin(sample: GeneratedSample) -> None:
        bench.judge.submit(build_program(sample, plan))

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        sampler = bench.sampler(checkpoint)
        for one in plan.sample_sets:  # Found before the first of them, and not hours later.
            require_context_space(one, sampler)
        return generate_samples(folder, draw, sampler, here.recipe.seed, begin, bench.progress)

    return here.get_or_build(
        f"{benchmark} of {stage}, {draw.label}",
        "samples",
        f"{checkpoint.name}-{plan.name}-{draw.label}",
        config={**draw.settings(), "seed": here.recipe.seed, "precision": local_precision()},
        parents={"checkpoint": checkpoint},
        code_version=SAMPLES_VERSION,
        tags=_tags(stage, plan),
        build=build,
        resumable=True,
    )


def _tags(stage: str, plan: BenchmarkProtocol) -> dict[str, str]:
    return {"benchmark": plan.name} | ({"stage": stage} if stage in STAGES else {})


def log_evaluation_files(folder: Path, run: TrackedRun) -> None:
    """The evaluation's files as the run's artifacts: results, and the samples as a table that MLflow compares."""
    for path in sorted(folder.glob("*.json*")):
        run.log_file(path)
    samples = folder / "samples.jsonl"
    if samples.exists():
        columns = ("set", "task_id", "sample", "outcome", "exception_type")
        run.table(
            "samples.json", [{name: row[name] for name in columns} for row in read_jsonl(samples)]
        )
