"""What people ask of the registry: which models there are, how two compare, what was decided, and the way back.

Design decision: what was decided is read from the runs that decided it, one file each, which no later promotion writes to.
A rollback is a decision like another: recorded first, and then one alias moves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from components.core.config import Config, Items
from components.core.errors import TrackingError
from components.registry.connection import explained
from components.registry.gate import Check, Decision, Evidence
from components.registry.models import version_of
from components.registry.promotion import CHAMPION, PREVIOUS, RECORD, Promotion, evidence_of, record_on_run, version_at
from components.registry.tracking import Tracking

_MOST = 1000


class Registered(Config):
    """One version of a registered model."""

    model: str
    version: int
    aliases: Items[str]
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


class Difference(Config):
    """One metric of two versions."""

    metric: str
    one: float | None
    other: float | None
    comparable: bool
    """Whether both were measured by the same protocol."""


def registered(tracking: Tracking, name: str | None = None) -> list[Registered]:
    """All versions, of one model or of all, the newest last.

    Raises:
        TrackingError: MLflow refused, or there is no such model.
    """
    client = tracking.client
    with explained("listing the registered models"):
        models = [client.get_registered_model(name)] if name else client.search_registered_models(max_results=_MOST)
        found = []
        for model in models:
            versions = client.search_model_versions(f"name = '{model.name}'", max_results=_MOST)
            found += [_described(one, model.aliases) for one in sorted(versions, key=lambda one: int(one.version))]
        return found


def find(tracking: Tracking, model: str) -> Registered:
    """One version: `NAME@ALIAS` or `NAME/VERSION`.

    Raises:
        TrackingError: there is no such version.
    """
    with explained(f"looking for {model}"):
        version = version_of(tracking, f"models:/{model}")
        return _described(version, tracking.client.get_registered_model(version.name).aliases)


def compare(tracking: Tracking, one: str, other: str) -> list[Difference]:
    """The metrics that either of two versions was judged by, as the gate last saw them."""
    evidence = [_evidence(tracking, name) for name in (one, other)]
    names = sorted({name for each in evidence for name in each.metrics})
    return [
        Difference(
            metric=name,
            one=evidence[0].metrics.get(name),
            other=evidence[1].metrics.get(name),
            comparable=_protocol(evidence[0], name) == _protocol(evidence[1], name) is not None,
        )
        for name in names
    ]


def history(tracking: Tracking, name: str) -> list[Promotion]:
    """Every decision about a model, the oldest first.

    Raises:
        TrackingError: MLflow refused, or there is no such model.
    """
    with explained(f"reading the history of {name}"):
        tracking.client.get_registered_model(name)
        promotions = [_promotion(tracking, run) for run in _deciding_runs(tracking)]
    mine = [one for one in promotions if one and one.model == name]
    return sorted(mine, key=lambda one: one.decided_at)


def rollback(tracking: Tracking, name: str, decided_by: str, reason: str) -> Promotion:
    """Make `previous` the champion again; the champion becomes `previous`.

    Raises:
        TrackingError: there is no such model, no champion, or nothing before it.
    """
    with tracking.alone(name):
        champion, previous = version_at(tracking, name, CHAMPION), version_at(tracking, name, PREVIOUS)
        if champion is None or previous is None or champion.version == previous.version:
            raise TrackingError(
                f"{name} has no version before its champion" if champion else f"{name} has no champion",
                expected="the aliases champion and previous at two versions",
                do=f"look at `codegen models history {name}`",
            )
        check = Check(rule="a person asked for the version before", passed=True, found=reason or "no reason was given")
        record = Promotion(
            model=name,
            version=int(previous.version),
            stage=previous.tags.get("stage", ""),
            decision=Decision(outcome="rolled back", checks=(check,)),
            champion_before=int(champion.version),
            champion_after=int(previous.version),
            decided_by=decided_by,
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
            evidence=evidence_of(previous) or Evidence(digest="", metrics={}, protocols={}),
            champion_evidence=evidence_of(champion),
        )
        with explained(f"rolling {name} back"):
            experiment = tracking.client.get_experiment(tracking.client.get_run(previous.run_id).info.experiment_id)
            with tracking.run(f"roll back {name}", experiment=experiment.name) as run:
                record_on_run(run, record)
            # The alias that counts first: killed between the two, the model is rolled back and `previous` is of no use.
            tracking.client.set_registered_model_alias(name, CHAMPION, previous.version)
            tracking.client.set_registered_model_alias(name, PREVIOUS, champion.version)
    return record


def _described(version: ModelVersion, aliases: Mapping[str, str]) -> Registered:
    """`aliases`: all of its model's, to their versions."""
    tags, evidence = version.tags, evidence_of(version)
    return Registered(
        model=version.name,
        version=int(version.version),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(version.version))),
        stage=tags.get("stage", ""),
        digest=tags.get("checkpoint_digest", ""),
        git_commit=tags.get("git_commit", ""),
        decision=tags.get("decision", ""),
        decided_at=tags.get("decided_at", ""),
        decided_by=tags.get("decided_by", ""),
        metrics=evidence.metrics if evidence else {},
    )


def _evidence(tracking: Tracking, model: str) -> Evidence:
    with explained(f"looking for {model}"):
        found = evidence_of(version_of(tracking, f"models:/{model}"))
    return found or Evidence(digest="", metrics={}, protocols={})


def _protocol(evidence: Evidence, metric: str) -> str | None:
    return evidence.protocols.get(metric.split("/")[0])


def _deciding_runs(tracking: Tracking) -> Iterator[Run]:
    """In the order in which they began: several decisions may carry the same second."""
    experiments = [one.experiment_id for one in tracking.client.search_experiments(max_results=_MOST)]
    token = None
    while experiments:
        page = tracking.client.search_runs(
            experiments,
            "tags.decision LIKE '%'",
            max_results=_MOST,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _promotion(tracking: Tracking, run: Run) -> Promotion | None:
    """The record of a run; none where it was killed before it wrote it."""
    if not any(one.path == RECORD for one in tracking.client.list_artifacts(run.info.run_id)):
        return None
    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=RECORD, tracking_uri=tracking.uri)
    return Promotion.parse(json.loads(Path(path).read_text(encoding="utf-8")))
