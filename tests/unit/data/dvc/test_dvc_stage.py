"""The stage of dvc.yaml, as DVC reads it, and its committed dvc.lock and metrics.json."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml

from components.core.files import read_json
from components.data.config import CORPORA

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
def clone(project: Path) -> Path:
    """The files of the checkout that DVC reads, as in a fresh clone."""
    for name in FILES:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, project / name)
    config = (CHECKOUT / ".dvc/config").read_text()
    (project / ".dvc/config").write_text(config.replace("[core]", "[core]\n    no_scm = true"))
    return project


def commands(project: Path) -> list[str]:
    with Repo(str(project)) as repo:
        return repo.stage.load_one(name="prepare").cmd


def test_committed_lock_is_current(clone: Path) -> None:
    """After a change of the pins, a CODE_VERSION or params.yaml, run `dvc repro` and commit its files."""
    with Repo(str(clone)) as repo:
        assert repo.status() == {
            "data.dvc": [{"changed outs": {"data": "deleted"}}],
            "prepare": ["always changed"],
        }
        assert repo.params.diff() == {}
    (lock,) = load_yaml(str(clone / "dvc.lock"))["stages"].values()
    md5 = hashlib.md5((clone / "data.dvc").read_bytes(), usedforsecurity=False).hexdigest()
    assert md5 in [dependency.get("md5") for dependency in lock["deps"]]


def test_committed_metrics_are_those_of_the_three_corpora(clone: Path) -> None:
    with Repo(str(clone)) as repo:
        shown = repo.metrics.show()[""]["data"]["metrics.json"]["data"]
    assert shown == read_json(clone / "metrics.json")
    assert list(shown) == list(CORPORA)
    for counts in shown.values():
        num_rejected = sum(counts["rejected"].values())
        assert counts["documents"] == (
            counts["raw_documents"] - num_rejected - counts["duplicates"]
        )
        assert len(counts["digest"]) == 64


def test_params_are_the_arguments_of_both_commands(clone: Path) -> None:
    assert commands(clone) == [
        "codegen prepare --recipe starter",
        "codegen data card --json --recipe starter > metrics.json",
    ]
    (clone / "params.yaml").write_text("prepare: {recipe: tiny, set: [seed=1, data.preset=tiny]}\n")
    assert commands(clone)[0] == "codegen prepare --recipe tiny --set seed=1 --set data.preset=tiny"
