"""The store of artifacts, which decides reuse and publishes atomically.

The address of an artifact is `{root}/{kind}/{name}-{recipe_hash[:12]}/`. It is built in
`{root}/.building/`, moved, and its `manifest.json` is written last: an artifact without a manifest
is unfinished. Another recipe has another address, so nothing is overwritten and nothing stale is
returned. An interrupted build leaves its folder below `.building/`; a resumable builder continues
there, any other starts from an empty folder.

The root is a local folder or an fsspec URI. With a URI, an artifact is built locally, uploaded, and
read through a local cache. Builds of the same artifact on the same host are serialized; builds on
several hosts are not.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

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
from components.core.config import Config, all_values
from components.core.errors import ArtifactError, ConfigError
from components.core.files import (
    parse_json,
    read_jsonl,
    remove_unfinished,
    wrap_disk_full,
    write_json,
    write_jsonl,
)
from components.core.fingerprint import fingerprint, list_files
from components.core.locks import exclusive_lock, is_locked, shared_lock
from components.core.paths import require_file_name
from components.core.provenance import provenance
from components.core.remote_errors import open_file_system

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 2
"""Stored in every manifest. The manifests of codegen 0.1, the first format, do not state one."""

USERS_LOCK = ".users.lock"
"""In the scratch folder: shared by flow runs, exclusive while artifacts are removed."""

SNAPSHOT_SUFFIX = ".snapshot"
"""Of a folder beside a build: the copy that its follower reads."""
FOLLOWER_LOCK_SUFFIX = ".follow.lock"
"""Of the lock beside a build that its only follower holds."""

_NUM_PROPOSED = 3
"""Labels that an error proposes for an unknown label."""

Build = Callable[[Path], Mapping[str, JsonValue]]
"""Fills a folder and returns the statistics of the artifact."""


class BuildResult(NamedTuple):
    """An artifact, and whether it had been published before."""

    artifact: Artifact
    reused: bool


class Manifest(NamedTuple):
    """The content of an artifact's manifest."""

    artifact: Artifact
    description: dict[str, Any]
    """The value whose fingerprint is `recipe_hash`. Its config omits defaults."""
    config: Any
    """All values of that config, defaults included, for people and for `codegen why`."""


