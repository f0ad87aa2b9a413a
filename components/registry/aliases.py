"""The aliases of a registered model, and what makes a change of the champion one step though it takes several writes.

Design decision: the alias `champion` is one row, and it alone says who is champion. Whatever else follows from that (the
alias `previous`, no candidate that is champion already, decisions marked as having taken effect) is derived from tags that
were written to the new champion before that row. So a change that was killed is, at any moment, either not made or made
but for what can be derived: readers derive it, and the next change writes it first (`settle`).
"""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.entities import LifecycleStage
from mlflow.entities.model_registry import ModelVersion

from components.registry.client.connection import none_if_deleted, wrap_mlflow_errors
from components.registry.tracking import Tracking

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"

DECISION = "decision"
"""Tag of a version and of a run: what was decided. It begins with `TO_BE` until it has taken effect."""
PENDING_PREFIX = "to be "
PREVIOUS_CHAMPION_TAG, DECIDED_IN = "champion_before", "champion_by"
"""Tags of a version that is to become champion: the version before it (empty: none), and the run that decides so."""
ROLLED_BACK = "rolled_back"
"""Tag of a version that was champion until a person went back to the one before: who, when and why, as a sentence."""


def version_at(tracking: Tracking, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias of a model points at, or None."""
    with wrap_mlflow_errors(f"looking for {name}@{alias}"):
        version = tracking.client.get_registered_model(name).aliases.get(alias)
        return tracking.client.get_model_version(name, str(version)) if version else None


def derive_aliases(
    aliases: Mapping[str, str | int], champion: ModelVersion | None
) -> dict[str, int]:
    """The aliases as they are once everything that follows from the champion is written."""
    found = {alias: int(version) for alias, version in aliases.items()}
    if champion is None:
        return found
    if before := champion.tags.get(PREVIOUS_CHAMPION_TAG):
        found[PREVIOUS] = int(before)
    if found.get(CANDIDATE) == int(champion.version):
        del found[CANDIDATE]
    return found


def repair_aliases(tracking: Tracking, name: str) -> dict[str, int]:
    """Write what follows from the champion, where a change was killed before it did; the aliases then.

    To be called with the model locked (`Tracking.alone`).

    Raises:
        TrackingError: MLflow refused, or there is no such model.
    """
    client = tracking.client
    with wrap_mlflow_errors(f"settling the aliases of {name}"):
        found = client.get_registered_model(name).aliases
        champion = version_at(tracking, name, CHAMPION)
        wanted = derive_aliases(found, champion)
        if PREVIOUS in wanted and not _exists(tracking, name, wanted[PREVIOUS]):
            del wanted[PREVIOUS]
        elif wanted.get(PREVIOUS) != _number(found.get(PREVIOUS)):
            client.set_registered_model_alias(name, PREVIOUS, str(wanted[PREVIOUS]))
        if CANDIDATE in found and CANDIDATE not in wanted:
            client.delete_registered_model_alias(name, CANDIDATE)
        if champion is not None:
            _finalize_decision(tracking, champion)
    return wanted


def _exists(tracking: Tracking, name: str, version: int) -> bool:
    """Whether a version is there; somebody may have deleted it."""
    return bool(
        tracking.client.search_model_versions(f"name = '{name}' and version_number = {version}")
    )


def _finalize_decision(tracking: Tracking, champion: ModelVersion) -> None:
    """The decision that made this version champion has taken effect: say so. What is champion is not rolled back."""
    client, run_id = tracking.client, champion.tags.get(DECIDED_IN)
    if ROLLED_BACK in champion.tags:
        client.delete_model_version_tag(champion.name, champion.version, ROLLED_BACK)
    if champion.tags.get(DECISION, "").startswith(PENDING_PREFIX):
        client.set_model_version_tag(
            champion.name,
            champion.version,
            DECISION,
            champion.tags[DECISION].removeprefix(PENDING_PREFIX),
        )
    if run_id and (run := none_if_deleted(lambda: client.get_run(run_id))):
        decision = run.data.tags.get(DECISION, "")
        if (
            decision.startswith(PENDING_PREFIX)
            and run.info.lifecycle_stage == LifecycleStage.ACTIVE
        ):
            client.set_tag(run_id, DECISION, decision.removeprefix(PENDING_PREFIX))


def _number(version: str | int | None) -> int | None:
    return None if version is None else int(version)
