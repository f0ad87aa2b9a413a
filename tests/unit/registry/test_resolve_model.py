"""A registered model's files for use: the version that was asked for, also where others act at the same moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.core.artifact import Artifact, content_digest
from components.core.errors import ArtifactError
from components.core.fingerprint import list_files
from components.core.store import MANIFEST
from components.registry.tracking import Tracking
from components.registry.versions import register
from flows.settings.execution import Execution
from flows.steps.resolve_model import locate_model

NAME = "codegen-tiny-mono"
Look = Callable[..., object]


@pytest.fixture
def versions(
    tracking: Tracking, make_checkpoint: Callable[[str], tuple[Artifact, Path]]
) -> list[tuple[Artifact, Path]]:
    """Two registered checkpoints; the first is champion."""
    made = [make_checkpoint("one"), make_checkpoint("two")]
    about = {"name": NAME, "stage": "mono", "evaluations": {}, "dvc_md5": "md5"}
    with tracking.run("register", experiment="tiny") as run:
        for checkpoint, folder in made:
            register(
                checkpoint,
                folder,
                run=run,
                parity=lambda _: 0.0,
                max_logit_difference=1e-4,
                **about,
            )  # type: ignore[arg-type]
    tracking.client.set_registered_model_alias(NAME, "champion", "1")
    return made


@pytest.fixture
def elsewhere(tracking: Tracking, tmp_path: Path) -> Execution:
    """A workspace with that registry, whose own store is empty."""
    return Execution(workspace=str(tmp_path / "elsewhere"), tracking_uri=tracking.uri)


def _digest(folder: Path) -> str:
    return content_digest(tuple(one for one in list_files(folder) if one.path != MANIFEST))


def _then(monkeypatch: pytest.MonkeyPatch, method: str, act: Callable[[int], None]) -> None:
    """Another process acts right after each call of a method of MLflow's client; it is told which."""
    look, seen = getattr(MlflowClient, method), []

    def look_and_act(client: MlflowClient, *arguments: object) -> object:
        found = look(client, *arguments)
        seen.append(arguments)
        act(len(seen))
        return found

    monkeypatch.setattr(MlflowClient, method, look_and_act)


def test_a_promotion_in_the_middle_mixes_no_two_versions(
    tracking: Tracking,
    versions: list[tuple[Artifact, Path]],
    elsewhere: Execution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (checkpoint.digest for checkpoint, _ in versions)
    with monkeypatch.context() as meanwhile:
        _then(
            meanwhile,
            "get_model_version_by_alias",
            lambda _: tracking.client.set_registered_model_alias(NAME, "champion", "2"),
        )
        found = locate_model(elsewhere, f"{NAME}@champion")
    assert found.digest == _digest(found.folder) == first
    for name, digest in {f"{NAME}/1": first, f"{NAME}@champion": second}.items():
        found = locate_model(elsewhere, name)
        assert found.digest == _digest(found.folder) == digest


def test_what_another_process_fetched_meanwhile_is_used(
    versions: list[tuple[Artifact, Path]], elsewhere: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint, folder), _ = versions
    place = elsewhere.workspace_path / "cache" / "models" / checkpoint.digest

    def fetch(number: int) -> None:
        if number == 2:  # After the first look, for the digest, nobody had it.
            shutil.copytree(folder, place, ignore=shutil.ignore_patterns(MANIFEST))

    _then(monkeypatch, "get_model_version", fetch)
    found = locate_model(elsewhere, f"{NAME}/1")
    assert (found.folder, found.digest) == (place, checkpoint.digest)
    assert [one.name for one in place.parent.iterdir()] == [
        checkpoint.digest
    ]  # And nothing half-fetched beside it.


def test_a_damaged_copy_is_said(
    versions: list[tuple[Artifact, Path]], elsewhere: Execution
) -> None:
    found = locate_model(elsewhere, f"{NAME}/1")
    (found.folder / "training.json").write_text("another note")
    with pytest.raises(ArtifactError, match="were fetched as") as caught:
        locate_model(elsewhere, f"{NAME}/1")
    assert str(found.folder) in caught.value.got
