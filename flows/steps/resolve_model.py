"""Models by name: of the store, of the registry, or a Hugging Face folder.

A model that a flow uses is a checkpoint of the store, addressed by the digest of its bytes. Results
can therefore be traced even if the original folder changes later.
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
from components.model.config import CheckpointFormat, Dtype
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution

if TYPE_CHECKING:  # Imports MLflow.
    from components.registry.tracking import TrackedRun, Tracking
    from components.registry.versions import VersionRef

_REGISTERED = re.compile(r"(?:models:/)?([A-Za-z0-9][A-Za-z0-9._-]*)(?:@([A-Za-z0-9_-]+)|/(\d+))")
_CHECKPOINT_FILES = ("*.json", "*.txt", "*.safetensors", "*.bin")
"""The files that are read from a checkpoint in Hugging Face's format."""


def resolve_model(context: FlowContext, model: str) -> Artifact:
    """Return the checkpoint of a model; imports it into the store if necessary.

    Args:
        model: a label `checkpoint/NAME-RECIPE`, a registered version `NAME@champion` or `NAME/3`,
            or a folder in Hugging Face's format.

    Raises:
        ConfigError: `model` is none of these.
        ArtifactError: the store has no such checkpoint, or the folder is incomplete.
        TrackingError: the registry has no such model.
    """
    if published := _find_published(context.store, model):
        return published
    folder = Path(model)
    if folder.is_dir():
        return _import_folder(context, folder.resolve().name, lambda: folder)
    name, uri = _parse_registered(model)
    from components.registry.versions import download, resolve_version

    tracking = context.run.tracking
    version = resolve_version(tracking, uri)
    if stored := _find_by_digest(context.store, version.digest):
        return stored
    with tempfile.TemporaryDirectory() as scratch:
        return _import_folder(context, name, lambda: download(tracking, version.uri, Path(scratch)))


class ModelLocation(NamedTuple):
    """The folder of a model's files."""

    folder: Path
    digest: str
    """SHA-256 of the files."""


def locate_model(execution: Execution, model: str) -> ModelLocation:
    """Return the folder of a model without a flow; nothing is imported or logged.

    Args:
        execution: names the store and the registry.
        model: see `resolve_model`; a registered version is downloaded into the workspace's cache.

    Raises:
        ConfigError, ArtifactError, TrackingError: see `resolve_model`.
    """
    store = execution.open_store()
    if published := _find_published(store, model):
        return ModelLocation(store.fetch_verified(published), published.digest)
    folder = Path(model)
    if folder.is_dir():
        return ModelLocation(folder, content_digest(list_files(folder)))
    _, uri = _parse_registered(model)
    from components.registry.versions import resolve_version

    tracking = execution.open_tracking()
    version = resolve_version(tracking, uri)
    if stored := _find_by_digest(store, version.digest):
        return ModelLocation(store.fetch_verified(stored), version.digest)
    cache = execution.workspace_path / "cache" / "models"
    return ModelLocation(_download_cached(tracking, version, cache), version.digest)


def check_init_checkpoint(context: FlowContext, checkpoint: Artifact) -> None:
    """Check in a task that the recipe's first stage can start from a checkpoint.

    Raises:
        ConfigError, ArtifactError: see `components.training.init_checks`.
    """
    from components.training.init_checks import check_init_model

    recipe, folder = context.recipe, context.store.fetch_verified(checkpoint)
    context.task(
        "check init checkpoint",
        lambda _: check_init_model(folder, recipe.training, recipe.model, recipe.tokenizer),
    )


class ExportResult(NamedTuple):
    """An exported checkpoint."""

    folder: Path
    checkpoint_format: CheckpointFormat
    dtype: Dtype
    size_bytes: int
    max_logit_difference: float
    """Between transformers and our model, on the exported files."""

    @property
    def summary(self) -> str:
        """A description in one line."""
        size = f"{self.size_bytes / 1e6:,.1f} MB"
        return (
            f"{self.folder}: {self.checkpoint_format} in {self.dtype}, {size}; "
            f"logits of transformers differ by at most {self.max_logit_difference:.2g}"
        )


