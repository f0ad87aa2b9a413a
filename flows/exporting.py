"""A checkpoint of the store, or of any folder, as a plain Hugging Face folder for other programs.

A checkpoint that lies in a store is compared with its SHA-256 first; another folder has none. Not covered: the reverse, a
released checkpoint as an artifact of the store; and exporting what is registered (the registry keeps the same bytes).
"""

from __future__ import annotations

from pathlib import Path

from components.core.store import MANIFEST
from components.model.formats import Dtype, Layout
from flows.execution import Execution


def export(execution: Execution, checkpoint: str, folder: Path, *, layout: Layout, dtype: Dtype) -> str:
    """Export a checkpoint into a new folder, and say in a line what came of it.

    Args:
        checkpoint: a label (`checkpoint/NAME-RECIPE`) or address in the store, or a folder.

    Raises:
        ArtifactError: the store has no such checkpoint or a damaged one; else see `export_checkpoint`.
        ConfigError, StorageFull: see `export_checkpoint`.
    """
    from components.model.huggingface import export_checkpoint

    found = export_checkpoint(_files(execution, checkpoint), folder, layout=layout, dtype=dtype)
    size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return (
        f"{folder}: {layout} in {dtype}, {size_bytes / 1e6:,.1f} MB; the logits of transformers differ from ours by "
        f"{found:.2g} at most"
    )


def _files(execution: Execution, checkpoint: str) -> Path:
    path = Path(checkpoint)
    if path.is_dir() and not (path / MANIFEST).is_file():
        return path
    store = execution.open_store()
    return store.open(store.load(str(path.resolve()) if path.is_dir() else checkpoint))
