"""Fetches pinned archives from a local folder, the cache or a package index.

Every archive is checked against its pinned SHA-256, so its origin does not matter. The index comes
from pip's configuration. Downloads resume after a lost connection.
"""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import requests
from pypi_simple import (
    PYPI_SIMPLE_ENDPOINT,
    NoSuchProjectError,
    PyPISimple,
    UnsupportedContentTypeError,
)
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from components.core.errors import FetchError
from components.core.files import require_disk_space, wrap_disk_full
from components.core.fingerprint import sha256_file
from components.core.network import redact_credentials
from components.core.progress import Advance, track
from components.data.archives.pins import Archive

logger = logging.getLogger(__name__)

_NUM_THREADS = 4
"""Parallel downloads (assumption: enough to hide an index's latency)."""
_TIMEOUT_S = 30.0
"""Timeout of a connection that receives nothing (assumption)."""
_RETRY = Retry(total=3, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504))
"""Retries of transient errors (assumption: longer outages than two seconds are reported to the
user)."""
_CHUNK_BYTES = 1 << 14
"""Bytes of a write; a lost connection loses an incomplete chunk."""


class PackageIndex(NamedTuple):
    """A package index (simple repository API)."""

    url: str = PYPI_SIMPLE_ENDPOINT
    certificates: str | None = None
    """Path of a certificate bundle; None: the default of `requests`."""

    @classmethod
    def from_pip(cls, environ: Mapping[str, str]) -> PackageIndex:
        """The index that pip uses: from PIP_INDEX_URL and PIP_CERT, pip's configuration files, or
        pip's default.
        """
        is_complete = {"PIP_INDEX_URL", "PIP_CERT"} <= environ.keys()
        config = {} if is_complete else _pip_config(environ)
        url = environ.get("PIP_INDEX_URL") or config.get("global.index-url")
        certificates = environ.get("PIP_CERT") or config.get("global.cert")
        return cls(url or PYPI_SIMPLE_ENDPOINT, certificates)

    @property
    def label(self) -> str:
        """The URL without a password."""
        return redact_credentials(self.url)


def _pip_config(environ: Mapping[str, str]) -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(environ)
    )
    if process.returncode:  # For example, pip is not installed.
        logger.debug("pip's configuration cannot be read: %s", process.stderr.strip())
    config = {}
    for line in process.stdout.splitlines():
        key, _, value = line.partition("=")
        if key in ("global.index-url", "global.cert"):
            config[key] = str(ast.literal_eval(value))
    return config


def fetch_archives(
    archives: Sequence[Archive],
    cache: Path,
    *,
    folder: Path | None = None,
    index: PackageIndex | None = None,
) -> dict[str, Path]:
    """Fetch archives and check their SHA-256; returns local paths by file name.

    Args:
        archives: the pins.
        cache: folder of downloads. An incomplete download stays there as `.part` and is resumed.
        folder: local archives, used first and never changed.
        index: source of all other archives; None: the default of pypi-simple.

    Raises:
        FetchError: an archive differs from its pin or is not on the index, or the index fails.
        DiskFullError: no disk space for the archives.
    """
    index = index or PackageIndex()
    paths = {archive.file: _find_local(archive, cache, folder) for archive in archives}
    missing = [archive for archive in archives if paths[archive.file] is None]
    if missing:
        _download_all(missing, cache, index)
    return {file: path or cache / file for file, path in paths.items()}


def _find_local(archive: Archive, cache: Path, folder: Path | None) -> Path | None:
    if folder and (path := folder / archive.file).exists():
        sha256 = sha256_file(path)
        if sha256 != archive.sha256:
            got = f"{path} has SHA-256 {sha256}"
            raise _unpinned_bytes(archive, got, f"replace or remove {path}")
        return path
    if (path := cache / archive.file).exists():
        if sha256_file(path) == archive.sha256:
            return path
        logger.warning("%s in the cache is damaged and is fetched again", archive.file)
        path.unlink()
    return None