def export_model(
    execution: Execution,
    checkpoint: str,
    folder: Path,
    *,
    checkpoint_format: CheckpointFormat,
    dtype: Dtype,
) -> ExportResult:
    """Export a checkpoint to a new folder in Hugging Face's format.

    Args:
        checkpoint: a label or an address of the store, whose digest is verified, or a folder.

    Raises:
        ArtifactError: the store has no such checkpoint, or it is damaged; see `export_checkpoint`.
        ConfigError, DiskFullError: see `export_checkpoint`.
    """
    from components.model.huggingface import export_checkpoint

    source = Path(checkpoint)
    if not source.is_dir() or (source / MANIFEST).is_file():
        store = execution.open_store()
        address = str(source.resolve()) if source.is_dir() else checkpoint
        source = store.fetch_verified(store.load(address))
    difference = export_checkpoint(source, folder, checkpoint_format=checkpoint_format, dtype=dtype)
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return ExportResult(folder, checkpoint_format, dtype, size_bytes, difference)


def _find_published(store: Store, model: str) -> Artifact | None:
    """Return the checkpoint of a label or of a store's folder; None if `model` is neither."""
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
            f"{artifact.label} is not a model",
            expected="an artifact of the kind checkpoint",
            fix="list checkpoints with `codegen artifacts --kind checkpoint`",
        )
    return artifact


def _find_by_digest(store: Store, digest: str) -> Artifact | None:
    for artifact in store.list_artifacts():
        if artifact.kind == "checkpoint" and artifact.digest == digest:
            return artifact
    return None


def _parse_registered(model: str) -> tuple[str, str]:
    """Return name and URI of a registered version."""
    match = _REGISTERED.fullmatch(model)
    if match is None:
        raise ConfigError(
            f"there is no model {model!r}",
            expected="a folder, a label checkpoint/NAME-RECIPE, NAME@ALIAS or NAME/VERSION",
            fix="list checkpoints with `codegen artifacts --kind checkpoint`",
        )
    name, alias, version = match.groups()
    return name, f"models:/{name}@{alias}" if alias else f"models:/{name}/{version}"


def _download_cached(tracking: Tracking, version: VersionRef, cache: Path) -> Path:
    """Return the files of a version in a folder named after their digest; verifies them."""
    from components.registry.versions import checkpoint_digest, download

    folder = cache / version.digest
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            downloaded = download(tracking, version.uri, Path(scratch))  # Verifies the digest.
            try:
                return downloaded.rename(folder)
            except OSError:
                if not folder.is_dir():  # Otherwise another process was faster.
                    raise
    digest = checkpoint_digest(folder)
    if digest != version.digest:
        raise ArtifactError(
            f"the files in {folder} were fetched as {version.uri} and have SHA-256 {digest[:12]}",
            expected=version.digest[:12],
            fix="delete that folder and run the same command again, which downloads them again",
        )
    return folder


def _import_folder(context: FlowContext, name: str, fetch: Callable[[], Path]) -> Artifact:
    """Copy a folder into the store; folders with the same bytes are the same artifact."""
    from components.model.huggingface import load_config
    from components.tokenizer.encoder import Encoder

    source = fetch()
    config = load_config(source)
    encoder = Encoder(source)
    files = tuple(file for file in list_files(source) if _is_checkpoint_file(file.path))

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        for file in files:
            shutil.copyfile(source / file.path, folder / file.path)
        return {
            "num_parameters": config.num_parameters,
            "num_ids": encoder.num_ids,
            "imported": True,
        }

    return context.get_or_build(
        f"import {name}",
        "checkpoint",
        re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model",
        config={"imported": content_digest(files)},
        parents={},
        code_version=1,
        build=build,
    )


def _is_checkpoint_file(path: str) -> bool:
    """Whether a relative path is read from a checkpoint; subfolders are not."""
    if "/" in path or path == MANIFEST:
        return False
    return any(Path(path).match(pattern) for pattern in _CHECKPOINT_FILES)
