"""Where files lie: any fsspec URI behind one way to find, open, decompress and explain.

Design decision: Arrow's own streams decompress. They take member after member and frame after frame, hold a few hundred kB
whatever is fed to them, and raise where a stream ends before it is complete (measured: every truncation of a gzip and a
zstd file, byte by byte, but the ones between two members and to nothing). python-zstandard's reader returns short data
there. What is not covered: zstd windows above 128 MB (`--long=28` and more), an error rather than a surprise in memory.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from components.core.errors import ConfigError, FetchError, RecordError
from components.core.remote_errors import client_errors
from components.data.sources.file_types import Compression

_READ_AHEAD_BYTES = 8 << 20
"""Bytes that a remote file is asked for at a time (assumption: hides the latency of an object store)."""


_GIT = ".git"


class FileLocation(NamedTuple):
    """A path on a file system."""

    fs: Any
    path: str

    @property
    def uri(self) -> str:
        """What `locate` takes to come back here: an absolute path, or a URI."""
        return (
            self.path
            if isinstance(self.fs, LocalFileSystem)
            else str(self.fs.unstrip_protocol(self.path))
        )


def resolve_uri(uri: str, storage_options: Mapping[str, Any] | None = None) -> FileLocation:
    """The place that a URI names, with nothing remembered of earlier listings.

    Args:
        uri: a local path or a URI of fsspec's.
        storage_options: what the file system needs, such as an endpoint and a key; local paths need none and get none.

    Raises:
        ConfigError: no such protocol, or its package is not installed.
    """
    is_local = "://" not in uri or uri.startswith(("file://", "local://"))
    try:
        fs, path = url_to_fs(uri, **({} if is_local else dict(storage_options or {})))
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"{uri} cannot be opened: {error}",
            expected="a local path, or a URI of a protocol that fsspec knows here",
            fix="install the package that it names (for s3: pip install 'codegen-platform[s3]'), or mend the URI",
        ) from error
    fs.invalidate_cache()
    return FileLocation(fs, path)


@contextmanager
def open_bytes(place: FileLocation) -> Iterator[Any]:
    """The stored bytes of a file, seekable."""
    with place.fs.open(place.path, "rb", block_size=_READ_AHEAD_BYTES) as file:
        yield file


class Stream:
    """The bytes of a file, decompressed on the fly."""

    def __init__(self, stream: Any, stored: Any) -> None:
        """`stored` is the file that the bytes of `stream` come from."""
        self._stream, self._stored = stream, stored
        self._num_bytes = 0
        self._stored_per_byte = 1.0

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, fewer at the end; raises OSError on damage."""
        data: bytes = self._stream.read(num_bytes)
        self._num_bytes += len(data)
        self._stored_per_byte = self._stored.tell() / max(1, self._num_bytes)
        return data

    def stored_bytes(self, offset: int) -> int:
        """How many stored bytes the first `offset` bytes took, to within what is read ahead (a few hundred kB)."""
        return int(offset * self._stored_per_byte)


@contextmanager
def open_stream(
    place: FileLocation, compression: Compression | None, name: str
) -> Iterator[Stream]:
    """The bytes of a file, decompressed on the fly.

    Raises:
        RecordError: a compressed file of no bytes, which no compressor writes.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_bytes(place))
        if compression is None:
            yield Stream(file, file)
            return
        if not file.read(1):
            raise damaged_file_error(name, "0 bytes, not even the header of a compressed file")
        file.seek(0)
        yield Stream(
            stack.enter_context(pa.CompressedInputStream(pa.PythonFile(file, "r"), compression)),
            file,
        )


def damaged_file_error(name: str, what: object, expected: str = "a whole file") -> RecordError:
    """The error for a file that cannot be read to its end: its records are not used, since some may be missing."""
    return RecordError(
        f"{name} is damaged or truncated: {what}",
        expected=expected,
        fix="fetch or export that file again; if it is the same everywhere, leave it out of the source",
    )


@contextmanager
def wrap_read_errors(name: str) -> Iterator[None]:
    """Turn what a file system or Arrow raises inside into an error that names the file.

    Raises:
        FetchError: the operating system or the network has the file not, or not any more.
        RecordError: it is there and is damaged.
    """
    try:
        yield
    except (pa.ArrowException, *client_errors()) as error:
        # Arrow raises OSError for a damaged stream as well, but then without the number that the system gives; EINVAL is
        # the system's answer to an offset that no file has, which a damaged file may state.
        if isinstance(error, pa.ArrowException) or (
            type(error) is OSError and error.errno in (None, errno.EINVAL)
        ):
            raise damaged_file_error(name, error) from error
        raise FetchError(
            f"{name} cannot be read: {error or type(error).__name__}",
            expected="a file that is there, and may be read, from its listing to its end",
            fix="check the path, the permissions, the network and the storage options, then run the same command again",
        ) from error


def walk(place: FileLocation) -> Iterator[tuple[FileLocation, dict[str, Any]]]:
    """Every entry below a folder that is no folder, sorted by name at each level, with what fsspec knows of it.

    Links are yielded, not followed; `.git` is left out.
    """
    for info in sorted(place.fs.ls(place.path, detail=True), key=lambda one: str(one["name"])):
        below = FileLocation(place.fs, info["name"].rstrip("/"))
        if below.path == place.path.rstrip("/"):
            continue  # Object stores list a marker for the folder itself.
        if info["type"] == "directory":  # A link to one is not, for fsspec.
            if below.path.rpartition("/")[2] != _GIT:
                yield from walk(below)
        else:
            yield below, info
