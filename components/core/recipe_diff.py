"""Why an artifact was made anew: the fields in which its recipe differs from its nearest sibling's.

Covers artifacts of one kind and name in one store; what was made from what is `Store.lineage`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.store import Store


class Difference(NamedTuple):
    """One field in which two recipes differ."""

    field: str
    before: JsonValue
    after: JsonValue


def diff_against_nearest(
    store: Store, artifact: Artifact
) -> tuple[Artifact, list[Difference]] | None:
    """What makes this artifact another one than its nearest sibling: the sibling, and the fields that differ.

    None where there is no other artifact of the same kind and name.
    """
    siblings = [
        one
        for one in store.list_artifacts()
        if (one.kind, one.name) == (artifact.kind, artifact.name)
    ]
    others = [
        (differences(store, one, artifact), one)
        for one in siblings
        if one.recipe_hash != artifact.recipe_hash
    ]
    if not others:
        return None
    fewest, sibling = min(reversed(others), key=lambda other: len(other[0]))
    return sibling, fewest


def differences(store: Store, before: Artifact, after: Artifact) -> list[Difference]:
    """The fields in which the recipes of two published artifacts differ: of their configuration, parents and code."""
    return _differences(store.recipe_document(before), store.recipe_document(after), "")


def _differences(before: Any, after: Any, field: str) -> list[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        found = (
            _differences(before.get(key), after.get(key), f"{field}.{key}".lstrip("."))
            for key in keys
        )
        return [difference for group in found for difference in group]
    return [] if before == after else [Difference(field, before, after)]
