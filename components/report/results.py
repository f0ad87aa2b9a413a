"""The artifacts and facts of a pipeline run that the report shows, and the times of its steps.

The report reads artifacts; this record holds them by their role, with the few facts that are in no
artifact: the registry's answers, what was reused, the run's duration. A part that a run does not
have is absent. A time that is not known is None and stays None in every sum, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.files import read_jsonl
from components.core.store import Store

BITS_PER_BYTE = "bits-per-byte"
"""The measurement that is no benchmark."""
BENCHMARKS = {"humaneval": "HumanEval", "mtpb": "MTPB"}
"""The benchmarks of the paper as they are written."""
METRICS = "observed/metrics.jsonl"
"""The trainer's record of each step."""


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """The registry's record of a model version."""

    name: str
    version: str
    promoted: bool
    reasons: tuple[str, ...]
    """Why it was not promoted; may be empty if it was."""
    alias: str | None
    """The alias of the model in use, "champion", if this version has it now."""


@dataclass(frozen=True, kw_only=True)
class StageGateResult:
    """The decision at the gate between a stage and the stages that start from it."""

    stage: str
    outcome: str
    requirements: tuple[str, ...]
    """Each with the measured value."""
    decided_by: str
    decided_at: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """A run of the pipeline."""

    recipe: str
    """The recipe's name, e.g. "starter"."""
    raw: Mapping[str, Artifact]
    """Raw corpora by corpus, and "vocabulary"."""
    prepared: Mapping[str, Artifact]
    """Prepared corpora by corpus, in the order of the stages."""
    checkpoints: Mapping[str, Artifact]
    """Checkpoints by stage, in the order of training."""
    tokenizer: Artifact | None = None
    initial: Artifact | None = None
    """The model that the first stage started from; None for random weights."""
    validation: tuple[Artifact, ...] = ()
    evaluations: Mapping[tuple[str, str], Artifact]
    """Evaluations by stage and measurement: `BITS_PER_BYTE` or a benchmark. A skipped benchmark is
    absent."""
    during_training: Mapping[str, Mapping[int, Artifact]] = field(default_factory=dict)
    """Bits per byte of checkpoints inside a stage, by stage and tokens of the stage."""
    samples: tuple[Artifact, ...] = ()
    """The sample sets that the evaluations graded."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Skipped measurements and the reasons."""
    registered: tuple[RegisteredVersion, ...] = ()
    stage_gates: tuple[StageGateResult, ...] = ()
    reused: frozenset[str] = frozenset()
    """Labels of the artifacts that existed before this run."""
    tracking_uri: str = ""
    """The MLflow server of the registered models; empty if not known."""
    total_s: float
    """Wall time of this run."""
    provenance: Mapping[str, JsonValue]
    """This run's own provenance (`components.core.provenance`), recorded at its start. Artifacts
    that it reused may be older, and of another commit."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The trained stages in order; a recipe may skip the first."""
        return tuple(self.checkpoints)

    @property
    def started_at(self) -> str:
        """When this run started."""
        return str(self.provenance.get("created_at", "at an unknown time"))

    def steps(self) -> Iterator[Artifact]:
        """Every artifact that a step of the run built, parents before children."""
        yield from self.validation
        if self.tokenizer:
            yield self.tokenizer
        yield from self.prepared.values()
        if self.initial:
            yield self.initial
        for stage, checkpoint in self.checkpoints.items():
            yield checkpoint
            evaluations = [
                artifact for (name, _), artifact in self.evaluations.items() if name == stage
            ]
            for evaluation in evaluations:
                # Two models may have the same samples, so a digest does not identify them.
                graded = {
                    (parent.name, parent.digest)
                    for parent in evaluation.parents
                    if parent.kind == "samples"
                }
                for samples in self.samples:
                    if (samples.name, samples.digest) in graded:
                        yield samples
                yield evaluation

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks of the paper, then the others of this run by name."""
        names = {name for _, name in self.evaluations} | set(self.skipped)
        return (*BENCHMARKS, *sorted(names - {BITS_PER_BYTE, *BENCHMARKS}))

    def evaluations_of(self, measurement: str) -> dict[str, Artifact]:
        """The evaluations of a measurement by stage, in the order of the stages."""
        by_stage = {
            stage: artifact
            for (stage, name), artifact in self.evaluations.items()
            if name == measurement
        }
        return {stage: by_stage[stage] for stage in self.stages if stage in by_stage}

    def corpus_of(self, stage: str) -> str:
        """The corpus that a stage was trained on; empty if it is not among the prepared corpora."""
        names = {artifact.digest: name for name, artifact in self.prepared.items()}
        parents = self.checkpoints[stage].parents
        return next((names[parent.digest] for parent in parents if parent.digest in names), "")

    def stage_of(self, version: RegisteredVersion) -> str | None:
        """The stage whose checkpoint has the name of a registered version."""
        names = {checkpoint.name: stage for stage, checkpoint in self.checkpoints.items()}
        return names.get(version.name)


def benchmark_title(name: str) -> str:
    """The title of a benchmark: those of the paper as it writes them."""
    return BENCHMARKS.get(name, name)


def stage_title(name: str) -> str:
    """The title of a stage or corpus: the three of the paper as it writes them."""
    return {"nl": "NL"}.get(name, name[:1].upper() + name[1:])


def num_attempts(artifact: Artifact) -> int:
    """Number of attempts that contributed to an artifact; 1 if none was recorded."""
    attempts = artifact.provenance.get("attempts")
    return max(1, len(attempts)) if isinstance(attempts, list) else 1


def attempts_note(artifact: Artifact) -> str:
    """`2 attempts`; empty for a single attempt."""
    attempts = num_attempts(artifact)
    return f"{attempts} attempts" if attempts > 1 else ""


def build_seconds(artifact: Artifact, store: Store) -> float | None:
    """Build time over all attempts; for a resumed stage the sum that its trainer recorded.

    None if only the last of several attempts was timed.
    """
    if num_attempts(artifact) == 1:
        return last_attempt_seconds(artifact)
    if artifact.kind != "checkpoint":
        return None
    steps = list(read_jsonl(store.fetch_verified(artifact) / METRICS))
    return float(steps[-1]["elapsed_s"]) if steps else None


def last_attempt_seconds(artifact: Artifact) -> float | None:
    """The time that the store recorded: the attempt that published the artifact."""
    seconds = artifact.provenance.get("duration_s")
    return float(seconds) if isinstance(seconds, int | float) else None


def total_seconds(durations: Iterable[float | None]) -> float | None:
    """The sum, or None if a part is not known."""
    total = 0.0
    for seconds in durations:
        if seconds is None:
            return None
        total += seconds
    return total
