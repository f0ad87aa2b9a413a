"""Queries of the registry: versions, comparisons, the history of decisions; and the rollback.

The history is read from the runs that decided, a file each, which no later decision changes;
deleted runs are included as long as their files exist. Queries never write: an interrupted change
is shown as interrupted. A rollback is a decision too: it is recorded before the alias changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion

from components.core.config import Config, ListOrTuple
from components.core.errors import TrackingError
from components.registry.client.connection import (
    list_experiment_ids,
    none_if_deleted,
    read_pages,
    wrap_mlflow_errors,
)
from components.registry.evidence import Evidence, MetricDifference, compare_metrics
from components.registry.evidence_store import evidence_of, load_full_evidence
from components.registry.gate import Check, Decision
from components.registry.promotion import (
    CHAMPION,
    DECIDING_RUN_TAG,
    DECISION_TAG,
    PENDING_PREFIX,
    PREVIOUS,
    ROLLBACK_TAG,
    Promotion,
    derive_aliases,
    load_promotion,
    make_champion,
    record_decision,
    repair_aliases,
    utc_now,
    version_at,
)
from components.registry.tracking import Tracking
from components.registry.versions import find_version_by_uri

logger = logging.getLogger(__name__)

_MAX_RESULTS = 1000
INTERRUPTED = "interrupted before it took effect"


class ModelVersionInfo(Config):
    """A version of a registered model."""

    model: str
    version: int
    aliases: ListOrTuple[str]
    stage: str
    digest: str
    git_commit: str
    decision: str
    """The outcome of the last decision, or empty."""
    decided_at: str
    decided_by: str
    metrics: dict[str, float]
    """From the evidence of the last decision."""

    @property
    def label(self) -> str:
        """`NAME/3 @champion`."""
        return " ".join([f"{self.model}/{self.version}", *(f"@{alias}" for alias in self.aliases)])


class DecisionRecord(Promotion):
    """A recorded decision and whether it took effect."""

    run_id: str
    """The run that decided and has the record."""
    in_effect: bool
    """False if the process was killed between the record and the change of the champion."""

    @property
    def outcome(self) -> str:
        """The outcome as text."""
        outcome = self.decision.outcome
        return outcome if self.in_effect else f"{outcome}, {INTERRUPTED}"


def list_versions(tracking: Tracking, name: str | None = None) -> list[ModelVersionInfo]:
    """Return all versions of a model or of all models, by version number."""
    client = tracking.client
    with wrap_mlflow_errors("listing the registered models"):
        if name:
            models = [client.get_registered_model(name)]
        else:
            models = client.search_registered_models(max_results=_MAX_RESULTS)
        infos = []
        for model in models:
            versions = client.search_model_versions(
                f"name = '{model.name}'", max_results=_MAX_RESULTS
            )
            by_number = {int(version.version): version for version in versions}
            champion = by_number.get(int(model.aliases.get(CHAMPION, 0)))
            aliases = derive_aliases(model.aliases, champion)
            infos += [_version_info(version, aliases) for _, version in sorted(by_number.items())]
        return infos


def get_version(tracking: Tracking, model: str) -> ModelVersionInfo:
    """Return a version: `NAME@ALIAS` or `NAME/VERSION`."""
    with wrap_mlflow_errors(f"looking up {model}"):
        version = find_version_by_uri(tracking, f"models:/{model}")
        aliases = tracking.client.get_registered_model(version.name).aliases
        champion = version_at(tracking, version.name, CHAMPION)
        return _version_info(version, derive_aliases(aliases, champion))


def compare(tracking: Tracking, first: str, second: str) -> list[MetricDifference]:
    """Compare the metrics of two versions, from the evidence of their last decisions."""
    return compare_metrics(evidence_at(tracking, first), evidence_at(tracking, second))


def evidence_at(tracking: Tracking, model: str) -> Evidence:
    """Return the full evidence of a version."""
    with wrap_mlflow_errors(f"looking up {model}"):
        version = find_version_by_uri(tracking, f"models:/{model}")
    return _evidence_or_empty(tracking, version)


def _evidence_or_empty(tracking: Tracking, version: ModelVersion) -> Evidence:
    evidence = load_full_evidence(tracking, version)
    return evidence or Evidence(digest="", metrics={}, protocols={})


def history(tracking: Tracking, name: str) -> list[DecisionRecord]:
    """Return every decision about a model, the oldest first."""
    with wrap_mlflow_errors(f"reading the history of {name}"):
        tracking.client.get_registered_model(name)
        champion = version_at(tracking, name, CHAMPION)
        runs = [run for run in _deciding_runs(tracking) if run.data.tags.get("model") == name]
        records = [_load_record(tracking, run, champion) for run in runs]
    return sorted(filter(None, records), key=lambda record: record.decided_at)


def rollback(tracking: Tracking, name: str, decided_by: str, reason: str) -> Promotion:
    """Make the version `previous` the champion; the champion becomes `previous`.

    Raises:
        TrackingError: there is no such model, no champion, or no previous version.
    """
    with tracking.model_lock(name):
        repair_aliases(tracking, name)
        champion = version_at(tracking, name, CHAMPION)
        previous = version_at(tracking, name, PREVIOUS)
        if champion is None or previous is None or champion.version == previous.version:
            problem = "no version before its champion" if champion else "no champion"
            raise TrackingError(
                f"{name} has {problem}",
                expected="two versions with the aliases champion and previous",
                fix=f"check the versions with `codegen models history {name}`",
            )
        reason = reason or "no reason given"
        check = Check(rule="rollback requested by a user", passed=True, detail=reason)
        promotion = Promotion(
            model=name,
            version=int(previous.version),
            stage=previous.tags.get("stage", ""),
            decision=Decision(outcome="rolled_back", checks=(check,)),
            champion_before=int(champion.version),
            champion_after=int(previous.version),
            decided_by=decided_by,
            decided_at=utc_now(),
            evidence=_evidence_or_empty(tracking, previous),
            champion_evidence=load_full_evidence(tracking, champion),
        )
        experiment = _experiment_name(tracking, [previous, champion])
        with tracking.run(f"roll back {name}", experiment=experiment) as run:
            record_decision(run, promotion)
            # Prevents a promotion without approval; `repair_aliases` removes the tag if the process
            # is killed here and the version stays champion.
            rollback_text = f"rolled back by {decided_by}, {promotion.decided_at}: {reason}"
            with wrap_mlflow_errors(f"rolling {name} back"):
                tracking.client.set_model_version_tag(
                    name, champion.version, ROLLBACK_TAG, rollback_text
                )
            make_champion(run, promotion)
    return promotion


def _experiment_name(tracking: Tracking, versions: list[ModelVersion]) -> str:
    """Return the experiment of the first version whose run exists, or the name of the model."""
    client = tracking.client
    with wrap_mlflow_errors(f"looking up the experiment of {versions[0].name}"):
        for version in versions:
            run = _get_run(tracking, version.run_id) if version.run_id else None
            if run:
                return str(client.get_experiment(run.info.experiment_id).name)
    return str(versions[0].name)


def _get_run(tracking: Tracking, run_id: str) -> Run | None:
    return none_if_deleted(lambda: tracking.client.get_run(run_id))


def _version_info(version: ModelVersion, aliases: Mapping[str, int]) -> ModelVersionInfo:
    """Describe a version; `aliases` are those of its model, derived."""
    number = int(version.version)
    tags = version.tags
    decision = tags.get(DECISION_TAG, "")
    if decision.startswith(PENDING_PREFIX):
        decision = decision.removeprefix(PENDING_PREFIX)
        if aliases.get(CHAMPION) != number:
            decision = f"{decision}, {INTERRUPTED}"
    evidence = evidence_of(version)
    return ModelVersionInfo(
        model=version.name,
        version=number,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        stage=tags.get("stage", ""),
        digest=tags.get("checkpoint_digest", ""),
        git_commit=tags.get("git_commit", ""),
        decision=decision,
        decided_at=tags.get("decided_at", ""),
        decided_by=tags.get("decided_by", ""),
        metrics=evidence.metrics if evidence else {},
    )


def _deciding_runs(tracking: Tracking) -> Iterator[Run]:
    """Yield the runs that decided by start time; several decisions can have the same second."""
    client = tracking.client
    experiment_ids = list_experiment_ids(client, ViewType.ALL)
    if not experiment_ids:
        return
    yield from read_pages(
        lambda token: client.search_runs(
            experiment_ids,
            f"tags.{DECISION_TAG} LIKE '%'",
            run_view_type=ViewType.ALL,
            max_results=_MAX_RESULTS,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
    )


def _load_record(
    tracking: Tracking, run: Run, champion: ModelVersion | None
) -> DecisionRecord | None:
    """Return the record of a run; log a warning and return None if its file was deleted."""
    run_id, tags = run.info.run_id, run.data.tags
    promotion = load_promotion(tracking, run_id)
    if promotion is None:
        message = "the record of %s is missing in the run %s: %s"
        logger.warning(message, tags["model"], run_id, tags[DECISION_TAG])
        return None
    # A decision that is still pending took effect if the champion names its run.
    changed_champion = champion is not None and champion.tags.get(DECIDING_RUN_TAG) == run_id
    in_effect = changed_champion or not tags[DECISION_TAG].startswith(PENDING_PREFIX)
    return DecisionRecord.parse(
        {**promotion.model_dump(), "run_id": run_id, "in_effect": in_effect}
    )
