"""Fetch pinned archives: what arrives is the pinned bytes, or it is an error that names the archive.

Design decision: our own SHA-256 is the only thing that is trusted. Where an archive comes from (a local folder, the cache,
a package index) does not matter, so no index is named here: pip's configuration says which one, pypi-simple how to ask it.
What is not covered: building, unpacking or running anything that was fetched.
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
from urllib.parse import urlsplit

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
from components.core.progress import Advance, track
from components.data.archives.pins import Archive

logger = logging.getLogger(__name__)

_NUM_THREADS = 4
"""Archives fetched at a time (assumption: enough to hide an index's latency, few enough to be polite)."""
_TIMEOUT_S = 30.0
"""Seconds without a byte after which a connection counts as dead (assumption)."""
_RETRY = Retry(total=3, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504))
"""For answers that are worth asking again (assumption: an outage of more than a second or two is for the user to see)."""
_CHUNK_BYTES = 1 << 14
"""Bytes written at a time; what a cut connection left of a chunk is lost."""


class PackageIndex(NamedTuple):
    """A package index of the simple repository API, and how its certificate is checked."""

    url: str = PYPI_SIMPLE_ENDPOINT
    certificates: str | None = None
    """Path of a bundle of certificates; None is the default of `requests`."""

    @classmethod
    def from_pip(cls, environ: Mapping[str, str]) -> PackageIndex:
        """The index that pip would use: PIP_INDEX_URL and PIP_CERT, else pip's configuration files, else the default."""
        configured = (
            {} if {"PIP_INDEX_URL", "PIP_CERT"} <= environ.keys() else _pip_configuration(environ)
        )
        url = (
            environ.get("PIP_INDEX_URL")
            or configured.get("global.index-url")
            or PYPI_SIMPLE_ENDPOINT
        )
        return cls(url, environ.get("PIP_CERT") or configured.get("global.cert"))

    @property
    def label(self) -> str:
        """The URL without a password, for messages."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _pip_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environ))
    if done.returncode:
        logger.debug(
            "pip has no configuration to read: %s", done.stderr.strip()
        )  # e.g. an environment without pip
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {
        key: str(ast.literal_eval(value))
        for key, _, value in pairs
        if key in ("global.index-url", "global.cert")
    }


def fetch(
    archives: Sequence[Archive],
    cache: Path,
    *,
    folder: Path | None = None,
    index: PackageIndex | None = None,
) -> dict[str, Path]:
    """The local path of every archive, by file name, each one checked against its SHA-256.

    Args:
        cache: folder for what is downloaded. A download that was cut stays there as `.part` and is continued.
        folder: archives that are there already, looked at first and never changed.
        index: where the rest comes from; None is the default of pypi-simple.

    Raises:
        FetchError: an archive is not the pinned one, is not on the index, or the index does not answer.
        StorageFull: no room for the archives.
    """
    index = index or PackageIndex()
    paths = {archive.file: _find_local(archive, cache, folder) for archive in archives}
    missing = [archive for archive in archives if paths[archive.file] is None]
    if missing:
        _download_all(missing, cache, index)
    return {file: path or cache / file for file, path in paths.items()}


def _find_local(archive: Archive, cache: Path, folder: Path | None) -> Path | None:
    if folder and (given := folder / archive.file).exists():
        if (found := sha256_file(given)) != archive.sha256:
            raise _not_the_pinned(
                archive, f"{given} has SHA-256 {found}", f"replace or remove {given}"
            )
        return given
    if (cached := cache / archive.file).exists():
        if sha256_file(cached) == archive.sha256:
            return cached
        logger.warning("%s in the cache is damaged: it is fetched again", archive.file)
        cached.unlink()
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
            pool.submit(_Download(one, cache, index, advance, stop.is_set).run) for one in archives
        ]
        try:
            for download in as_completed(downloads):
                download.result()
        except (
            BaseException
        ):  # The first failure, or Ctrl-C, ends the other downloads at their next chunk.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True)
class _Download:
    """One archive on its way into the cache."""

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
            _explained(self.archive, self.index),
            wrap_disk_full(f"fetching {self.archive.file}"),
            PyPISimple(self.index.url) as client,
        ):
            client.s.mount("http://", HTTPAdapter(max_retries=_RETRY))
            client.s.mount("https://", HTTPAdapter(max_retries=_RETRY))
            client.s.verify = self.index.certificates or True
            self.advance(self._num_bytes())
            if self._num_bytes() < self.archive.size_bytes:
                self._continue(client, self._url(client))
        if not self.is_stopped():
            self._publish()

    def _url(self, client: PyPISimple) -> str:
        page = client.get_project_page(self.archive.name, timeout=_TIMEOUT_S)
        for package in page.packages:
            if package.filename == self.archive.file:
                return str(package.url)
        raise NoSuchProjectError(self.archive.name, client.get_project_url(self.archive.name))

    def _continue(self, client: PyPISimple, url: str) -> None:
        """Ask for the rest until all is there. A cut connection that brought something is worth another request."""
        while (before := self._num_bytes()) < self.archive.size_bytes and not self.is_stopped():
            try:
                self._stream(client, url, before)
            except requests.RequestException:
                if self._num_bytes() <= before:
                    raise
            else:
                if self._num_bytes() <= before:
                    return  # The index holds a shorter file: the check of the hash says so.

    def _stream(self, client: PyPISimple, url: str, start: int) -> None:
        # "identity", since a transfer encoding that gets undone on the way would make other bytes and other offsets.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with client.s.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()
            is_rest = response.status_code == requests.codes.partial_content
            if not is_rest:
                self.advance(-start)
            with self.part.open("ab" if is_rest else "wb") as file:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    self.advance(len(chunk))
                    if self.is_stopped() or file.tell() > self.archive.size_bytes:
                        return

    def _num_bytes(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _publish(self) -> None:
        found = sha256_file(self.part)
        if found != self.archive.sha256:
            got = f"{self._num_bytes():,} bytes with SHA-256 {found} came from {self.index.label}"
            self.part.unlink()
            raise _not_the_pinned(
                self.archive, got, "run the command again; if it stays so, do not use that index"
            )
        self.part.replace(self.cache / self.archive.file)


def _not_the_pinned(archive: Archive, got: str, fix: str) -> FetchError:
    expected = f"{archive.size_bytes:,} bytes with SHA-256 {archive.sha256}"
    return FetchError(
        f"{archive.file} is not the pinned archive: {got}", expected=expected, fix=fix
    )


@contextmanager
def _explained(archive: Archive, index: PackageIndex) -> Iterator[None]:
    """Turn what the network and the index can do into an error that names the archive."""
    elsewhere = f"put {archive.file} into a folder and name that folder in CODEGEN_ARCHIVES"
    try:
        yield
    except NoSuchProjectError:
        raise FetchError(
            f"{archive.file} is not on the index {index.label}",
            expected=f"the file of {archive.name} {archive.version} that is pinned",
            fix=f"choose an index that has it with PIP_INDEX_URL, or {elsewhere}",
        ) from None
    except (requests.RequestException, UnsupportedContentTypeError) as error:
        raise FetchError(
            f"{archive.file} could not be fetched from {index.label}: {error}",
            expected="a package index that answers",
            fix=f"check the network, PIP_INDEX_URL and PIP_CERT and run the command again (it continues), or {elsewhere}",
        ) from error
