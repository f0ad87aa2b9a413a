"""Fetching from a real index on loopback: the pinned bytes, or one error that names the archive."""

from __future__ import annotations

import os
import socket

import pytest
from fixtures.index import serving

from components.core.errors import FetchError
from components.data.archives.fetch import PackageIndex, fetch_archives


@pytest.fixture
def index(fixture_archives):
    with serving(fixture_archives.folder) as server:
        yield server


@pytest.fixture
def archive(fixture_archives):
    """One pinned archive, of some 200 kB."""
    return next(package for package in fixture_archives.pins.packages if package.name == "services")


def _refused():
    """The URL of a port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/simple/"


def test_archives_come_from_the_index_once(fixture_archives, index, tmp_path):
    pins = fixture_archives.pins.of("tiny")
    paths = fetch_archives(pins, tmp_path, index=PackageIndex(index.url))
    assert {file: path.read_bytes() for file, path in paths.items()} == {
        pin.file: (fixture_archives.folder / pin.file).read_bytes() for pin in pins
    }
    assert len(index.asked) == len(pins)
    assert fetch_archives(pins, tmp_path, index=PackageIndex(_refused())) == paths


def test_a_cut_download_is_continued_where_it_stopped(fixture_archives, archive, index, tmp_path):
    index.cuts = [70_000, 50_000]
    paths = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))
    assert [asked for _, asked in index.asked] == [
        None,
        "bytes=65536-",
        "bytes=114688-",
    ]  # whole chunks of 16 KiB
    assert paths[archive.file].read_bytes() == (fixture_archives.folder / archive.file).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [archive.file]


def test_the_next_run_continues_a_download_that_failed(fixture_archives, archive, index, tmp_path):
    index.cuts = [70_000, 0]
    with pytest.raises(FetchError, match=archive.file):
        fetch_archives([archive], tmp_path, index=PackageIndex(index.url))
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [
        (f"{archive.file}.part", 65_536)
    ]

    path = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))[archive.file]
    assert index.asked[-1] == (archive.file, "bytes=65536-")
    assert path.read_bytes() == (fixture_archives.folder / archive.file).read_bytes()


def test_an_index_without_ranges_is_asked_for_the_whole_again(
    fixture_archives, archive, index, tmp_path
):
    index.has_ranges = False
    index.cuts = [70_000]
    path = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))[archive.file]
    assert path.read_bytes() == (fixture_archives.folder / archive.file).read_bytes()


@pytest.mark.parametrize("served", ["other bytes of that size", "too short", "too long"])
def test_other_bytes_than_the_pinned_are_refused_and_removed(
    fixture_archives, archive, tmp_path, served
):
    content = (fixture_archives.folder / archive.file).read_bytes()
    other = {"too short": content[:-1], "too long": content + b"!"}.get(served, content[:-1] + b"!")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / archive.file).write_bytes(other)
    with serving(tmp_path / "served") as index, pytest.raises(FetchError) as caught:
        fetch_archives([archive], tmp_path / "cache", index=PackageIndex(index.url))
    assert f"{archive.file} is not the pinned archive" in caught.value.got
    assert archive.sha256 in caught.value.expected
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_the_index_does_not_have_is_named(archive, tmp_path):
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as index:
        with pytest.raises(FetchError, match=f"{archive.file} is not on the index"):
            fetch_archives([archive], tmp_path / "cache", index=PackageIndex(index.url))
        (tmp_path / "served" / "services-1.0-extra.zip").write_bytes(
            b"the project, but not the file"
        )
        with pytest.raises(FetchError, match=f"{archive.file} is not on the index"):
            fetch_archives([archive], tmp_path / "cache", index=PackageIndex(index.url))


def test_no_network_is_said_with_the_way_out(archive, tmp_path):
    url = _refused()
    with pytest.raises(FetchError) as caught:
        fetch_archives([archive], tmp_path, index=PackageIndex(url))
    assert f"{archive.file} could not be fetched from {url}" in caught.value.got
    assert "CODEGEN_ARCHIVES" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_is_broken_is_no_crash(archive, index, tmp_path):
    index.status = 403
    with pytest.raises(FetchError, match="403"):
        fetch_archives([archive], tmp_path, index=PackageIndex(index.url))


def test_a_password_in_the_address_of_the_index_is_not_printed(archive, tmp_path):
    url = _refused().replace("http://", "http://me:secret@")
    with pytest.raises(FetchError) as caught:
        fetch_archives([archive], tmp_path, index=PackageIndex(url))
    assert "secret" not in str(caught.value)


def test_a_folder_of_archives_is_used_first_and_never_changed(fixture_archives, archive, tmp_path):
    nowhere = PackageIndex(_refused())
    paths = fetch_archives(
        [archive], tmp_path / "cache", folder=fixture_archives.folder, index=nowhere
    )
    assert paths == {archive.file: fixture_archives.folder / archive.file}

    own = tmp_path / "own" / archive.file
    own.parent.mkdir()
    own.write_bytes(b"something else")
    with pytest.raises(FetchError, match=f"{archive.file} is not the pinned archive"):
        fetch_archives([archive], tmp_path / "cache", folder=own.parent, index=nowhere)
    assert own.read_bytes() == b"something else"


def test_a_damaged_archive_in_the_cache_is_fetched_again(
    fixture_archives, archive, index, tmp_path
):
    (tmp_path / archive.file).write_bytes(b"damaged")
    path = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))[archive.file]
    assert path.read_bytes() == (fixture_archives.folder / archive.file).read_bytes()


def test_the_index_is_the_one_that_pip_would_use(tmp_path):
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = http://127.0.0.1:1/file/\ncert = /tmp/file.pem\n"
    )
    unset = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    from_file = {**unset, "PIP_CONFIG_FILE": str(configuration)}
    assert PackageIndex.from_pip(from_file) == PackageIndex(
        "http://127.0.0.1:1/file/", "/tmp/file.pem"
    )

    from_both = {**from_file, "PIP_INDEX_URL": "http://127.0.0.1:1/environment/"}
    assert PackageIndex.from_pip(from_both) == PackageIndex(
        "http://127.0.0.1:1/environment/", "/tmp/file.pem"
    )

    configuration.write_text("")
    user = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    assert PackageIndex.from_pip({**unset, **user}) == PackageIndex()
