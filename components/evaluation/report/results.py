"""What one run of the chain made, as the page of results is given it.

One decision: the page reads artifacts and nothing else, so this record holds artifacts by the part they played, plus the few
facts that lie in no artifact (what the registry answered, what was reused, how long it all took). Whoever ran the chain
fills it in; a part that was left out of a run is absent here, and the page says so. It does not cover several runs at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from components.core.artifact import Artifact

Measurement = Literal["bits-per-byte", "humaneval", "mtpb"]

STAGES = ("nl", "multi", "mono")
"""The training stages in their order (docs/paper.md, section 1)."""

STAGE_NAMES = {"nl": "NL", "multi": "Multi", "mono": "Mono"}
"""The stages as the paper writes them."""


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """What the registry answered about one model."""

    name: str
    version: str
    promoted: bool
    reasons: tuple[str, ...]
    """Why it was not promoted; may be empty where it was."""
    alias: str | None
    """The alias of the model in use, "champion", if this version has it now: newly, or, if not promoted, from before."""


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """One run of the chain."""

    recipe: str
    """The recipe's name, e.g. "starter"."""
    raw: Mapping[str, Artifact]
    """Raw corpora by corpus, and "vocabulary"."""
    prepared: Mapping[str, Artifact]
    """Prepared corpora by corpus."""
    checkpoints: Mapping[str, Artifact]
    """Checkpoints by stage."""
    tokenizer: Artifact | None = None
    initial: Artifact | None = None
    """The model that the first stage started from; None where it began with new weights."""
    validation: tuple[Artifact, ...] = ()
    evaluations: Mapping[tuple[str, Measurement], Artifact]
    """Evaluations by stage and measurement; a benchmark that was skipped is absent."""
    samples: tuple[Artifact, ...] = ()
    """The sets of samples that the evaluations judged."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Measurements that were left out, and why."""
    registered: tuple[RegisteredVersion, ...] = ()
    reused: frozenset[str] = frozenset()
    """Labels of the artifacts that were there already."""
    tracking_uri: str = ""
    """Where the registered models are; empty where nobody said."""
    total_s: float
    """Wall time of this run, seconds."""
    made_by: Mapping[str, JsonValue]
    """This run's own provenance, as `components.core.provenance` noted it at the start: `created_at` is when it began. What
    it reused may be older, and of another commit."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that were trained, in their order: a recipe may leave out the first."""
        return tuple(stage for stage in STAGES if stage in self.checkpoints)

    def steps(self) -> Iterator[Artifact]:
        """Every artifact of the run that a step made, parents before children."""
        yield from self.validation
        if self.tokenizer:
            yield self.tokenizer
        yield from (self.prepared[corpus] for corpus in STAGES if corpus in self.prepared)
        if self.initial:
            yield self.initial
        for stage in STAGES:
            if stage in self.checkpoints:
                yield self.checkpoints[stage]
            for artifact in (
                artifact for (of, _), artifact in self.evaluations.items() if of == stage
            ):
                judged = {parent.digest for parent in artifact.parents if parent.kind == "samples"}
                yield from (one for one in self.samples if one.digest in judged)
                yield artifact

    def stage_of(self, version: RegisteredVersion) -> str | None:
        """The stage whose checkpoint a registered version is, by its name; None where no checkpoint has it."""
        return next(
            (
                stage
                for stage, checkpoint in self.checkpoints.items()
                if checkpoint.name == version.name
            ),
            None,
        )