class Store:
    """The artifacts below a root."""

    def __init__(self, root: str | Path, *, scratch: str | Path | None = None) -> None:
        """Open the store at a folder or URI.

        Args:
            root: folder or URI.
            scratch: local folder for builds and cached copies of a remote root. A local root is
                built in itself, so that an artifact is published by a rename on the same disk.

        Raises:
            ConfigError: the file system is unknown, or its package is not installed.
        """
        self.fs, self.root = open_file_system(str(root))
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.scratch = Path(self.root) if self.is_local else Path(scratch or "var/scratch")
        self._verified: set[str] = set()
        self._has_known_format = False

    # -- building

    def get_or_build(
        self,
        kind: Kind,
        name: str,
        *,
        config: Config | Mapping[str, Any],
        parents: Mapping[str, Artifact],
        code_version: int,
        build: Build,
        resumable: bool = False,
    ) -> BuildResult:
        """Return the published artifact of this recipe; build and publish it if there is none.

        Args:
            config: every setting that decides the result: a config, or JSON values and configs by
                name.
            parents: inputs by role; they count by digest.
            code_version: raised by the author when the code gives other bytes for the same recipe.
            build: called with the folder to fill. With `resumable` the folder may hold the work of
                an interrupted build.

        Raises:
            ArtifactError: the published artifact is damaged, the name is no folder name, or another
                version of codegen wrote this store.
            CodegenError: raised by `build`; nothing is published.
        """
        for folder_name in (kind, name):
            _require_name(folder_name)
        inputs = parents_of(parents)
        description = describe_recipe(config, inputs, code_version)
        recipe = fingerprint(description)
        with (
            wrap_disk_full(f"building {kind}/{name}"),
            self.build_lock(kind, name, recipe) as building,
        ):
            if published := self.find(kind, name, recipe):
                logger.info("reused %s (%s)", published.label, published.digest[:12])
                return BuildResult(published, reused=True)
            self._reclaim_unpublished(kind, name, recipe, building)
            if not resumable:
                shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True, exist_ok=True)
            remove_unfinished(building)
            attempts = _record_attempt(Path(f"{building}.attempts.jsonl"), resumable)
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
            self._publish(Manifest(artifact, description, all_values(config)), building)
            Path(f"{building}.attempts.jsonl").unlink()
        return BuildResult(artifact, reused=False)

    @contextmanager
    def build_lock(
        self, kind: Kind, name: str, recipe: str, timeout_s: float | None = None
    ) -> Iterator[Path]:
        """Hold the lock for building, copying or removing an artifact on this host; yields the
        folder for the build.

        Raises:
            TimeoutError: another process still holds the lock after `timeout_s`.
        """
        building = self.building_folder(kind, name, recipe)
        with exclusive_lock(_lock_path(building), f"build {kind}/{building.name}", timeout_s):
            yield building

    def building_folder(self, kind: Kind, name: str, recipe: str) -> Path:
        """Return the folder in which an artifact is built, whether it exists or not."""
        return self.scratch / ".building" / kind / f"{name}-{recipe[:12]}"

    def is_building(self, kind: Kind, name: str, recipe: str) -> bool:
        """Whether a process of this host is building an artifact now."""
        return is_locked(_lock_path(self.building_folder(kind, name, recipe)))

    def use(self, purpose: str) -> AbstractContextManager[None]:
        """Keep artifacts from being removed (`components.core.prune`) during a block."""
        return shared_lock(self.scratch / USERS_LOCK, purpose)

    def _publish(self, published: Manifest, building: Path) -> None:
        artifact = published.artifact
        manifest = {
            "format": MANIFEST_FORMAT,
            "artifact": artifact.model_dump(mode="json"),
            "recipe": published.description,
            "config": published.config,
        }
        if self.is_local:
            folder = Path(artifact.address)
            folder.parent.mkdir(parents=True, exist_ok=True)
            building.rename(folder)
            write_json(folder / MANIFEST, manifest)
        else:
            self.fs.put(f"{building}/", f"{artifact.address}/", recursive=True)
            self.fs.pipe_file(f"{artifact.address}/{MANIFEST}", json.dumps(manifest).encode())
            shutil.rmtree(building)
        self._verified.add(artifact.address)
        logger.info("published %s (%s)", artifact.label, artifact.digest[:12])

    def _reclaim_unpublished(self, kind: Kind, name: str, recipe: str, building: Path) -> None:
        """Move a folder without a manifest back to the build: the process was killed between the
        move and the manifest."""
        address = self.address(kind, name, recipe)
        if self.is_local and Path(address).exists() and not building.exists():
            Path(address).rename(building)

    # -- look-up

    def address(self, kind: Kind, name: str, recipe: str) -> str:
        """Return the address of an artifact, whether it exists or not."""
        path = self._path(kind, name, recipe)
        return path if self.is_local else self.fs.unstrip_protocol(path)

    def _path(self, kind: Kind, name: str, recipe: str) -> str:
        return f"{self.root}/{kind}/{name}-{recipe[:12]}"

    def find(self, kind: Kind, name: str, recipe: str) -> Artifact | None:
        """Return the published artifact of a recipe, or None.

        Raises:
            ArtifactError: another version of codegen wrote this store.
        """
        self.require_format()
        path = self._path(kind, name, recipe)
        return self._manifest(path).artifact if self.fs.exists(f"{path}/{MANIFEST}") else None

    def load(self, address: str) -> Artifact:
        """Return the published artifact at an address, or the artifact with the label
        `kind/name-recipe`.

        Raises:
            ArtifactError: nothing is published there, or another version of codegen wrote this
                store.
        """
        self.require_format()
        path = address.removeprefix(f"{self.root}/") if address.startswith(self.root) else address
        path = path if "://" in path or path.startswith("/") else f"{self.root}/{path}"
        if not self.fs.exists(f"{path}/{MANIFEST}"):
            raise ArtifactError(
                f"no artifact is published at {address}",
                expected=self._describe_label(address),
                fix="list the artifacts with `codegen artifacts`, or run the flow that builds "
                "this artifact",
            )
        return self._manifest(path).artifact

    def _describe_label(self, address: str) -> str:
        """Return the form of a label, with the most similar labels of the store."""
        manifests = self.fs.glob(f"{self.root}/*/*/{MANIFEST}")
        labels = ["/".join(path.split("/")[-3:-1]) for path in manifests]
        nearest = difflib.get_close_matches(address, labels, n=_NUM_PROPOSED)
        return (
            f"KIND/NAME-RECIPE, such as {' or '.join(nearest)}" if nearest else "KIND/NAME-RECIPE"
        )

    def require_format(self) -> None:
        """Check that this version of codegen can read the store, by its first manifest.

        Every artifact of another version has another recipe hash, so without this check the store
        would look empty.

        Raises:
            ArtifactError: another version of codegen wrote it.
        """
        if self._has_known_format:
            return
        manifests = (
            path
            for kind in get_args(Kind)
            for path in self.fs.glob(f"{self.root}/{kind}/*/{MANIFEST}")
        )
        if first := next(manifests, None):
            self._manifest(first.rsplit("/", 1)[0])
        # The next look-up must see artifacts that another process publishes.
        self.fs.invalidate_cache()
        self._has_known_format = True

    def list_artifacts(self, labels: str = "*/*") -> Iterator[Artifact]:
        """Yield every published artifact whose label matches a pattern, oldest first."""
        paths = self.fs.glob(f"{self.root}/{labels}/{MANIFEST}")
        artifacts = [self._manifest(path.rsplit("/", 1)[0]).artifact for path in paths]
        yield from sorted(artifacts, key=lambda item: str(item.provenance.get("created_at")))

    def manifest(self, artifact: Artifact) -> Manifest:
        """Return the manifest of an artifact as published."""
        return self._manifest(artifact.address)

    def lineage(self, artifact: Artifact) -> list[Artifact]:
        """Return the artifact and its ancestors in this store, parents before children."""
        seen: dict[str, Artifact] = {}

        def visit(node: Artifact) -> None:
            for parent in node.parents:
                if parent.address not in seen and self._contains(parent):
                    visit(self.load(parent.address))
            seen[node.address] = node

        visit(artifact)
        return list(seen.values())

    def _contains(self, parent: Parent) -> bool:
        return bool(self.fs.exists(f"{parent.address}/{MANIFEST}"))

    def _manifest(self, path: str) -> Manifest:
        # The path of the manifest overrides the stored address, so that a store can be moved or
        # copied.
        address = path if self.is_local else self.fs.unstrip_protocol(path)
        try:
            document = parse_json(self.fs.cat_file(f"{path}/{MANIFEST}"))
            _require_format(address, document)
            artifact = Artifact.parse(document["artifact"])
            description, config = document["recipe"], document["config"]
        except (ConfigError, ValueError, LookupError, TypeError, AttributeError) as error:
            problem = f"{error.got}: {error.expected}" if isinstance(error, ConfigError) else error
            raise ArtifactError(
                f"the manifest at {address} cannot be used: {problem!s:.500}",
                expected="a manifest as codegen publishes it",
                fix=f"do not trust {address}: remove it, and build or copy the artifact again",
            ) from error
        if address == artifact.address:
            return Manifest(artifact, description, config)
        old_root = artifact.address.removesuffix(artifact.label)
        new_root = address.removesuffix(artifact.label)
        parents = [
            parent.replace(address=new_root + parent.address.removeprefix(old_root))
            if parent.address.startswith(old_root)
            else parent
            for parent in artifact.parents
        ]
        artifact = artifact.replace(address=address, parents=parents)
        return Manifest(artifact, description, config)

    # -- reading

    def fetch_verified(self, artifact: Artifact) -> Path:
        """Return a local folder with the files of an artifact, each verified by SHA-256 once per
        process.

        Raises:
            ArtifactError: a file is missing or differs from the published bytes.
        """
        folder = Path(artifact.address) if self.is_local else self._fetch(artifact)
        if artifact.address not in self._verified:
            actual = {file.path: file for file in list_files(folder)}
            for file in artifact.files:
                if actual.get(file.path) != file:
                    raise ArtifactError(
                        f"{artifact.label}: {file.path} is "
                        f"{'damaged' if file.path in actual else 'missing'}",
                        expected=f"{file.size_bytes:,} bytes with SHA-256 {file.sha256}",
                        fix=f"remove {folder} and run the same command again to rebuild it",
                    )
            self._verified.add(artifact.address)
        return folder

    def read_file(self, artifact: Artifact, path: str) -> bytes:
        """Return a file of an artifact, verified by SHA-256; a remote store sends no other file.

        Raises:
            ArtifactError: the artifact has no such file, or its bytes differ from the published.
        """
        file = next((file for file in artifact.files if file.path == path), None)
        content = b""
        if file and self.fs.exists(f"{artifact.address}/{path}"):
            content = self.fs.cat_file(f"{artifact.address}/{path}")
        if file is None or hashlib.sha256(content).hexdigest() != file.sha256:
            raise ArtifactError(
                f"{artifact.label}: {path} is missing or damaged",
                expected="the file as it was published",
                fix=f"remove {artifact.address} and run the same command again to rebuild it",
            )
        return content

    def _fetch(self, artifact: Artifact) -> Path:
        folder = self.scratch / ".cache" / artifact.kind / f"{artifact.name}-{artifact.digest[:12]}"
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            with wrap_disk_full(f"fetching {artifact.label}"):
                for file in artifact.files:
                    target = partial / file.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.fs.get_file(f"{artifact.address}/{file.path}", str(target))
            partial.rename(folder)
        return folder


