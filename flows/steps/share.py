"""Prepared corpora that one machine made and others use: copied to and from a root that they share, by recipe or by label.

Design decision: the shared root is a second store, so what is found there was published there, and a copy has the same
recipe and is reused by `codegen prepare` like what was made here. The tokenizer goes along: its digest is a part of the
recipe. What is not covered: raw corpora (DVC's remote keeps them) and checkpoints (the registry does).
"""

from __future__ import annotations

from collections.abc import Sequence

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, DataError
from components.core.remote_errors import wrap_remote_errors
from components.core.store import Store
from components.core.store_sync import CopyResult, copy_with_lineage
from components.data.config import CORPORA
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import find_corpora


def push_prepared(
    recipe: Recipe, execution: Execution, root: str, labels: Sequence[str] = ()
) -> list[CopyResult]:
    """Copy prepared corpora and their tokenizer to a shared root; those of the recipe, where no label is given.

    Raises:
        ArtifactError: one was not prepared here, is damaged, or the root has other bytes under the same recipe.
        DataError: the recipe's corpora are meant, and `data/` is not as the recipe needs it.
        RemoteError: the root does not answer, or refuses.
    """
    here, shared = execution.open_store(), _shared(execution, root)
    artifacts = (
        _named(here, labels)
        if labels
        else list(find_corpora(recipe, execution, here).prepared.values())
    )
    return _copied(artifacts, here, shared)


def pull_prepared(
    recipe: Recipe, execution: Execution, root: str, labels: Sequence[str] = ()
) -> list[CopyResult]:
    """Copy prepared corpora and their tokenizer from a shared root; `codegen prepare` reuses them then.

    Raises:
        ArtifactError: the root has not one of them, or a damaged one.
        DataError: the recipe's corpora are meant, and `data/` is not as the recipe needs it.
        RemoteError: the root does not answer, or refuses.
        StorageFull: no room for the files.
    """
    here, shared = execution.open_store(), _shared(execution, root)
    with wrap_remote_errors("looking for prepared corpora", root):
        artifacts = _named(shared, labels) if labels else _of_recipe(recipe, execution, shared)
    return _copied(artifacts, shared, here)


def _shared(execution: Execution, root: str) -> Store:
    with wrap_remote_errors("opening it", root):
        return Store(
            root, scratch=None if "://" not in root else execution.workspace_path / "store"
        )


def _of_recipe(recipe: Recipe, execution: Execution, shared: Store) -> list[Artifact]:
    try:
        return list(find_corpora(recipe, execution, shared).prepared.values())
    except DataError as error:
        raise DataError(
            error.got,
            expected=error.expected,
            fix=f"{error.fix}; or name them: `codegen data pull-prepared ROOT LABEL ...`",
        ) from error


def _named(store: Store, labels: Sequence[str]) -> list[Artifact]:
    artifacts = [store.load(f"{store.root}/{label}") for label in labels]
    if strangers := [one.label for one in artifacts if one.kind != "prepared-corpus"]:
        raise ArtifactError(
            f"{strangers[0]} is no prepared corpus",
            expected=f"labels like prepared-corpus/{CORPORA[0]}-0123456789ab",
            fix="list them with `codegen artifacts --kind prepared-corpus`",
        )
    return artifacts


def _copied(artifacts: Sequence[Artifact], source: Store, target: Store) -> list[CopyResult]:
    """Every artifact once, though all corpora stand on one tokenizer."""
    copied = [one for artifact in artifacts for one in copy_with_lineage(artifact, source, target)]
    return list({one.artifact.label: one for one in reversed(copied)}.values())[::-1]
