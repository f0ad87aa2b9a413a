"""Raw corpora as artifacts, and the checks of `data/`."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from components.core.errors import DataError
from components.data.archives.fetch import PackageIndex
from components.data.archives.pull import pull
from components.data.raw_corpus import load_raw_artifacts, require_same_bytes


@pytest.fixture
def pulled(project, fixture_archives, tmp_path):
    unreachable = PackageIndex("http://127.0.0.1:1/simple/")
    pull(
        project,
        "tiny",
        tmp_path / "cache",
        pins=fixture_archives.pins,
        archives=fixture_archives.folder,
        index=unreachable,
    )
    return project


def test_each_corpus_is_an_artifact_with_the_dvc_md5(pulled):
    artifacts = load_raw_artifacts(pulled)
    assert list(artifacts) == ["nl", "multi", "mono", "vocabulary"]
    assert {artifact.kind for artifact in artifacts.values()} == {"raw-corpus"}
    assert artifacts["nl"].address == str(pulled / "data" / "nl")
    assert artifacts["multi"].statistics["num_files"] == 3
    assert artifacts["multi"].statistics["num_documents"] == 6 * 120 + 2
    assert "num_documents" not in artifacts["vocabulary"].statistics
    md5 = (pulled / "data.dvc").read_text().split("md5: ")[1].split("\n")[0]
    assert {artifact.provenance["dvc_md5"] for artifact in artifacts.values()} == {md5}
    assert len({artifact.recipe_hash for artifact in artifacts.values()}) == 4

    file = pulled / "data" / "mono" / "scripts-1.0.jsonl"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    line = f"scripts-1.0.jsonl\0{file.stat().st_size}\0{sha256}\n"
    assert artifacts["mono"].digest == hashlib.sha256(line.encode()).hexdigest()


def test_artifacts_are_deterministic(pulled):
    assert load_raw_artifacts(pulled) == load_raw_artifacts(pulled)


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_manually_changed_data_is_rejected_with_the_corpus(pulled, change):
    file = pulled / "data" / "multi" / "lowlevel-1.0.jsonl"
    if change == "edit":
        file.write_text(file.read_text().replace("long", "Long", 1))
    elif change == "add":
        file.with_name("mine.jsonl").write_text("{}\n")
    else:
        file.unlink()
    with pytest.raises(DataError) as caught:
        load_raw_artifacts(pulled)
    assert "changed: multi (data/multi/" in caught.value.got
    assert "data.dvc commits" in caught.value.expected
    assert "codegen data pull --preset tiny" in caught.value.fix


def test_change_while_a_corpus_is_read_is_detected(pulled):
    """For example, another run pulls another preset."""
    raw = load_raw_artifacts(pulled)["mono"]
    require_same_bytes(raw)
    with next((pulled / "data" / "nl").glob("*.jsonl")).open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match=r"was changed while mono was read"):
        require_same_bytes(raw)
    shutil.rmtree(pulled / "data")
    with pytest.raises(DataError, match=r"it holds nothing"):
        require_same_bytes(raw)


def test_missing_data_asks_for_a_pull(project):
    with pytest.raises(DataError) as caught:
        load_raw_artifacts(project)
    assert "data.dvc does not exist" in caught.value.got
    assert "codegen data pull" in caught.value.fix