def _download_all(archives: Sequence[Archive], cache: Path, index: PackageIndex) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    total = sum(archive.size_bytes for archive in archives)
    require_disk_space(cache, total, f"{len(archives)} archives ({archives[0].file}, ...)")
    stop = threading.Event()
    with (
        track("fetching archives", total, "bytes") as advance,
        ThreadPoolExecutor(_NUM_THREADS) as pool,
    ):
        downloads = [
            pool.submit(_Download(archive, cache, index, advance, stop.is_set).run)
            for archive in archives
        ]
        try:
            for download in as_completed(downloads):
                download.result()
        except BaseException:
            stop.set()  # A failure or Ctrl-C stops the other downloads at their next chunk.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Download:
    """The download of an archive into the cache."""

    archive: Archive
    cache: Path
    index: PackageIndex
    advance: Advance
    is_stopped: Callable[[], bool]

    @property
    def part(self) -> Path:
        return self.cache / f"{self.archive.file}.part"

    def run(self) -> None:
        with (
            _wrap_index_errors(self.archive, self.index),
            wrap_disk_full(f"fetching {self.archive.file}"),
            PyPISimple(self.index.url) as client,
        ):
            client.s.mount("http://", HTTPAdapter(max_retries=_RETRY))
            client.s.mount("https://", HTTPAdapter(max_retries=_RETRY))
            client.s.verify = self.index.certificates or True
            self.advance(self._num_bytes())
            if self._num_bytes() < self.archive.size_bytes:
                self._download(client, self._url(client))
        if not self.is_stopped():
            self._publish()

    def _url(self, client: PyPISimple) -> str:
        page = client.get_project_page(self.archive.name, timeout=_TIMEOUT_S)
        for package in page.packages:
            if package.filename == self.archive.file:
                return str(package.url)
        raise NoSuchProjectError(self.archive.name, client.get_project_url(self.archive.name))

    def _download(self, client: PyPISimple, url: str) -> None:
        """Request missing bytes until the file is complete, or until a request brings no bytes."""
        while (start := self._num_bytes()) < self.archive.size_bytes and not self.is_stopped():
            try:
                self._stream(client, url, start)
            except requests.RequestException:
                if self._num_bytes() <= start:
                    raise
            else:
                if self._num_bytes() <= start:
                    return  # The index has a shorter file, which the check of the hash reports.

    def _stream(self, client: PyPISimple, url: str, start: int) -> None:
        # "identity": a decoded transfer encoding would give other bytes and offsets.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with client.s.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()
            is_resumed = response.status_code == requests.codes.partial_content
            if not is_resumed:
                self.advance(-start)
            with self.part.open("ab" if is_resumed else "wb") as file:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    self.advance(len(chunk))
                    if self.is_stopped() or file.tell() > self.archive.size_bytes:
                        return

    def _num_bytes(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _publish(self) -> None:
        sha256 = sha256_file(self.part)
        if sha256 != self.archive.sha256:
            got = f"{self.index.label} sent {self._num_bytes():,} bytes with SHA-256 {sha256}"
            self.part.unlink()
            fix = "run the command again; if the error repeats, use another index"
            raise _unpinned_bytes(self.archive, got, fix)
        self.part.replace(self.cache / self.archive.file)


def _unpinned_bytes(archive: Archive, got: str, fix: str) -> FetchError:
    return FetchError(
        f"{archive.file} is not the pinned archive: {got}",
        expected=f"{archive.size_bytes:,} bytes with SHA-256 {archive.sha256}",
        fix=fix,
    )


@contextmanager
def _wrap_index_errors(archive: Archive, index: PackageIndex) -> Iterator[None]:
    """Convert errors of the network and the index to an error that names the archive."""
    local_fix = f"put {archive.file} into a folder and set CODEGEN_ARCHIVES to that folder"
    try:
        yield
    except NoSuchProjectError:
        raise FetchError(
            f"{archive.file} is not on the index {index.label}",
            expected=f"the pinned file of {archive.name} {archive.version}",
            fix=f"set PIP_INDEX_URL to an index that has it, or {local_fix}",
        ) from None
    except (requests.RequestException, UnsupportedContentTypeError) as error:
        raise FetchError(
            f"{archive.file} could not be fetched from {index.label}: {error}",
            expected="a reachable package index",
            fix="check the network, PIP_INDEX_URL and PIP_CERT and run the command again, which "
            f"resumes the download, or {local_fix}",
        ) from error
