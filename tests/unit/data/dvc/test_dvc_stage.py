"""The stage of dvc.yaml, as DVC reads it, and the committed data.dvc, dvc.lock and metrics.json."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from components.core.files import read_json
from components.data.archives.pins import load_pins
from components.data.config import PRESET_CORPORA
from components.data.dvc.dvc_repo import DvcPointer, read_pointer

CHECKOUT = Path(__file__).parents[4]
FILES = (
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    "metrics.json",
    "data.dvc",
    "components/data/archives/corpus.json",
    "components/data/archives/pins.py",
    "components/preparation/corpus_pipeline.py",
    "components/tokenizer/vocabulary.py",
)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the checkout that DVC reads, as in a fresh clone; also the working directory."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / name)
    config = (CHECKOUT / ".dvc/config").read_text()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(config.replace("[core]", "[core]\n    no_scm = true"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stage_status(project: Path) -> list[object]:
    with Repo(str(project)) as repo:
        return list(repo.status()["prepare"])


def commands(project: Path) -> list[str]:
    with Repo(str(project)) as repo:
        return list(repo.stage.load_one(name="prepare").cmd)


def test_committed_lock_is_current(clone: Path) -> None:
    """If this fails: run `dvc repro`, and commit data.dvc, dvc.lock and metrics.json."""
    assert stage_status(clone) == ["always changed"]


def test_committed_data_dvc_states_the_pins() -> None:
    """If this fails: run `codegen data pull`, and commit data.dvc."""
    pins = load_pins()
    assert read_pointer(CHECKOUT) == DvcPointer(
        pins.dvc_md5["starter"], "starter", pins.recipe_hash("starter")
    )


def test_raised_code_version_changes_the_stage(clone: Path) -> None:
    code = clone / "components/preparation/corpus_pipeline.py"
    code.write_text(code.read_text().replace("\nCODE_VERSION = ", "\nCODE_VERSION = 1"))
    changed = {"components/preparation/corpus_pipeline.py": {"CODE_VERSION": "modified"}}
    assert stage_status(clone) == [{"changed deps": changed}, "always changed"]


def test_committed_metrics_count_every_document_once(clone: Path) -> None:
    with Repo(str(clone)) as repo:
        shown = repo.metrics.show()[""]["data"]["metrics.json"]["data"]
    committed = read_json(clone / "metrics.json")
    assert list(committed) == list(PRESET_CORPORA)
    for corpus, counts in committed.items():
        # DVC leaves out an empty mapping.
        assert shown[corpus] == {name: value for name, value in counts.items() if value != {}}
        num_rejected = sum(counts["rejected"].values())
        num_documents = counts["documents"] + counts["duplicates"] + num_rejected
        assert num_documents == counts["raw_documents"] > 0


def test_params_are_the_arguments_of_both_commands(clone: Path) -> None:
    assert commands(clone) == [
        "codegen prepare --recipe starter",
        "codegen data card --json --recipe starter > metrics.json",
    ]
    (clone / "params.yaml").write_text("prepare: {recipe: tiny, set: [seed=1, data.preset=tiny]}\n")
    assert commands(clone) == [
        "codegen prepare --recipe tiny --set seed=1 --set data.preset=tiny",
        "codegen data card --json --recipe tiny --set seed=1 --set data.preset=tiny > metrics.json",
    ]
