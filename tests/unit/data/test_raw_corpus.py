"""Raw corpora as artifacts, and the checks of `data/`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess

import pytest
from dvc.repo import Repo
from fixtures.projects import dvc_status, pull_fixtures
from fixtures.sources import read
from mlflow.utils.validation import _validate_dataset_inputs

from components.core.errors import DataError
from components.data.archives.fetch import PackageIndex
from components.data.archives.pull import pull
from components.data.config import DataConfig
from components.data.dvc import dvc_repo
from components.data.raw_corpus import (
    artifact_from_listing,
    corpus_sources,
    load_raw_artifacts,
    require_same_bytes,
)
from components.data.sources.config import Source
from components.registry.lineage import dataset_input
from flows.settings.execution import Execution, environment


@pytest.fixture
def pulled(project, fixture_archives, tmp_path):
    unreachable = PackageIndex("http://127.0.0.1:1/simple/")
    pull(
        project,
        "tiny",
        tmp_path / "cache",
        pins=fixture_archives.pins,
        archives=fixture_archives.folder,
        index=lambda: unreachable,
    )
    return project


def test_each_corpus_is_an_artifact_with_the_dvc_md5(pulled):
    artifacts = load_raw_artifacts(pulled)
    assert list(artifacts) == ["nl", "multi", "mono"]
    assert {artifact.kind for artifact in artifacts.values()} == {"raw-corpus"}
    assert artifacts["nl"].address == str(pulled / "data" / "nl")
    assert artifacts["multi"].statistics["num_files"] == 3
    assert artifacts["multi"].statistics["num_documents"] == 6 * 120 + 2
    md5 = (pulled / "data.dvc").read_text().split("md5: ")[1].split("\n")[0]
    assert {artifact.provenance["dvc_md5"] for artifact in artifacts.values()} == {md5}
    assert len({artifact.recipe_hash for artifact in artifacts.values()}) == 3

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
    require_same_bytes(raw, pulled)
    with next((pulled / "data" / "nl").glob("*.jsonl")).open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match=r"was changed while mono was read"):
        require_same_bytes(raw, pulled)
    shutil.rmtree(pulled / "data")
    with pytest.raises(DataError, match=r"it holds nothing"):
        require_same_bytes(raw, pulled)


def test_missing_data_asks_for_a_pull(project):
    with pytest.raises(DataError) as caught:
        load_raw_artifacts(project)
    assert "data.dvc does not exist" in caught.value.got
    assert "codegen data pull" in caught.value.fix


def test_mlflow_accepts_a_corpus_of_many_sources(tmp_path):
    sources = []
    for number in range(900):
        path = tmp_path / f"{'x' * 80}-{number:03d}.jsonl"
        path.write_text("{}\n")
        sources.append(Source(uri=str(path)))
    assert sum(len(source.uri) for source in sources) > 65_535
    artifact = artifact_from_listing("mono", sources)
    assert artifact.address.startswith(sources[0].uri)
    assert artifact.address.endswith(" and 895 more")
    assert artifact.statistics["num_files"] == 900
    _validate_dataset_inputs([dataset_input(artifact, "training", None)])


def test_name_that_is_not_utf8_below_data_is_an_error(pulled):
    (pulled / "data" / "mono" / os.fsdecode(b"donn\xe9es.jsonl")).write_text("{}\n")
    with pytest.raises(DataError) as caught:
        load_raw_artifacts(pulled)
    assert caught.value.got.endswith("/data/mono/donn\\xe9es.jsonl")


@pytest.mark.parametrize("link_type", ["symlink", "hardlink"])
def test_data_may_consist_of_links_into_the_cache(project, fixture_archives, tmp_path, link_type):
    """With DVC's setting cache.type."""
    with Repo(str(project)) as repo, repo.config.edit() as config:
        config["cache"]["type"] = [link_type]
    pull_fixtures(project, fixture_archives)
    paths = sorted((project / "data" / "mono").glob("*.jsonl"))
    assert all(path.is_symlink() == (link_type == "symlink") for path in paths)
    artifact = load_raw_artifacts(project)["mono"]
    (batch,) = read(corpus_sources(DataConfig(), "mono", project)[0])
    assert batch.records.num_rows == artifact.statistics["num_documents"] > 0


@pytest.mark.parametrize("target", ["absent", "link.jsonl"])
def test_link_without_a_target_below_data_is_an_error(pulled, target):
    (pulled / "data" / "mono" / "link.jsonl").symlink_to(target)
    with pytest.raises(DataError, match=r"link\.jsonl is a link without a target") as caught:
        load_raw_artifacts(pulled)
    assert "codegen data pull" in caught.value.fix


def test_incomplete_lock_file_of_a_killed_dvc_is_removed(pulled):
    rwlock = pulled / ".dvc" / "tmp" / "rwlock"
    for content in ("", '{"write": {"da', "[]"):
        rwlock.write_text(content)
        assert dvc_repo.is_clean(pulled)
        assert dvc_status(pulled) == {}


def test_entry_of_a_dead_process_in_the_lock_file_is_ignored(pulled):
    process = subprocess.Popen(["true"])
    process.wait()
    holder = {"pid": process.pid, "cmd": "dvc add"}
    rwlock = pulled / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text(json.dumps({"write": {str(pulled / "data"): holder}}))
    assert dvc_repo.is_clean(pulled)


def test_entry_of_a_living_process_names_the_lock_file(pulled):
    holder = {"pid": os.getppid(), "cmd": "dvc add"}
    rwlock = pulled / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text(json.dumps({"write": {str(pulled / "data"): holder}}))
    with pytest.raises(DataError) as caught:
        dvc_repo.is_clean(pulled)
    assert f"(PID {os.getppid()})" in caught.value.got
    assert f"remove {rwlock}" in caught.value.fix


def test_damaged_table_of_hashes_is_rebuilt(pulled, monkeypatch):
    """In the environment of a command."""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    for name, value in environment(Execution(project=str(pulled))).items():
        monkeypatch.setenv(name, value)
    assert dvc_repo.is_clean(pulled)
    databases = list((pulled / ".dvc" / "tmp" / "state").rglob("cache.db"))
    assert len(databases) == 2
    for database in databases:
        database.write_bytes(b"damaged" * 1000)
    assert dvc_repo.is_clean(pulled)


def test_pointer_is_compared_with_the_last_commit(pulled):
    assert dvc_repo.differs_from_head(pulled) is None
    git(pulled, "init")
    with Repo(str(pulled)) as repo, repo.config.edit() as config:
        del config["core"]["no_scm"]
    assert dvc_repo.differs_from_head(pulled) is None
    git(pulled, "commit", "--allow-empty", "-m", "empty")
    assert dvc_repo.differs_from_head(pulled) is True
    git(pulled, "add", "data.dvc")
    assert dvc_repo.differs_from_head(pulled) is True
    git(pulled, "commit", "-m", "data")
    assert dvc_repo.differs_from_head(pulled) is False
    (pulled / "data.dvc").write_text((pulled / "data.dvc").read_text().replace("tiny", "starter"))
    assert dvc_repo.differs_from_head(pulled) is True


def git(folder, *arguments):
    author = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    subprocess.run(["git", "-C", str(folder), *author, *arguments], check=True, capture_output=True)
