"""Differences between the recipes of artifacts: why an artifact was rebuilt.

Covers artifacts of the same kind and name in a store. An input counts by its digest, so a changed
input is followed to the differences of its own recipe, as far as the store has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.config import SCHEMA_VERSIONS
from components.core.errors import ArtifactError
from components.core.fingerprint import canonical_json
from components.core.store import Store

_ORDER = ("code", "setting", "input")
"""Order of changes: first those that a person made, then those that follow from other artifacts."""


class Change(NamedTuple):
    """A difference between two artifacts."""

    kind: Literal["code", "setting", "input"]
    name: str
    """Field of a setting, role of an input, or empty."""
    before: Any
    after: Any
    """Label of an input if the store has it, else its digest."""
    causes: tuple[Change, ...] = ()
    """Differences of the recipes of an input, if the store has both versions."""


def explain_rebuild(store: Store, before: Artifact, after: Artifact) -> tuple[Change, ...]:
    """Return the changes between two artifacts of one kind and name: code, settings, inputs."""
    changes = [
        _change(store, before, after, difference)
        for difference in differences(store, before, after)
    ]
    return tuple(sorted(changes, key=lambda change: _ORDER.index(change.kind)))


def format_changes(changes: tuple[Change, ...], indent: int = 2) -> Iterator[str]:
    """Yield the lines of changes for the command line."""
    for change in changes:
        values = [change.before, change.after]
        if change.kind != "input":
            values = [json.dumps(value) for value in values]
        text = " -> ".join("none" if value is None else value for value in values)
        title = "code version" if change.kind == "code" else f"{change.kind} {change.name}"
        yield f"{' ' * indent}{title}: {text}"
        yield from format_changes(change.causes, indent + 4)


def _change(store: Store, before: Artifact, after: Artifact, difference: Difference) -> Change:
    section, _, name = difference.field.partition(".")
    if section == "code_version":
        return Change("code", "", difference.before, difference.after)
    _, is_schema_version, config_class = name.partition(f"{SCHEMA_VERSIONS}.")
    if is_schema_version:
        title = f"schema version of {config_class}"
        return Change("setting", title, difference.before or 1, difference.after or 1)
    if section != "parents":
        return Change("setting", name or section, difference.before, difference.after)
    old = _load_parent(store, before, name)
    new = _load_parent(store, after, name)
    causes: tuple[Change, ...] = ()
    if old and new and (old.kind, old.name) == (new.kind, new.name):
        causes = explain_rebuild(store, old, new)
    old_label = old.label if old else difference.before
    new_label = new.label if new else difference.after
    return Change("input", name, old_label, new_label, causes)


def _load_parent(store: Store, artifact: Artifact, role: str) -> Artifact | None:
    for parent in artifact.parents:
        if parent.role == role:
            try:
                return store.load(parent.address)
            except ArtifactError:  # A raw corpus, or an artifact that was deleted.
                return None
    return None


class Difference(NamedTuple):
    """A field that differs between two recipes."""

    field: str
    before: JsonValue
    after: JsonValue


def diff_against_nearest(
    store: Store, artifact: Artifact
) -> tuple[Artifact, list[Difference]] | None:
    """Return the sibling with the fewest differences, and these; None if there is no sibling.

    Siblings have the same kind and name, and another recipe.
    """
    recipe = _recipe(store, artifact)
    candidates = [
        (sibling, _differences(_recipe(store, sibling), recipe, ""))
        for sibling in store.list_artifacts()
        if (sibling.kind, sibling.name) == (artifact.kind, artifact.name)
        and sibling.recipe_hash != artifact.recipe_hash
    ]
    # The newest of several with equally few differences.
    return min(reversed(candidates), key=lambda candidate: len(candidate[1]), default=None)


def differences(store: Store, before: Artifact, after: Artifact) -> list[Difference]:
    """Return the differences between the recipes of two artifacts: config, parents and code.

    Defaults, which the hashes omit, have their values at the time of publication.
    """
    return _differences(_recipe(store, before), _recipe(store, after), "")


_ABSENT: Any = object()


class _Value(NamedTuple):
    """A value of a recipe, at any depth."""

    hashed: Any
    """`_ABSENT`: the hash omits it."""
    displayed: Any
    """With defaults. `_ABSENT`: the field did not exist when the artifact was published."""

    @property
    def displayed_or_none(self) -> JsonValue:
        """The displayed value as JSON; None if the field did not exist."""
        return None if self.displayed is _ABSENT else self.displayed

    def names(self) -> set[str]:
        """Return the names of its items, if it is a dict."""
        return {name for value in self if isinstance(value, dict) for name in value}

    def item(self, name: str) -> _Value:
        """Return an item of a dict."""
        hashed = self.hashed.get(name, _ABSENT) if isinstance(self.hashed, dict) else _ABSENT
        is_table = isinstance(self.displayed, dict)
        return _Value(hashed, self.displayed.get(name, hashed) if is_table else hashed)


def _recipe(store: Store, artifact: Artifact) -> _Value:
    _, description, config = store.manifest(artifact)
    return _Value(description, description | {"config": config})


def _differences(before: _Value, after: _Value, field: str) -> list[Difference]:
    if all(value is _ABSENT or isinstance(value, dict) for value in (*before, *after)):
        nested = []
        for name in sorted(before.names() | after.names()):
            path = f"{field}.{name}".lstrip(".")
            nested += _differences(before.item(name), after.item(name), path)
        if nested or _is_same(before.hashed, after.hashed):
            return nested
    if _is_same(before.displayed, after.displayed):
        return []
    # The field is new or was removed, and has its default.
    if _ABSENT in (before.displayed, after.displayed) and before.hashed is after.hashed is _ABSENT:
        return []
    return [Difference(field, before.displayed_or_none, after.displayed_or_none)]


def _is_same(before: Any, after: Any) -> bool:
    if _ABSENT in (before, after):
        return before is after
    return canonical_json(before) == canonical_json(after)
