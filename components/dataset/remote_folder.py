"""Read access to a folder of files behind any fsspec URI.

Every failure (missing file, no access, no answer, short answer) becomes an `ArtifactError` with the
file's URI. The file system itself retries (s3fs: five times with exponential backoff).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from components.core.errors import ArtifactError
from components.core.files import wrap_disk_full
from components.core.fingerprint import sha256_file
from components.core.remote_errors import open_file_system, wrap_read_errors


class RemoteFolder:
    """The files below a URI. Every method that reads raises ArtifactError if it fails."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self.uri: str = fs.unstrip_protocol(self._root)

    def file_uri(self, path: str) -> str:
        """The URI of a file."""
        return f"{self.uri}/{path}"

    def read(self, path: str) -> bytes:
        """Read a file."""
        with self._wrap_errors(path):
            return bytes(self._fs.cat_file(self._fs_path(path)))

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """Size of each file in bytes, 0 if it does not exist. Lists each parent folder once."""
        sizes: dict[str, int] = {}
        self._fs.invalidate_cache()
        for parent in sorted({str(PurePosixPath(path).parent) for path in paths}):
            with self._wrap_errors(parent):
                listing = self._fs.find(self._fs_path(parent), detail=True)
            for name, info in listing.items():
                sizes[name] = int(info["size"])
        return [sizes.get(self._fs_path(path), 0) for path in paths]

    def fetch_file(self, path: str, target: Path, size_bytes: int, sha256: str | None) -> None:
        """Download a file and check its size and, if given, its SHA-256.

        Raises:
            DiskFullError: the local disk is full.
        """
        with self._wrap_errors(path):
            self._fs.get_file(self._fs_path(path), str(target))
        self._check_size(path, target.stat().st_size, size_bytes)
        if sha256 is None:
            return
        actual_sha256 = sha256_file(target)
        if actual_sha256 != sha256:
            raise ArtifactError(
                f"{self.file_uri(path)} has SHA-256 {actual_sha256}",
                expected=sha256,
                fix="publish the artifact again: the file was changed",
            )

    def fetch_range(self, path: str, start: int, size_bytes: int, target: Path) -> None:
        """Download `size_bytes` of a file from byte `start` on, and check their number.

        Raises:
            DiskFullError: the local disk is full.
        """
        with self._wrap_errors(path):
            content = self._fs.cat_file(self._fs_path(path), start=start, end=start + size_bytes)
            target.write_bytes(content)
        self._check_size(f"{path} from byte {start:,} on", len(content), size_bytes)

    def _fs_path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _check_size(self, name: str, actual: int, expected: int) -> None:
        if actual != expected:
            raise ArtifactError(
                f"{self.file_uri(name)} returned {actual:,} bytes",
                expected=f"{expected:,}",
                fix="run the same command again; if the error persists, publish the artifact again",
            )

    @contextmanager
    def _wrap_errors(self, path: str) -> Iterator[None]:
        uri = self.file_uri(path)
        missing_fix = "check the URI, or run the flow that publishes the artifact"
        with (
            wrap_read_errors(uri, ArtifactError, missing_fix=missing_fix),
            wrap_disk_full(f"fetching {uri}"),
        ):
            yield


def open_folder(
    folder: str | Path, storage_options: Mapping[str, Any] | None = None
) -> Path | RemoteFolder:
    """Open a folder: a `Path` if it is local (a path or a `file://` URI), else a `RemoteFolder`.

    Args:
        folder: a path or an fsspec URI.
        storage_options: of the file system, e.g. `key`, `secret` and `client_kwargs` of s3fs.

    Raises:
        ConfigError: no file system is known or installed for the URI.
    """
    if isinstance(folder, Path) or "://" not in folder:
        return Path(folder)
    fs, root = open_file_system(folder, storage_options)
    return Path(root) if isinstance(fs, LocalFileSystem) else RemoteFolder(fs, root)
