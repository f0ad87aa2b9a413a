"""Why an artifact was made anew: the fields in which its recipe differs from its nearest sibling's.

Covers artifacts of one kind and name in one store; what was made from what is `Store.lineage`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.fingerprint import canonical_json
from components.core.store import Store


class Difference(NamedTuple):
    """One field in which two recipes differ."""

    field: str
    before: JsonValue
    after: JsonValue


def diff_against_nearest(
    store: Store, artifact: Artifact
) -> tuple[Artifact, list[Difference]] | None:
    """What makes this artifact another one than its nearest sibling: the sibling, and the fields
    that differ.

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
    """The fields in which the recipes of two published artifacts differ: of their configuration,
    parents and code.

    Values that the hashes omit, since they are defaults, are shown as they were when the artifact
    was published.
    """
    return _differences(_recipe(store, before), _recipe(store, after), "")


_ABSENT: Any = object()


class _Value(NamedTuple):
    """One value of a recipe, at any depth."""

    hashed: Any
    """`_ABSENT`: the hash omits it."""
    shown: Any
    """With defaults. `_ABSENT`: the version of codegen that published the artifact did not have the
    field."""

    def names(self) -> set[str]:
        """Return the names of its items, if it is a dict."""
        return {name for part in self if isinstance(part, dict) for name in part}

    def item(self, name: str) -> _Value:
        """Return the item of a name."""
        hashed = self.hashed.get(name, _ABSENT) if isinstance(self.hashed, dict) else _ABSENT
        return _Value(
            hashed, self.shown.get(name, hashed) if isinstance(self.shown, dict) else hashed
        )


def _recipe(store: Store, artifact: Artifact) -> _Value:
    _, description, config = store.manifest(artifact)
    return _Value(description, description | {"config": config})


def _differences(before: _Value, after: _Value, field: str) -> list[Difference]:
    if all(part is _ABSENT or isinstance(part, dict) for part in (*before, *after)):
        names = sorted(before.names() | after.names())
        groups = (
            _differences(before.item(name), after.item(name), f"{field}.{name}".lstrip("."))
            for name in names
        )
        found = [difference for group in groups for difference in group]
        if found or _is_same(before.hashed, after.hashed):
            return found
    if _is_same(before.shown, after.shown):
        return []
    # Only one of the two versions of codegen has this field, and there it has its default.
    if _ABSENT in (before.shown, after.shown) and before.hashed is after.hashed is _ABSENT:
        return []
    return [
        Difference(
            field, *(None if value is _ABSENT else value for value in (before.shown, after.shown))
        )
    ]


def _is_same(before: Any, after: Any) -> bool:
    if _ABSENT in (before, after):
        return before is after
    return canonical_json(before) == canonical_json(after)
