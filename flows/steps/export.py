"""A checkpoint of the store, or of any folder, as a plain Hugging Face folder for other programs.

A checkpoint that lies in a store is compared with its SHA-256 first; another folder has none. Not covered: the reverse, a
released checkpoint as an artifact of the store; and exporting what is registered (the registry keeps the same bytes).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from components.core.store import MANIFEST
from components.model.config import CheckpointFormat, Dtype
from flows.settings.execution import Execution


class ExportResult(NamedTuple):
    """What came of it."""

    folder: Path
    layout: CheckpointFormat
    dtype: Dtype
    size_bytes: int
    max_logit_difference: float
    """Between transformers and us, on the exported files."""

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"{self.folder}: {self.layout} in {self.dtype}, {self.size_bytes / 1e6:,.1f} MB; the logits of transformers "
            f"differ from ours by {self.max_logit_difference:.2g} at most"
        )


def export(
    execution: Execution, checkpoint: str, folder: Path, *, layout: CheckpointFormat, dtype: Dtype
) -> ExportResult:
    """Export a checkpoint into a new folder.

    Args:
        checkpoint: a label (`checkpoint/NAME-RECIPE`) or address in the store, or a folder.

    Raises:
        ArtifactError: the store has no such checkpoint or a damaged one; else see `export_checkpoint`.
        ConfigError, StorageFull: see `export_checkpoint`.
    """
    from components.model.huggingface import export_checkpoint

    found = export_checkpoint(
        _files(execution, checkpoint), folder, checkpoint_format=layout, dtype=dtype
    )
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return ExportResult(folder, layout, dtype, size_bytes, found)


def _files(execution: Execution, checkpoint: str) -> Path:
    path = Path(checkpoint)
    if path.is_dir() and not (path / MANIFEST).is_file():
        return path
    store = execution.open_store()
    return store.fetch_verified(store.load(str(path.resolve()) if path.is_dir() else checkpoint))
