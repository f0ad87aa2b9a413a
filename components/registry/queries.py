"""What people ask of the registry: which models there are, how two compare, what was decided, and the way back.

Design decision: what was decided is read from the runs that decided it, one file each, which no later promotion writes to;
runs that somebody deleted are read, too, as long as their files are there. Reading never writes: a change that was killed
before it was complete is shown as what it is. A rollback is a decision like another: recorded first, then one alias moves.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from functools import partial

from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion

from components.core.config import Config, ListOrTuple
from components.core.errors import TrackingError
from components.registry.aliases import (
    CHAMPION,
    DECIDED_IN,
    DECISION,
    PENDING_PREFIX,
    PREVIOUS,
    ROLLED_BACK,
    derive_aliases,
    repair_aliases,
    version_at,
)
from components.registry.client.connection import none_if_deleted, wrap_mlflow_errors
from components.registry.evidence import Evidence, MetricDifference, compare_metrics
from components.registry.evidence_store import download_run_file, evidence_of, load_full_evidence
from components.registry.gate import Check, Decision
from components.registry.promotion import (
    RECORD,
    Promotion,
    make_champion,
    now,
    record,
)
from components.registry.tracking import Tracking
from components.registry.versions import version_of

logger = logging.getLogger(__name__)

_MOST = 1000
INTERRUPTED = "interrupted before it took effect"


class ModelVersionInfo(Config):
    """One version of a registered model."""

    model: str
    version: int
    aliases: ListOrTuple[str]
    stage: str
    digest: str
    git_commit: str
    decision: str
    """What the gate last decided of it, or an empty text."""
    decided_at: str
    decided_by: str
    metrics: dict[str, float]
    """As the gate last saw them."""

    @property
    def label(self) -> str:
        """`NAME/3 @champion`."""
        return " ".join((f"{self.model}/{self.version}", *(f"@{alias}" for alias in self.aliases)))


class DecisionRecord(Promotion):
    """A decision as it was recorded, and what became of it."""

    run_id: str
    """The run that decided, and keeps the record."""
    in_effect: bool
    """Whether it took effect; not where it was killed between its record and the change of the champion."""

    @property
    def outcome(self) -> str:
        """For people."""
        return (
            self.decision.outcome if self.in_effect else f"{self.decision.outcome}, {INTERRUPTED}"
        )


def list_versions(tracking: Tracking, name: str | None = None) -> list[ModelVersionInfo]:
    """All versions, of one model or of all, the newest last.

    Raises:
        TrackingError: MLflow refused, or there is no such model.
    """
    client = tracking.client
    with wrap_mlflow_errors("listing the registered models"):
        models = (
            [client.get_registered_model(name)]
            if name
            else client.search_registered_models(max_results=_MOST)
        )
        found = []
        for model in models:
            versions = client.search_model_versions(f"name = '{model.name}'", max_results=_MOST)
            champion = next(
                (one for one in versions if str(one.version) == str(model.aliases.get(CHAMPION))),
                None,
            )
            aliases = derive_aliases(model.aliases, champion)
            found += [
                _described(one, aliases)
                for one in sorted(versions, key=lambda one: int(one.version))
            ]
        return found


def get_version(tracking: Tracking, model: str) -> ModelVersionInfo:
    """One version: `NAME@ALIAS` or `NAME/VERSION`.

    Raises:
        TrackingError: there is no such version.
    """
    with wrap_mlflow_errors(f"looking for {model}"):
        version = version_of(tracking, f"models:/{model}")
        aliases = tracking.client.get_registered_model(version.name).aliases
        return _described(
            version, derive_aliases(aliases, version_at(tracking, version.name, CHAMPION))
        )


def compare(tracking: Tracking, one: str, other: str) -> list[MetricDifference]:
    """The metrics that either of two versions was judged by, as the gate last saw them."""
    return compare_metrics(evidence_at(tracking, one), evidence_at(tracking, other))


def evidence_at(tracking: Tracking, model: str) -> Evidence:
    """All that the gate last saw of one version.

    Raises:
        TrackingError: there is no such version.
    """
    with wrap_mlflow_errors(f"looking for {model}"):
        version = version_of(tracking, f"models:/{model}")
    return load_full_evidence(tracking, version) or Evidence(digest="", metrics={}, protocols={})


def history(tracking: Tracking, name: str) -> list[DecisionRecord]:
    """Every decision about a model, the oldest first.

    Raises:
        TrackingError: MLflow refused, or there is no such model.
    """
    with wrap_mlflow_errors(f"reading the history of {name}"):
        tracking.client.get_registered_model(name)
        champion = version_at(tracking, name, CHAMPION)
        runs = [run for run in _deciding_runs(tracking) if run.data.tags.get("model") == name]
        recorded = [_recorded(tracking, run, champion) for run in runs]
    return sorted((one for one in recorded if one), key=lambda one: one.decided_at)


def rollback(tracking: Tracking, name: str, decided_by: str, reason: str) -> Promotion:
    """Make `previous` the champion again; the champion becomes `previous`.

    Raises:
        TrackingError: there is no such model, no champion, or nothing before it.
    """
    with tracking.model_lock(name):
        repair_aliases(tracking, name)
        champion, previous = (
            version_at(tracking, name, CHAMPION),
            version_at(tracking, name, PREVIOUS),
        )
        if champion is None or previous is None or champion.version == previous.version:
            raise TrackingError(
                f"{name} has no version before its champion"
                if champion
                else f"{name} has no champion",
                expected="the aliases champion and previous at two versions",
                fix=f"look at `codegen models history {name}`",
            )
        check = Check(
            rule="a person asked for the version before",
            passed=True,
            found=reason or "no reason was given",
        )
        decided = Promotion(
            model=name,
            version=int(previous.version),
            stage=previous.tags.get("stage", ""),
            decision=Decision(outcome="rolled back", checks=(check,)),
            champion_before=int(champion.version),
            champion_after=int(previous.version),
            decided_by=decided_by,
            decided_at=now(),
            evidence=load_full_evidence(tracking, previous)
            or Evidence(digest="", metrics={}, protocols={}),
            champion_evidence=load_full_evidence(tracking, champion),
        )
        with tracking.run(
            f"roll back {name}", experiment=_experiment_of(tracking, previous, champion)
        ) as run:
            record(run, decided)
            _mark_rolled_back(tracking, champion, decided, reason)
            make_champion(run, decided)
    return decided


def _mark_rolled_back(
    tracking: Tracking, champion: ModelVersion, decided: Promotion, reason: str
) -> None:
    """So that no gate alone makes it champion again. `settle` takes it back where a kill leaves it champion."""
    said = f"rolled back by {decided.decided_by}, {decided.decided_at}: {reason or 'no reason was given'}"
    with wrap_mlflow_errors(f"rolling {champion.name} back"):
        tracking.client.set_model_version_tag(champion.name, champion.version, ROLLED_BACK, said)


def _experiment_of(tracking: Tracking, *versions: ModelVersion) -> str:
    """Where one of these versions was registered, the first whose run is left; else one called as the model is."""
    get_run, get_experiment = tracking.client.get_run, tracking.client.get_experiment
    with wrap_mlflow_errors(f"looking for the experiment of {versions[0].name}"):
        runs = (none_if_deleted(partial(get_run, one.run_id)) for one in versions if one.run_id)
        run = next(filter(None, runs), None)
        return str(get_experiment(run.info.experiment_id).name if run else versions[0].name)


def _described(version: ModelVersion, aliases: Mapping[str, int]) -> ModelVersionInfo:
    """`aliases`: all of its model's, settled."""
    tags, evidence = version.tags, evidence_of(version)
    decision = tags.get(DECISION, "")
    if decision.startswith(PENDING_PREFIX):
        is_champion = aliases.get(CHAMPION) == int(version.version)
        decision = (
            decision.removeprefix(PENDING_PREFIX)
            if is_champion
            else f"{decision.removeprefix(PENDING_PREFIX)}, {INTERRUPTED}"
        )
    return ModelVersionInfo(
        model=version.name,
        version=int(version.version),
        aliases=tuple(
            sorted(alias for alias, number in aliases.items() if number == int(version.version))
        ),
        stage=tags.get("stage", ""),
        digest=tags.get("checkpoint_digest", ""),
        git_commit=tags.get("git_commit", ""),
        decision=decision,
        decided_at=tags.get("decided_at", ""),
        decided_by=tags.get("decided_by", ""),
        metrics=evidence.metrics if evidence else {},
    )