def _lock_path(building: Path) -> Path:
    return Path(f"{building}.lock")


def _require_format(address: str, manifest: dict[str, Any]) -> None:
    number = manifest.get("format")
    if number == MANIFEST_FORMAT:
        return
    store, *label = address.rsplit("/", 2)
    writer = "codegen 0.1"
    if number is not None:
        writer = f"another version of codegen (manifest format {number})"
    raise ArtifactError(
        f"the store {store} holds an artifact written by {writer}: {'/'.join(label)}",
        expected=f"artifacts of manifest format {MANIFEST_FORMAT}",
        fix="choose a new store (--exec store=FOLDER) or workspace (--exec workspace=FOLDER), or "
        "remove that store; then run the same command again",
    )


def _require_name(name: str) -> None:
    """Check that a kind or a name is a folder name, so that no artifact leaves the store.

    Raises:
        ArtifactError: it is no file name, or starts with a dot.
    """
    try:
        is_name = not require_file_name(name).startswith(".")
    except ValueError:
        is_name = False
    if not is_name:
        raise ArtifactError(
            f"an artifact cannot be named {name!r}",
            expected="a folder name: no '/', no leading dot, not empty",
            fix="choose another name",
        )


def _record_attempt(path: Path, resumable: bool) -> list[JsonValue]:
    """Append this attempt to the interrupted attempts and return all: each may have built a part of
    the artifact."""
    earlier = list(read_jsonl(path)) if resumable and path.exists() else []
    now = {
        key: value
        for key, value in provenance().items()
        if key in ("created_at", "git_commit", "git_dirty", "host")
    }
    write_jsonl(path, [*earlier, now])
    return [*earlier, now]
