"""Artifacts: the small frozen records that packages pass to each other instead of arrays, models or
paths.

Two hashes: `recipe_hash` identifies how an artifact was built and decides reuse; `digest`
identifies its bytes and is verified when it is loaded. Files below `observed/` (timings, logs,
plots) are stored and verified like all others, but they differ between two builds of the same
recipe, so the digest excludes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue

from components.core.config import Config, ListOrTuple
from components.core.fingerprint import FileEntry, canonical, digest_of_files, fingerprint
from components.core.paths import FileName

OBSERVED_DIR = "observed/"
"""Folder of an artifact for measurements of its build."""

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
    """An input of an artifact: its role and the digest of its bytes."""

    role: str
    kind: Kind
    name: str
    address: str
    digest: str


class Artifact(Config):
    """A published result: its identity, location, inputs and statistics."""

    kind: Kind
    name: FileName
    address: str
    """Folder URI or path that holds the files (for a registered model: its `models:/` URI)."""
    recipe_hash: FileName
    """SHA-256 of the config, the digests of the parents and the code version."""
    digest: FileName
    """SHA-256 of its files, except those below `observed/`."""
    parents: ListOrTuple[Parent] = ()
    statistics: dict[str, JsonValue] = Field(default_factory=dict)
    """Statistics of the content, equal for equal recipes."""
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    """Host, time, commit and package versions of the build."""
    files: ListOrTuple[FileEntry] = ()

    def as_parent(self, role: str) -> Parent:
        """Return this artifact as the input of another."""
        return Parent(
            role=role, kind=self.kind, name=self.name, address=self.address, digest=self.digest
        )

    @property
    def label(self) -> str:
        """`kind/name-1234567890ab`, the name that users read and type."""
        return f"{self.kind}/{self.name}-{self.recipe_hash[:12]}"


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the digest of an artifact: over its files, except those below `observed/`."""
    return digest_of_files(tuple(file for file in files if not file.path.startswith(OBSERVED_DIR)))


def parents_of(parents: Mapping[str, Artifact]) -> tuple[Parent, ...]:
    """Return inputs as an artifact records them, ordered by role."""
    return tuple(parent.as_parent(role) for role, parent in sorted(parents.items()))


def recipe_hash(config: Any, parents: Mapping[str, Artifact], code_version: int) -> str:
    """Return the `recipe_hash` of an artifact, whether it was built or not."""
    return fingerprint(describe_recipe(config, parents_of(parents), code_version))


def describe_recipe(config: Any, parents: tuple[Parent, ...], code_version: int) -> dict[str, Any]:
    """Return the description whose fingerprint is the `recipe_hash` of an artifact, as JSON values.

    Configs count by their `identity`, parents by digest, not by address.
    """
    return {
        "config": canonical(config),
        "parents": {parent.role: parent.digest for parent in parents},
        "code_version": code_version,
    }