def _deciding_runs(tracking: Tracking) -> Iterator[Run]:
    """In the order in which they began: several decisions may carry the same second."""
    found = tracking.client.search_experiments(max_results=_MOST, view_type=ViewType.ALL)
    experiments = [one.experiment_id for one in found]
    token = None
    while experiments:
        page = tracking.client.search_runs(
            experiments,
            f"tags.{DECISION} LIKE '%'",
            run_view_type=ViewType.ALL,
            max_results=_MOST,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _recorded(tracking: Tracking, run: Run, champion: ModelVersion | None) -> DecisionRecord | None:
    """The record of a run; none, with a warning, where somebody removed its file."""
    run_id, tags = run.info.run_id, run.data.tags
    path = download_run_file(tracking, run_id, RECORD)
    if path is None:
        logger.warning(
            "the record of %s is gone from the run %s: %s", tags["model"], run_id, tags[DECISION]
        )
        return None
    # That the mark is missing may also mean that a run was killed after it changed the champion.
    took_effect = champion is not None and champion.tags.get(DECIDED_IN) == run_id
    values = json.loads(path.read_text(encoding="utf-8"))
    in_effect = took_effect or not tags[DECISION].startswith(PENDING_PREFIX)
    return DecisionRecord.parse({**values, "run_id": run_id, "in_effect": in_effect})
