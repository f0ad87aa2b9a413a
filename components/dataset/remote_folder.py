"""A folder of files that are not on this machine, through fsspec.

Design decision: what can go wrong between here and there (nothing there, no access, no answer, half an answer) becomes one
`ArtifactError` with the file's name. Endpoint and credentials are storage options of the file system: they say how a place
is reached, never what lies there. Retries are the file system's own (s3fs: five, with growing pauses). Not covered: writing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from components.core.errors import ArtifactError, ConfigError
from components.core.files import wrap_disk_full
from components.core.remote_errors import client_errors


class RemoteFolder:
    """The files below one URI."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str) -> None:
        self._fs, self._root = fs, root.rstrip("/")
        self.uri: str = fs.unstrip_protocol(self._root)

    def name(self, path: str) -> str:
        """The URI of a file."""
        return f"{self.uri}/{path}"

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            ArtifactError: it cannot be read.
        """
        with self._explained(path):
            return bytes(self._fs.cat_file(self._path(path)))

    def sizes(self, paths: Sequence[str]) -> list[int]:
        """How many bytes each file has; 0 where there is none. One listing for each folder they lie in.

        Raises:
            ArtifactError: a folder cannot be listed.
        """
        found: dict[str, int] = {}
        self._fs.invalidate_cache()
        for parent in sorted({str(PurePosixPath(path).parent) for path in paths}):
            with self._explained(parent):
                listing = self._fs.find(self._path(parent), detail=True)
            found |= {name: int(information["size"]) for name, information in listing.items()}
        return [found.get(self._path(path), 0) for path in paths]

    def fetch_whole(self, path: str, to: Path, size_bytes: int, sha256: str | None) -> None:
        """Write a whole file to a local path, and check it.

        Raises:
            ArtifactError: it cannot be read, has another size or, where `sha256` is given, other content.
            StorageFull: no room for it here.
        """
        with self._explained(path):
            self._fs.get_file(self._path(path), str(to))
        self._require_size(path, to.stat().st_size, size_bytes)
        if sha256 is None:
            return
        with to.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ArtifactError(
                f"{self.name(path)} has SHA-256 {found}",
                expected=sha256,
                fix="publish the artifact again: it was changed",
            )

    def fetch_range(self, path: str, start: int, size_bytes: int, to: Path) -> None:
        """Write some bytes of a file to a local path.

        Raises:
            ArtifactError: they cannot be read, or the file ends before them.
            StorageFull: no room for them here.
        """
        with self._explained(path):
            content = self._fs.cat_file(self._path(path), start=start, end=start + size_bytes)
            to.write_bytes(content)
        self._require_size(f"{path}, from byte {start:,} on,", len(content), size_bytes)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _require_size(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise ArtifactError(
                f"{self.name(what)} gave {found:,} bytes",
                expected=f"{expected:,}",
                fix="run the same command again; if it stays so, publish the artifact again: it is damaged",
            )

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            with wrap_disk_full(f"fetching {self.name(path)}"):
                yield
        except FileNotFoundError as error:
            raise ArtifactError(
                f"there is no {self.name(path)}",
                expected="the file of a published artifact",
                fix="check the URI, or run the flow that publishes it",
            ) from error
        except client_errors() as error:
            raise ArtifactError(
                f"{self.name(path)} cannot be read: {type(error).__name__}: {error}",
                expected="a store that answers, and the right to read there",
                fix="check the storage options (endpoint, credentials) and the network, then run the same command again",
            ) from error


def open_folder(
    folder: str | Path, storage_options: Mapping[str, Any] | None = None
) -> Path | RemoteFolder:
    """A local folder, given as a path or a `file://` URI, or one anywhere else.

    Args:
        folder: a path, or any URI that fsspec understands.
        storage_options: of the file system, e.g. `key`, `secret` and `client_kwargs` of s3fs.

    Raises:
        ConfigError: no file system is known or installed for the URI.
    """
    if isinstance(folder, Path) or "://" not in folder:
        return Path(folder)
    try:
        fs, root = fsspec.url_to_fs(folder, **(storage_options or {}))
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{folder} cannot be opened: {error}",
            expected="a URI whose file system is installed",
            fix="for s3:// install the extra of that name: pip install 'codegen-platform[s3]'",
        ) from error
    return Path(root) if isinstance(fs, LocalFileSystem) else RemoteFolder(fs, root)
