"""Sources that DVC pins: found by path, checked, and changes named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import fsspec
import pytest
from dvc.repo import Repo
from fixtures.codegen_command import run_codegen
from fixtures.processes import environment_without_settings
from fixtures.projects import new_project

from components.core.errors import DataError
from components.data.dvc.dvc_pins import SourcePins, verify_pins
from components.data.raw_corpus import artifact_from_listing, require_same_bytes
from components.data.sources.config import Source


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the corpora `python/` (two files) and `go.jsonl`, pinned by `dvc add`."""
    folder = new_project(tmp_path / "project")
    (folder / "corpora/python").mkdir(parents=True)
    for name in ("python/a", "python/b", "go"):
        (folder / f"corpora/{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
    with Repo(str(folder)) as repo:
        repo.add([str(folder / "corpora/python")])
        repo.add([str(folder / "corpora/go.jsonl")])
    return folder


def md5_of(dvc_file: Path) -> str:
    """The first checksum in a `.dvc` file, read without DVC."""
    lines = dvc_file.read_text().split("outs:" if "deps:" not in dvc_file.read_text() else "deps:")
    return next(
        line.split(": ")[1]
        for line in lines[1].splitlines()
        if line.startswith(("- md5:", "- etag:"))
    )


def artifact(project: Path, *uris: str):
    return artifact_from_listing("mono", [Source(uri=uri) for uri in uris], project)


def test_a_pinned_source_has_the_checksums_of_its_dvc_files(project: Path) -> None:
    corpora = project / "corpora"
    expected = {
        "corpora/go.jsonl.dvc": md5_of(corpora / "go.jsonl.dvc"),
        "corpora/python.dvc": md5_of(corpora / "python.dvc"),
    }
    raw = artifact(project, f"{corpora}/python/*.jsonl", f"{corpora}/go.jsonl")
    assert raw.provenance["dvc_pins"] == expected
    assert raw.provenance["dvc_md5"] == ", ".join(sorted(expected.values()))
    single = artifact(project, f"{corpora}/python/*.jsonl")
    assert single.provenance["dvc_md5"] == expected["corpora/python.dvc"]
    assert (
        single.digest
        == artifact_from_listing("mono", [Source(uri=f"{corpora}/python/*.jsonl")]).digest
    ), "a pin changes no identity, so nothing is prepared again"


def test_a_folder_of_code_files_is_pinned_as_a_whole(project: Path) -> None:
    (project / "checkouts/one").mkdir(parents=True)
    (project / "checkouts/one/a.py").write_text("x = 1\n")
    with Repo(str(project)) as repo:
        repo.add([str(project / "checkouts")])
    for uri in (f"{project}/checkouts/*/", f"{project}/checkouts/one"):
        assert list(artifact(project, uri).provenance["dvc_pins"]) == ["checkouts.dvc"]


def test_a_source_with_a_file_that_is_not_pinned_has_no_checksum(project: Path) -> None:
    (project / "corpora/more.jsonl").write_text("{}\n")
    raw = artifact(project, f"{project}/corpora/*.jsonl")
    assert "dvc_md5" not in raw.provenance
    assert verify_pins(project / "corpora", ["/x"]) == SourcePins({}, False), "no DVC, no pins"


def test_a_change_of_pinned_files_is_an_error_that_names_them(project: Path) -> None:
    python = project / "corpora/python"
    pinned = md5_of(project / "corpora/python.dvc")
    (python / "b.jsonl").write_text('{"text": "other"}\n')
    (python / "c.jsonl").write_text("{}\n")
    with pytest.raises(DataError) as caught:
        artifact(project, f"{python}/a.jsonl")
    assert caught.value.got.startswith(f"{python} has the checksum ")
    assert caught.value.got.endswith("; changed: b.jsonl, c.jsonl")
    assert caught.value.expected == f"{pinned}, which corpora/python.dvc pins"
    assert "dvc checkout --force corpora/python.dvc" in caught.value.fix
    artifact(project, f"{project}/corpora/go.jsonl")
    with Repo(str(project)) as repo:
        repo.add([str(python)])
    assert artifact(project, f"{python}/a.jsonl").provenance["dvc_md5"] != pinned


def test_a_change_while_a_corpus_is_read_is_an_error(project: Path) -> None:
    go = project / "corpora/go.jsonl"
    raw = artifact(project, str(go))
    require_same_bytes(raw, project)
    go.write_text('{"text": "other"}\n')
    with pytest.raises(DataError, match=r"go\.jsonl has the checksum"):
        require_same_bytes(raw, project)
    go.unlink()
    with pytest.raises(DataError, match=r"go\.jsonl does not exist"):
        require_same_bytes(raw, project)


def test_links_into_the_cache_of_dvc_are_pinned_too(project: Path) -> None:
    with Repo(str(project)) as repo, repo.config.edit() as config:
        config["cache"]["type"] = ["symlink"]
    shutil.rmtree(project / "corpora/python")
    with Repo(str(project)) as repo:
        repo.checkout([str(project / "corpora/python.dvc")])
    assert (project / "corpora/python/a.jsonl").is_symlink()
    raw = artifact(project, f"{project}/corpora/python/*.jsonl")
    assert list(raw.provenance["dvc_pins"]) == ["corpora/python.dvc"]


@pytest.mark.parametrize("storage", ["folder", "s3"])
def test_files_outside_of_the_project_are_pinned_without_a_copy(
    project: Path, tmp_path: Path, request: pytest.FixtureRequest, storage: str
) -> None:
    root = f"{tmp_path}/pile" if storage == "folder" else f"{request.getfixturevalue('s3')}/pile"
    fs, path = fsspec.core.url_to_fs(root)
    fs.makedirs(path, exist_ok=True)
    for number in range(2):
        fs.pipe(f"{path}/{number}.jsonl", b'{"text": "a"}\n')
    with Repo(str(project)) as repo:
        repo.imp_url(root, str(project / "corpora/pile"), no_download=True)
    assert not (project / "corpora/pile").exists()
    raw = artifact(project, f"{root}/*.jsonl")
    assert raw.provenance["dvc_pins"] == {"corpora/pile.dvc": md5_of(project / "corpora/pile.dvc")}
    fs.pipe(f"{path}/1.jsonl", b'{"text": "changed"}\n')
    with pytest.raises(DataError) as caught:
        artifact(project, f"{root}/0.jsonl")
    assert caught.value.got.startswith(f"{root} has the checksum ")
    assert "dvc update --no-download corpora/pile.dvc" in caught.value.fix
    with Repo(str(project)) as repo:
        repo.update([str(project / "corpora/pile.dvc")], no_download=True)
    assert artifact(project, f"{root}/0.jsonl").provenance["dvc_pins"]


def test_the_status_command_compares_the_pins(project: Path) -> None:
    """In a project without data/."""

    def status(*options: str) -> CompletedProcess[str]:
        return run_codegen(
            *("data", "status", *options, "--exec", f"project={project}"),
            environment=environment_without_settings(),
        )

    document = json.loads(status("--json").stdout)
    files = ["corpora/go.jsonl.dvc", "corpora/python.dvc"]
    assert [pin["file"] for pin in document["pins"]] == files
    assert document["clean"] is True
    (project / "corpora/python/a.jsonl").write_text("{}\n")
    changed = status()
    assert changed.returncode == 1
    assert changed.stdout.splitlines()[0].startswith("corpora/go.jsonl.dvc: clean, ")
    assert "changed: a.jsonl" in changed.stderr
