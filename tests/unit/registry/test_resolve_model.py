"""Resolving a registered model to a folder, also while other processes change the registry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.versions import NAME, register_checkpoint
from mlflow import MlflowClient

from components.core.artifact import Artifact
from components.core.errors import ArtifactError
from components.core.store import MANIFEST
from components.registry.tracking import Tracking
from components.registry.versions import checkpoint_digest
from flows.settings.execution import Execution
from flows.steps.resolve_model import locate_model


@pytest.fixture
def checkpoints(
    tracking: Tracking, make_checkpoint: Callable[[str], tuple[Artifact, Path]]
) -> list[tuple[Artifact, Path]]:
    """Two registered checkpoints; the first is champion."""
    checkpoints = [make_checkpoint("one"), make_checkpoint("two")]
    with tracking.run("register", experiment="tiny") as run:
        for checkpoint, folder in checkpoints:
            register_checkpoint(run, checkpoint, folder)
    tracking.client.set_registered_model_alias(NAME, "champion", "1")
    return checkpoints


@pytest.fixture
def empty_workspace(tracking: Tracking, tmp_path: Path) -> Execution:
    """A workspace with the same registry and an empty store."""
    return Execution(workspace=str(tmp_path / "workspace"), tracking_uri=tracking.uri)


def _act_after_each_call(
    monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[int], None]
) -> None:
    """Let another process act after each call of a client method; `act` gets the call's number."""
    original = getattr(MlflowClient, method)
    num_calls = 0

    def call_and_act(client: MlflowClient, *arguments: object) -> object:
        nonlocal num_calls
        result = original(client, *arguments)
        num_calls += 1
        act(num_calls)
        return result

    monkeypatch.setattr(MlflowClient, method, call_and_act)


def test_a_concurrent_promotion_does_not_mix_two_versions(
    tracking: Tracking,
    checkpoints: list[tuple[Artifact, Path]],
    empty_workspace: Execution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (checkpoint.digest for checkpoint, _ in checkpoints)

    def promote_second(_: int) -> None:
        tracking.client.set_registered_model_alias(NAME, "champion", "2")

    with monkeypatch.context() as patch:
        _act_after_each_call(patch, "get_model_version_by_alias", promote_second)
        location = locate_model(empty_workspace, f"{NAME}@champion")
    assert location.digest == checkpoint_digest(location.folder) == first
    for name, digest in {f"{NAME}/1": first, f"{NAME}@champion": second}.items():
        location = locate_model(empty_workspace, name)
        assert location.digest == checkpoint_digest(location.folder) == digest


def test_a_concurrent_download_by_another_process_is_used(
    checkpoints: list[tuple[Artifact, Path]],
    empty_workspace: Execution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (checkpoint, folder), _ = checkpoints
    cached = empty_workspace.workspace_path / "cache" / "models" / checkpoint.digest

    def download(call: int) -> None:
        if call == 2:  # The first call resolved the digest, which was not in the cache.
            shutil.copytree(folder, cached, ignore=shutil.ignore_patterns(MANIFEST))

    _act_after_each_call(monkeypatch, "get_model_version", download)
    location = locate_model(empty_workspace, f"{NAME}/1")
    assert (location.folder, location.digest) == (cached, checkpoint.digest)
    # No partial download is left beside it.
    assert [path.name for path in cached.parent.iterdir()] == [checkpoint.digest]


def test_a_damaged_cached_copy_is_an_error(
    checkpoints: list[tuple[Artifact, Path]], empty_workspace: Execution
) -> None:
    location = locate_model(empty_workspace, f"{NAME}/1")
    (location.folder / "training.json").write_text("another note")
    with pytest.raises(ArtifactError) as caught:
        locate_model(empty_workspace, f"{NAME}/1")
    assert str(location.folder) in caught.value.got
