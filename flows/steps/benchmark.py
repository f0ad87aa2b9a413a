"""Evaluation of a checkpoint: benchmarks and bits per byte.

A benchmark has two steps: sampling, then execution and scoring. Samples and evaluation are separate
artifacts. Samples depend on the checkpoint and the sampling settings only, so another sandbox or
metric scores the same samples again without the model. Programs run while sampling continues; their
results stay in a cache until the evaluation is published, so a resumed run does not repeat them.
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
from components.evaluation.config import paper_benchmarks
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import corpus_uri

if TYPE_CHECKING:  # Imports torch and MLflow.
    from components.evaluation.benchmarks.protocol import BenchmarkProtocol, SampleSet
    from components.evaluation.sampling.sampler import SamplerProtocol
    from components.registry.tracking import TrackedRun

EXECUTION_CACHE = "execution-cache"
"""Folder of the workspace: results of executed programs until their evaluation is published."""
_CODE_VERSION = 2
"""Version of the files of an evaluation. What changes a score raises `SCORE_VERSION`, which is part
of the protocol."""
_SAMPLE_COLUMNS = ("set", "task_id", "sample", "outcome", "exception_type")
"""Columns of the MLflow table of samples."""


class BenchmarkSession(AbstractContextManager["BenchmarkSession"]):
    """The program executor of an evaluation, and the sampler of one checkpoint at a time."""

    def __init__(self, context: FlowContext) -> None:
        """Test the sandbox; warn if programs are not executed, or not isolated."""
        from components.evaluation.scoring.program_executor import ProgramExecutor

        self._context = context
        self._stack = ExitStack()
        self._sampler: SamplerProtocol | None = None
        self._digest = ""
        self.executor = ProgramExecutor(
            context.execution.evaluation_workers,
            kind=context.execution.sandbox,
            unsafe=context.execution.unsafe_execution,
        )
        report = context.task("test sandbox", lambda _: self.executor.report)
        if not report.available:
            context.warn(f"generated programs are not executed: {report.missing}; {report.fix}")
        elif not report.isolated:
            context.warn(
                "generated programs run without isolation, as --unsafe-execution allows: "
                "models with these results cannot be promoted"
            )

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.executor.__exit__()

    def progress(self) -> str:
        """Return how many programs were executed, for the progress line of sampling."""
        if not self.executor.report.available:
            return ""
        return f"{self.executor.num_executed:,} programs executed"

    def sampler(self, checkpoint: Artifact) -> SamplerProtocol:
        """Return the sampler of a checkpoint; closes the sampler of another checkpoint."""
        from components.evaluation.sampling.sampler_pool import open_sampler

        if self._sampler is None or self._digest != checkpoint.digest:
            self._stack.close()
            folder = self._context.store.fetch_verified(checkpoint)
            sampler = open_sampler(folder, self._context.execution.decode_mode)
            self._sampler = self._stack.enter_context(sampler)
            self._digest = checkpoint.digest
        return self._sampler


def load_recipe_protocols(
    context: FlowContext,
) -> tuple[dict[str, BenchmarkProtocol], dict[str, str]]:
    """Return the protocols of the recipe's benchmarks, and the reasons of skipped ones, by name.

    Warns if an optional benchmark is skipped.

    Raises:
        EvaluationError: the file of a benchmark is missing, has another SHA-256, or has an invalid
            line.
    """
    from components.evaluation.benchmarks.benchmark_files import load_protocol

    recipe = context.recipe
    files = context.task(
        "find benchmarks", lambda _: context.execution.find_benchmarks(recipe.evaluated_benchmarks)
    )
    for name, reason in files.skipped.items():
        context.warn(f"the benchmark {name} is skipped: {reason}")
    protocols = {
        name: load_protocol(name, path, recipe.evaluation) for name, path in files.paths.items()
    }
    return protocols, files.skipped


def find_protocol(benchmark: str, recipe: Recipe, execution: Execution) -> BenchmarkProtocol:
    """Return the protocol of a benchmark by its name, or of a file of problems by its path.

    Raises:
        EvaluationError: the file is missing, has another SHA-256, or is not a benchmark.
    """
    from components.evaluation.benchmarks.benchmark_files import load_protocol
    from components.evaluation.benchmarks.custom_benchmark import read_benchmark
    from components.evaluation.benchmarks.humaneval import function_protocol

    config = {**paper_benchmarks(), **recipe.benchmarks}.get(benchmark)
    if config is None:
        return function_protocol(read_benchmark(Path(benchmark)), recipe.evaluation.humaneval)
    files = execution.find_benchmarks({benchmark: config.required()})
    return load_protocol(benchmark, files.paths[benchmark], recipe.evaluation)


def run_benchmark(
    context: FlowContext,
    stage: str,
    checkpoint: Artifact,
    protocol: BenchmarkProtocol,
    session: BenchmarkSession,
) -> Artifact:
    """Return the evaluation of a checkpoint on a benchmark.

    Args:
        stage: the stage of the checkpoint, or its name if it belongs to no stage.
    """
    from components.evaluation.sampling.sampler_pool import local_precision
    from components.evaluation.scoring.grading import protocol_settings, score

    executor, seed = session.executor, context.recipe.seed
    isolation, precision = executor.report.isolation, local_precision()
    config: dict[str, JsonValue] = {
        "protocol": protocol_settings(protocol, executor, precision),
        "executed": executor.report.available,
    }
    name = f"{checkpoint.name}-{protocol.name}"

    def build(folder: Path, run: TrackedRun) -> dict[str, JsonValue]:
        paths = {
            label: context.store.fetch_verified(artifact) / "samples.jsonl"
            for label, artifact in samples.items()
        }
        statistics = score(folder, protocol, paths, executor, precision=precision, seed=seed)
        if (statistics["sandbox"] or "") != isolation:
            raise EvaluationError(
                f"programs ran in {statistics['sandbox'] or 'no sandbox'}",
                expected=f"{isolation or 'no sandbox'}, as at the start of the evaluation",
                fix="run the same command again; if the error remains, see `codegen doctor`",
            )
        _log_evaluation_files(folder, run)
        return statistics

    cache_key = {**config, "isolation": isolation, "checkpoint": checkpoint.digest, "seed": seed}
    cache = context.execution.workspace_path / EXECUTION_CACHE
    with executor.journaled(cache / f"{name}-{fingerprint(cache_key)[:12]}.jsonl"):
        samples = {
            sample_set.label: _generate_samples(
                context, stage, checkpoint, protocol, sample_set, session
            )
            for sample_set in protocol.sample_sets
        }
        return context.get_or_build(
            f"evaluate {stage} on {protocol.name}",
            "evaluation",
            name,
            config=config,
            parents={"checkpoint": checkpoint, **samples},
            code_version=_CODE_VERSION,
            tags=_tags(context.recipe, stage, protocol.name),
            build=build,
        )


def _generate_samples(
    context: FlowContext,
    stage: str,
    checkpoint: Artifact,
    protocol: BenchmarkProtocol,
    sample_set: SampleSet,
    session: BenchmarkSession,
) -> Artifact:
    from components.evaluation.benchmarks.protocol import SAMPLES_VERSION
    from components.evaluation.sampling.sampler_pool import local_precision
    from components.evaluation.sampling.samples import (
        GeneratedSample,
        generate_samples,
        require_context_space,
    )
    from components.evaluation.scoring.grading import build_program

    seed = context.recipe.seed

    def submit(sample: GeneratedSample) -> None:
        session.executor.submit(build_program(sample, protocol))

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        sampler = session.sampler(checkpoint)
        # Check all sets before the first, which takes hours.
        for each_set in protocol.sample_sets:
            require_context_space(each_set, sampler)
        return generate_samples(folder, sample_set, sampler, seed, submit, session.progress)

    return context.get_or_build(
        f"sample {stage} for {protocol.name} {sample_set.label}",
        "samples",
        f"{checkpoint.name}-{protocol.name}-{sample_set.label}",
        config={**sample_set.settings(), "seed": seed, "precision": local_precision()},
        parents={"checkpoint": checkpoint},
        code_version=SAMPLES_VERSION,
        tags=_tags(context.recipe, stage, protocol.name),
        build=build,
        resumable=True,
    )


def run_bits_per_byte(
    context: FlowContext, stage: str, checkpoint: Artifact, prepared: dict[str, Artifact]
) -> Artifact:
    """Return the bits per byte of a checkpoint on the held-out documents of all corpora."""
    from components.evaluation.bits_per_byte import CODE_VERSION
    from components.evaluation.bits_per_byte import run_bits_per_byte as measure_bits_per_byte
    from components.evaluation.text_scorer import scoring_devices, scoring_precision

    max_sequences = context.recipe.evaluation.held_out_max_sequences
    training = context.execution.training
    devices = scoring_devices(training.device, training.world_size)
    precision = scoring_precision(training.precision, devices[0])

    def build(folder: Path, run: TrackedRun) -> dict[str, JsonValue]:
        statistics = measure_bits_per_byte(
            folder,
            checkpoint=context.store.fetch_verified(checkpoint),
            prepared={
                name: corpus_uri(context.store, corpus, training)
                for name, corpus in prepared.items()
            },
            max_sequences=max_sequences,
            devices=devices,
            precision=precision,
            streaming=training.streaming,
        )
        _log_evaluation_files(folder, run)
        return statistics

    return context.get_or_build(
        f"evaluate {stage} on bits-per-byte",
        "evaluation",
        f"{checkpoint.name}-bits-per-byte",
        config={"max_sequences": max_sequences, "precision": precision},
        parents={"checkpoint": checkpoint} | prepared,
        code_version=CODE_VERSION,
        tags=_tags(context.recipe, stage, "bits_per_byte"),
        build=build,
    )


def _tags(recipe: Recipe, stage: str, benchmark: str) -> dict[str, str]:
    tags = {"benchmark": benchmark}
    return tags | {"stage": stage} if stage in recipe.training.stages else tags


def _log_evaluation_files(folder: Path, run: TrackedRun) -> None:
    """Log the files of an evaluation to MLflow, and its samples as a table."""
    for path in sorted(folder.glob("*.json*")):
        run.log_file(path)
    samples = folder / "samples.jsonl"
    if samples.exists():
        rows = [{name: row[name] for name in _SAMPLE_COLUMNS} for row in read_jsonl(samples)]
        run.log_table("samples.json", rows)
