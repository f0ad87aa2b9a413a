"""Downloads from a package index on loopback."""

from __future__ import annotations

import os
import socket

import pytest
from fixtures.index import serve_index

from components.core.errors import FetchError
from components.data.archives.fetch import PackageIndex, fetch_archives


@pytest.fixture
def index(fixture_archives):
    with serve_index(fixture_archives.folder) as server:
        yield server


@pytest.fixture
def archive(fixture_archives):
    """A pinned archive of about 200 kB."""
    return next(package for package in fixture_archives.pins.packages if package.name == "services")


def _unused_url():
    """The URL of a local port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/simple/"


def test_archives_are_downloaded_once(fixture_archives, index, tmp_path):
    pins = fixture_archives.pins.packages_of("tiny")
    paths = fetch_archives(pins, tmp_path, index=PackageIndex(index.url))
    assert {file: path.read_bytes() for file, path in paths.items()} == {
        pin.file: (fixture_archives.folder / pin.file).read_bytes() for pin in pins
    }
    assert len(index.requests) == len(pins)
    assert fetch_archives(pins, tmp_path, index=PackageIndex(_unused_url())) == paths


def test_interrupted_download_is_resumed(fixture_archives, archive, index, tmp_path):
    index.cuts = [70_000, 50_000]
    paths = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))
    # Whole chunks of 16 KiB.
    ranges = [None, "bytes=65536-", "bytes=114688-"]
    assert [requested_range for _, requested_range in index.requests] == ranges
    assert paths[archive.file].read_bytes() == (fixture_archives.folder / archive.file).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [archive.file]


def test_next_call_resumes_a_failed_download(fixture_archives, archive, index, tmp_path):
    index.cuts = [70_000, 0]
    with pytest.raises(FetchError, match=archive.file):
        fetch_archives([archive], tmp_path, index=PackageIndex(index.url))
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [
        (f"{archive.file}.part", 65_536)
    ]

    path = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))[archive.file]
    assert index.requests[-1] == (archive.file, "bytes=65536-")
    assert path.read_bytes() == (fixture_archives.folder / archive.file).read_bytes()


def test_index_without_ranges_sends_the_whole_file_again(
    fixture_archives, archive, index, tmp_path
):
    index.has_ranges = False
    index.cuts = [70_000]
    path = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))[archive.file]
    assert path.read_bytes() == (fixture_archives.folder / archive.file).read_bytes()


@pytest.mark.parametrize("served", ["wrong bytes of that size", "too short", "too long"])
def test_unpinned_bytes_are_rejected_and_removed(fixture_archives, archive, tmp_path, served):
    content = (fixture_archives.folder / archive.file).read_bytes()
    wrong_content = {"too short": content[:-1], "too long": content + b"!"}.get(
        served, content[:-1] + b"!"
    )
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / archive.file).write_bytes(wrong_content)
    with serve_index(tmp_path / "served") as index, pytest.raises(FetchError) as caught:
        fetch_archives([archive], tmp_path / "cache", index=PackageIndex(index.url))
    assert f"{archive.file} is not the pinned archive" in caught.value.got
    assert archive.sha256 in caught.value.expected
    assert list((tmp_path / "cache").iterdir()) == []


def test_file_missing_on_the_index_is_reported(archive, tmp_path):
    (tmp_path / "served").mkdir()
    with serve_index(tmp_path / "served") as index:
        with pytest.raises(FetchError, match=f"{archive.file} is not on the index"):
            fetch_archives([archive], tmp_path / "cache", index=PackageIndex(index.url))
        (tmp_path / "served" / "services-1.0-extra.zip").write_bytes(
            b"the project, but not the file"
        )
        with pytest.raises(FetchError, match=f"{archive.file} is not on the index"):
            fetch_archives([archive], tmp_path / "cache", index=PackageIndex(index.url))


def test_network_error_explains_local_archives(archive, tmp_path):
    url = _unused_url()
    with pytest.raises(FetchError) as caught:
        fetch_archives([archive], tmp_path, index=PackageIndex(url))
    assert f"{archive.file} could not be fetched from {url}" in caught.value.got
    assert "CODEGEN_ARCHIVES" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_http_error_of_the_index_raises_fetch_error(archive, index, tmp_path):
    index.status = 403
    with pytest.raises(FetchError, match="403"):
        fetch_archives([archive], tmp_path, index=PackageIndex(index.url))


def test_password_in_index_url_is_not_printed(archive, tmp_path):
    url = _unused_url().replace("http://", "http://me:secret@")
    with pytest.raises(FetchError) as caught:
        fetch_archives([archive], tmp_path, index=PackageIndex(url))
    assert "secret" not in str(caught.value)


def test_local_folder_is_used_first_and_never_changed(fixture_archives, archive, tmp_path):
    unreachable = PackageIndex(_unused_url())
    paths = fetch_archives(
        [archive], tmp_path / "cache", folder=fixture_archives.folder, index=unreachable
    )
    assert paths == {archive.file: fixture_archives.folder / archive.file}

    local = tmp_path / "local" / archive.file
    local.parent.mkdir()
    local.write_bytes(b"something else")
    with pytest.raises(FetchError, match=f"{archive.file} is not the pinned archive"):
        fetch_archives([archive], tmp_path / "cache", folder=local.parent, index=unreachable)
    assert local.read_bytes() == b"something else"


def test_damaged_archive_in_the_cache_is_downloaded_again(
    fixture_archives, archive, index, tmp_path
):
    (tmp_path / archive.file).write_bytes(b"damaged")
    path = fetch_archives([archive], tmp_path, index=PackageIndex(index.url))[archive.file]
    assert path.read_bytes() == (fixture_archives.folder / archive.file).read_bytes()


def test_index_comes_from_pip_configuration(tmp_path):
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
