"""What passes from room to room: a small frozen record of something that was made, never the thing itself.

Two hashes: `recipe` says how it was made and decides reuse; `digest` says what it is and is checked when it is loaded.
Files below `observed/` (timings, logs, plots) tell how the making went. They are kept and verified like all others, but
they differ between two runs of the same recipe, so they are no part of `digest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue

from components.core.config import Config, ListOrTuple
from components.core.fingerprint import FileEntry, digest_of_files, fingerprint

OBSERVED_DIR = "observed/"
"""Folder inside an artifact for what was measured while it was made."""

Kind = Literal[
    "raw-corpus",
    "validation",
    "tokenizer",
    "prepared-corpus",
    "checkpoint",
    "samples",
    "evaluation",
    "registered-model",
    "report",
]


class Parent(Config):
    """One input of an artifact: the part it played, and which bytes it was."""

    role: str
    kind: Kind
    name: str
    address: str
    digest: str


class Artifact(Config):
    """A thing that was made: what, where, how, and from what."""

    kind: Kind
    name: str
    address: str
    """Folder URI or path that holds the files (for a registered model: its `models:/` URI)."""
    recipe_hash: str
    """SHA-256 of how it was made: configuration, parents' digests, code version."""
    digest: str
    """SHA-256 of what it is: its files, without those below `observed/`."""
    parents: ListOrTuple[Parent] = ()
    statistics: dict[str, JsonValue] = Field(default_factory=dict)
    """Figures about the content, JSON values, equal for equal recipes."""
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    """Where, when and with which code and packages it was made."""
    files: ListOrTuple[FileEntry] = ()

    def as_parent(self, role: str) -> Parent:
        """This artifact as the input of another."""
        return Parent(
            role=role, kind=self.kind, name=self.name, address=self.address, digest=self.digest
        )

    @property
    def label(self) -> str:
        """`kind/name-1234567890ab`, as people read it."""
        return f"{self.kind}/{self.name}-{self.recipe_hash[:12]}"


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """The digest of an artifact: over its files, leaving out what was merely observed."""
    return digest_of_files(tuple(file for file in files if not file.path.startswith(OBSERVED_DIR)))


def parents_of(parents: Mapping[str, Artifact]) -> tuple[Parent, ...]:
    """Inputs by role as an artifact records them, in the order of their roles."""
    return tuple(parent.as_parent(role) for role, parent in sorted(parents.items()))


def recipe_hash(config: Any, parents: Mapping[str, Artifact], code_version: int) -> str:
    """The `recipe` of what would be made from these, whether it was made or not."""
    return fingerprint(describe_recipe(config, parents_of(parents), code_version))


def describe_recipe(config: Any, parents: tuple[Parent, ...], code_version: int) -> dict[str, Any]:
    """The description whose fingerprint is an artifact's `recipe`. Parents count by digest, not by address."""
    return {
        "config": config.model_dump(mode="python") if isinstance(config, Config) else config,
        "parents": {parent.role: parent.digest for parent in parents},
        "code_version": code_version,
    }
