"""Why an artifact was made anew, in words: what differs in its settings, its inputs and its code, and why its inputs do.

One decision: an input counts by its digest, which says nothing to a person, so an input that changed is followed to what
differs in its own recipe, down to what the store does not hold (raw corpora). Not covered: which of several siblings to
compare with (`components.core.recipe_diff`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.core.artifact import Artifact
from components.core.config import SCHEMA_VERSIONS
from components.core.errors import ArtifactError
from components.core.recipe_diff import Difference, differences
from components.core.store import Store


class Change(NamedTuple):
    """One thing that differs."""

    what: str
    """`setting`, `input` or `code`."""
    name: str
    """The setting's field, the input's role, or nothing."""
    before: Any
    after: Any
    """Of an input, its label where the store holds it, else its digest."""
    because: tuple[Change, ...] = ()
    """Why an input is another one, where the store knows."""


def explain_rebuild(store: Store, before: Artifact, after: Artifact) -> tuple[Change, ...]:
    """What differs between two artifacts of one kind and name, code and settings before inputs."""
    found = [_reason(store, before, after, one) for one in differences(store, before, after)]
    return tuple(sorted(found, key=lambda one: ("code", "setting", "input").index(one.what)))


def format_changes(found: tuple[Change, ...], indent: int = 2) -> Iterator[str]:
    """Lines for people."""
    for one in found:
        shown = (
            (one.before, one.after)
            if one.what == "input"
            else (json.dumps(one.before), json.dumps(one.after))
        )
        name = "the version of its code" if one.what == "code" else f"{one.what} {one.name}"
        yield f"{' ' * indent}{name}: {' -> '.join('none' if value is None else value for value in shown)}"
        yield from format_changes(one.because, indent + 4)


def _reason(store: Store, before: Artifact, after: Artifact, difference: Difference) -> Change:
    part, _, name = difference.field.partition(".")
    if part == "code_version":
        return Change("code", "", difference.before, difference.after)
    _, is_schema, owner = name.partition(f"{SCHEMA_VERSIONS}.")
    if is_schema:
        return Change(
            "setting", f"schema version of {owner}", difference.before or 1, difference.after or 1
        )
    if part != "parents":
        return Change("setting", name or part, difference.before, difference.after)
    old, new = _input(store, before, name), _input(store, after, name)
    because = (
        explain_rebuild(store, old, new)
        if old and new and (old.kind, old.name) == (new.kind, new.name)
        else ()
    )
    label = old.label if old else difference.before
    return Change("input", name, label, new.label if new else difference.after, because)


def _input(store: Store, artifact: Artifact, role: str) -> Artifact | None:
    try:
        return next((store.load(one.address) for one in artifact.parents if one.role == role), None)
    except ArtifactError:  # Raw corpora lie in data/, and what was removed lies nowhere.
        return None
