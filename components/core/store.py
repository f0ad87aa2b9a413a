"""The store: the one place where reuse is decided, and where things become published.

An artifact lives at `{root}/{kind}/{name}-{recipe[:12]}/`. It is built in `{root}/.building/`, moved into place, and its
`manifest.json` is written last: only a manifest means done. Another recipe has another address, so nothing is ever
overwritten and nothing stale is served. A killed build leaves its folder under `.building/`; a resumable builder finds
its work there, any other starts from an empty folder.

The root is a local folder or any fsspec URI; on the latter an artifact is built locally, uploaded, and read through a
local cache. Two builds of one artifact on one machine wait for each other; between machines this is not covered yet.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import JsonValue

from components.core.artifact import (
    Artifact,
    Kind,
    Parent,
    content_digest,
    describe_recipe,
    parents_of,
)
from components.core.config import Config
from components.core.errors import ArtifactError, ConfigError
from components.core.files import (
    read_jsonl,
    remove_unfinished,
    wrap_disk_full,
    write_json,
    write_jsonl,
)
from components.core.fingerprint import fingerprint, list_files
from components.core.locks import exclusive_lock
from components.core.provenance import provenance

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"

Build = Callable[[Path], Mapping[str, JsonValue]]
"""Fills a folder and returns the statistics of what it made."""


class BuildResult(NamedTuple):
    """An artifact, and whether it was there already."""

    artifact: Artifact
    reused: bool


class Store:
    """Artifacts below one root."""

    def __init__(self, root: str | Path, *, scratch: str | Path | None = None) -> None:
        """`root` is a folder or a URI; `scratch` is the local folder for builds and copies of a remote root. A local root
        needs none: what is built in it can be published by a rename, which no other device would take.

        Raises:
            ConfigError: no file system of this kind is known, or the package that reads it is not installed.
        """
        self.fs, self.root = _file_system(str(root))
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.scratch = Path(self.root) if self.is_local else Path(scratch or "var/scratch")
        self._verified: set[str] = set()

    # -- making ----------------------------------------------------------------------------------------------------

    def get_or_build(
        self,
        kind: Kind,
        name: str,
        *,
        config: Config | Mapping[str, JsonValue],
        parents: Mapping[str, Artifact],
        code_version: int,
        build: Build,
        resumable: bool = False,
    ) -> BuildResult:
        """The artifact of this recipe: the published one if there is one, else built, published and returned.

        Args:
            config: everything that decides the result and is not a parent.
            parents: inputs by role; they count by digest.
            code_version: raised by the component's author when the same recipe would give other bytes.
            build: called with the folder to fill. With `resumable` the folder may hold the work of a killed build.

        Raises:
            ArtifactError: what is published under this recipe is damaged, or the name is not the name of one folder.
            CodegenError: whatever `build` raises; nothing is published then.
        """
        for part in (kind, name):
            _require_name(part)
        inputs = parents_of(parents)
        description = describe_recipe(config, inputs, code_version)
        recipe = fingerprint(description)
        with (
            wrap_disk_full(f"building {kind}/{name}"),
            self.build_lock(kind, name, recipe) as building,
        ):
            if found := self.find(kind, name, recipe):
                logger.info("reused %s (%s)", found.label, found.digest[:12])
                return BuildResult(found, reused=True)
            self._reclaim_unpublished(kind, name, recipe, building)
            if not resumable:
                shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True, exist_ok=True)
            remove_unfinished(building)
            attempts = _note_attempt(Path(f"{building}.attempts.jsonl"), resumable)
            started = time.monotonic()
            statistics = dict(build(building))
            duration = round(time.monotonic() - started, 3)
            files = list_files(building)
            artifact = Artifact(
                kind=kind,
                name=name,
                address=self.address(kind, name, recipe),
                recipe_hash=recipe,
                digest=content_digest(files),
                parents=inputs,
                statistics=statistics,
                provenance={
                    **provenance(),
                    "attempts": attempts,
                    "duration_s": duration,
                    "code_version": code_version,
                },
                files=files,
            )
            self._publish(artifact, description, building)
            Path(f"{building}.attempts.jsonl").unlink()
        return BuildResult(artifact, reused=False)

    @contextmanager
    def build_lock(self, kind: Kind, name: str, recipe: str) -> Iterator[Path]:
        """Be the only one on this machine that makes or copies this artifact; yields the folder to build it in."""
        building = self.scratch / ".building" / kind / f"{name}-{recipe[:12]}"
        with exclusive_lock(Path(f"{building}.lock"), f"making {kind}/{building.name}"):
            yield building

    def _publish(self, artifact: Artifact, description: dict[str, Any], building: Path) -> None:
        manifest = {"artifact": artifact.model_dump(mode="json"), "recipe": description}
        if self.is_local:
            place = Path(artifact.address)
            place.parent.mkdir(parents=True, exist_ok=True)
            building.rename(place)
            write_json(place / MANIFEST, manifest)
        else:
            self.fs.put(f"{building}/", f"{artifact.address}/", recursive=True)
            self.fs.pipe_file(f"{artifact.address}/{MANIFEST}", json.dumps(manifest).encode())
            shutil.rmtree(building)
        self._verified.add(artifact.address)
        logger.info("published %s (%s)", artifact.label, artifact.digest[:12])

    def _reclaim_unpublished(self, kind: Kind, name: str, recipe: str, building: Path) -> None:
        """Killed between the move and the manifest: what lies at the address is unfinished, so it goes on being built."""
        address = self.address(kind, name, recipe)
        if self.is_local and Path(address).exists() and not building.exists():
            Path(address).rename(building)

    # -- finding ---------------------------------------------------------------------------------------------------

    def address(self, kind: Kind, name: str, recipe: str) -> str:
        """Where the artifact of a recipe lies, whether it exists or not."""
        return (
            self.fs.unstrip_protocol(self._path(kind, name, recipe))
            if not self.is_local
            else self._path(kind, name, recipe)
        )

    def _path(self, kind: Kind, name: str, recipe: str) -> str:
        return f"{self.root}/{kind}/{name}-{recipe[:12]}"

    def find(self, kind: Kind, name: str, recipe: str) -> Artifact | None:
        """The published artifact of a recipe, or None."""
        path = self._path(kind, name, recipe)
        return self._manifest(path)[0] if self.fs.exists(f"{path}/{MANIFEST}") else None

    def load(self, address: str) -> Artifact:
        """The published artifact at an address, or the one named `kind/name-recipe`.

        Raises:
            ArtifactError: nothing is published there.
        """
        path = address.removeprefix(f"{self.root}/") if address.startswith(self.root) else address
        path = path if "://" in path or path.startswith("/") else f"{self.root}/{path}"
        if not self.fs.exists(f"{path}/{MANIFEST}"):
            raise ArtifactError(
                f"no artifact is published at {address}",
                expected=f"a folder with a {MANIFEST} in it",
                fix="list what there is with `codegen artifacts`, or run the flow that makes it",
            )
        return self._manifest(path)[0]

    def list_artifacts(self) -> Iterator[Artifact]:
        """Every published artifact, the oldest first."""
        manifests = [
            self._manifest(path.rsplit("/", 1)[0])[0]
            for path in self.fs.glob(f"{self.root}/*/*/{MANIFEST}")
        ]
        yield from sorted(
            manifests, key=lambda artifact: str(artifact.provenance.get("created_at"))
        )

    def recipe_document(self, artifact: Artifact) -> dict[str, Any]:
        """What the artifact's `recipe` is the fingerprint of, as it was published."""
        return self._manifest(artifact.address)[1]

    def lineage(self, artifact: Artifact) -> list[Artifact]:
        """The artifact and everything in this store that it was made from, parents before children."""
        seen: dict[str, Artifact] = {}

        def visit(one: Artifact) -> None:
            for parent in one.parents:
                if parent.address not in seen and self._contains(parent):
                    visit(self.load(parent.address))
            seen[one.address] = one

        visit(artifact)
        return list(seen.values())

    def _contains(self, parent: Parent) -> bool:
        return bool(self.fs.exists(f"{parent.address}/{MANIFEST}"))

    def _manifest(self, path: str) -> tuple[Artifact, dict[str, Any]]:
        document = json.loads(self.fs.cat_file(f"{path}/{MANIFEST}"))
        # Where the manifest lies is the truth about where the artifact lies: a store that was moved or copied still works.
        address = path if self.is_local else self.fs.unstrip_protocol(path)
        artifact = Artifact.parse(document["artifact"])
        if address == artifact.address:
            return artifact, document["recipe"]
        before, now = (one.removesuffix(artifact.label) for one in (artifact.address, address))
        moved = [
            parent.replace(address=now + parent.address.removeprefix(before))
            if parent.address.startswith(before)
            else parent
            for parent in artifact.parents
        ]
        return artifact.replace(address=address, parents=moved), document["recipe"]

    # -- reading ---------------------------------------------------------------------------------------------------

    def fetch_verified(self, artifact: Artifact) -> Path:
        """The local folder with the artifact's files, each checked against its SHA-256 once per process.

        Raises:
            ArtifactError: a file is missing or its bytes are not those that were published.
        """
        folder = Path(artifact.address) if self.is_local else self._fetch(artifact)
        if artifact.address not in self._verified:
            found = {file.path: file for file in list_files(folder)}
            for file in artifact.files:
                if found.get(file.path) != file:
                    raise ArtifactError(
                        f"{artifact.label}: {file.path} is {'damaged' if file.path in found else 'missing'}",
                        expected=f"{file.size_bytes:,} bytes with SHA-256 {file.sha256}",
                        fix=f"remove {folder} and run the same command again: it is rebuilt",
                    )
            self._verified.add(artifact.address)
        return folder

    def _fetch(self, artifact: Artifact) -> Path:
        folder = self.scratch / ".cache" / artifact.kind / f"{artifact.name}-{artifact.digest[:12]}"
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            with wrap_disk_full(f"fetching {artifact.label}"):
                for file in artifact.files:
                    (partial / file.path).parent.mkdir(parents=True, exist_ok=True)
                    self.fs.get_file(f"{artifact.address}/{file.path}", str(partial / file.path))
            partial.rename(folder)
        return folder


