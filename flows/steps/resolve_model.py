"""A model by any of its names becomes a checkpoint artifact: of the store, of the registry, or of a folder as released.

One decision: whatever is used lies in the store first, under the digest of its bytes, so that every figure can be traced to
them even where the folder has changed since.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue

from components.core.artifact import Artifact, content_digest
from components.core.errors import ArtifactError, ConfigError
from components.core.fingerprint import list_files
from components.core.store import MANIFEST, Store
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution

if TYPE_CHECKING:
    from components.registry.tracking import TrackedRun, Tracking
    from components.registry.versions import VersionRef

_REGISTERED = re.compile(r"(?:models:/)?([A-Za-z0-9][A-Za-z0-9._-]*)(?:@([A-Za-z0-9_-]+)|/(\d+))")
_FILES = ("*.json", "*.txt", "*.safetensors", "*.bin")
"""What a checkpoint's folder is read from, in Hugging Face's format."""


def find_model(here: FlowContext, model: str) -> Artifact:
    """The checkpoint of a model.

    Args:
        model: `checkpoint/NAME-RECIPE` as a run prints it; `NAME@champion` or `NAME/3` of the registry; or a folder in
            Hugging Face's format, which is copied into the store.

    Raises:
        ConfigError: it is none of these.
        ArtifactError: the store has no such checkpoint, or the folder is no complete one.
        TrackingError: the registry has no such model.
    """
    path = Path(model)
    if published := _find_in_store(here.store, model):
        return published
    if path.is_dir():
        return _import_folder(here, path.resolve().name, lambda: path)
    if registered := _REGISTERED.fullmatch(model):
        return _registered(here, *registered.groups())
    raise _no_model(model)


class ModelLocation(NamedTuple):
    """Where the files of a model lie."""

    folder: Path
    digest: str
    """SHA-256 of its files."""


def locate_model(execution: Execution, model: str) -> ModelLocation:
    """The folder of a model, for use and not for record: nothing is copied into the store or noted in MLflow.

    Args:
        execution: whose store and registry.
        model: see `find_model`; what the store does not have is fetched into the workspace's cache.

    Raises:
        ConfigError, ArtifactError, TrackingError: see `find_model`.
    """
    path, store = Path(model), execution.open_store()
    if published := _find_in_store(store, model):
        return ModelLocation(store.fetch_verified(published), published.digest)
    if path.is_dir():
        return ModelLocation(path, content_digest(list_files(path)))
    if not (registered := _REGISTERED.fullmatch(model)):
        raise _no_model(model)
    from components.registry.versions import resolve_version

    tracking = execution.open_tracking()
    found = resolve_version(tracking, _uri(*registered.groups()))
    if one := _in_store(store, found.digest):
        return ModelLocation(store.fetch_verified(one), found.digest)
    return ModelLocation(
        _download_cached(tracking, found, execution.workspace_path / "cache" / "models"),
        found.digest,
    )


def _download_cached(tracking: Tracking, found: VersionRef, cache: Path) -> Path:
    """A version's files in a folder that is named for their digest, and has it."""
    from components.registry.versions import checkpoint_digest, download

    folder = cache / found.digest
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            fetched = download(tracking, found.uri, Path(scratch))
            try:
                return fetched.rename(folder)  # Its digest was compared as it came.
            except OSError:
                if not folder.is_dir():  # Else another process was faster.
                    raise
    digest = checkpoint_digest(folder)
    if digest != found.digest:
        raise ArtifactError(
            f"the files in {folder} were fetched as {found.uri} and have SHA-256 {digest[:12]}",
            expected=found.digest[:12],
            fix="remove that folder and run the same command again: they are fetched anew",
        )
    return folder


def _no_model(model: str) -> ConfigError:
    return ConfigError(
        f"there is no model {model!r}",
        expected="a folder, checkpoint/NAME-RECIPE of the store, or NAME@ALIAS or NAME/VERSION of the registry",
        fix="look at `codegen artifacts --kind checkpoint` for what the store has",
    )


def _find_in_store(store: Store, model: str) -> Artifact | None:
    """The checkpoint that is published in a folder, or that is named as a run prints it; None where it is neither."""
    path = Path(model)
    if path.is_dir():
        address = str(path.resolve()) if (path / MANIFEST).is_file() else ""
    else:
        address = model if model.startswith("checkpoint/") else ""
    if not address:
        return None
    artifact = store.load(address)
    if artifact.kind != "checkpoint":
        raise ConfigError(
            f"{artifact.label} is no model",
            expected="an artifact of the kind checkpoint",
            fix="look at `codegen artifacts --kind checkpoint` for what the store has",
        )
    return artifact


def _registered(here: FlowContext, name: str, alias: str | None, version: str | None) -> Artifact:
    """The very checkpoint that was registered where the store still has it, else what the registry kept of it."""
    from components.registry.versions import download, resolve_version

    tracking = here.run.tracking
    found = resolve_version(tracking, _uri(name, alias, version))
    if one := _in_store(here.store, found.digest):
        return one
    with tempfile.TemporaryDirectory() as scratch:
        return _import_folder(here, name, lambda: download(tracking, found.uri, Path(scratch)))


def _uri(name: str, alias: str | None, version: str | None) -> str:
    return f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"


def _in_store(store: Store, digest: str) -> Artifact | None:
    return next(
        (one for one in store.list_artifacts() if (one.kind, one.digest) == ("checkpoint", digest)),
        None,
    )


def _import_folder(here: FlowContext, name: str, fetch: Callable[[], Path]) -> Artifact:
    """A folder's copy in the store; the same bytes are the same artifact."""
    from components.model.huggingface import load_config
    from components.tokenizer.encoder import Encoder

    source = fetch()
    config = load_config(source)
    encoder = Encoder(source)
    files = tuple(
        file for file in list_files(source) if "/" not in file.path and _is_read(source / file.path)
    )

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        for file in files:
            shutil.copyfile(source / file.path, folder / file.path)
        return {
            "num_parameters": config.num_parameters,
            "num_ids": encoder.num_ids,
            "imported": True,
        }

    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model"
    return here.get_or_build(
        f"import {name}",
        "checkpoint",
        slug,
        config={"imported": content_digest(files)},
        parents={},
        code_version=1,
        build=build,
    )


def _is_read(path: Path) -> bool:
    return any(path.match(pattern) for pattern in _FILES) and path.name != MANIFEST