def _file_system(root: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return cast(tuple[fsspec.AbstractFileSystem, str], fsspec.url_to_fs(root))
    except (
        ImportError,
        ValueError,
    ) as error:  # fsspec names the package to install, or the protocol that nobody knows.
        raise ConfigError(
            f"the store {root} cannot be opened: {error}",
            expected="a folder, or a URI of a file system that fsspec can open here",
            fix="install the package that it names into this environment, or choose another store",
        ) from error


def _require_name(name: str) -> None:
    """A kind and a name are one folder's name; what could mean another folder would leave the store.

    Raises:
        ArtifactError: it is empty, begins with a dot, or holds a separator.
    """
    if not name or name.startswith(".") or any(one in name for one in "/\\\0"):
        raise ArtifactError(
            f"an artifact cannot be named {name!r}",
            expected="the name of one folder: no '/', no leading dot, not empty",
            fix="choose another name",
        )


def _note_attempt(path: Path, resumable: bool) -> list[JsonValue]:
    """Add this attempt to those that were killed before it, and return them all: each may have made a part of the result."""
    earlier = list(read_jsonl(path)) if resumable and path.exists() else []
    now = {
        key: value
        for key, value in provenance().items()
        if key in ("created_at", "git_commit", "git_dirty", "host")
    }
    write_jsonl(path, [*earlier, now])
    return [*earlier, now]
