"""File names and fsspec locations: formats and compressions by name, opening, decompression.

The name of a file alone decides its format and compression, so a recipe reads the same files on
every machine. All gzip members and zstd frames of a file are read, and an incomplete stream raises
an error. That was measured for every truncation of a gzip and a zstd file; only a cut between two
members, or to zero bytes, is not noticed. Arrow decompresses zstd, because python-zstandard returns
less data for an incomplete stream; it rejects gzip files that are padded with zeros. Limit: zstd
windows above 128 MB (`--long=28`) raise an error.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from components.core.errors import FetchError, RecordError
from components.core.remote_errors import open_file_system, wrap_read_errors
from components.core.text import printable_name
from components.data.sources.config import Format

Compression = Literal["gzip", "zstd"]

_COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".tgz": "gzip",
    ".tzst": "zstd",
}
_FORMAT_ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": tuple(
        name + compression
        for name in (".jsonl", ".json", ".ndjson")
        for compression in ("", ".gz", ".zst")
    ),
    "parquet": (".parquet",),
    "avro": (".avro",),
    "archive": (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"),
}
"""Endings of file names by format."""
_BYTES_SCHEME = "bytes:"
"""Prefix of a local path that is not UTF-8, with its bytes in percent-encoding."""
_GLOB_CHARACTER = re.compile(r"[*?\[]")
_READ_AHEAD_BYTES = 8 << 20
"""Bytes of a request to a remote file (assumption: hides the latency of an object store)."""


def format_of(name: str) -> Format | None:
    """The format of a file by its name, or None."""
    for file_format, endings in _FORMAT_ENDINGS.items():
        if name.lower().endswith(endings):
            return file_format  # type: ignore[return-value]  # a key of the table
    return None


def format_endings(file_format: str) -> tuple[str, ...]:
    """Endings of the file names of a format; none for "files" and "auto"."""
    return _FORMAT_ENDINGS.get(file_format, ())


def compression_of(name: str) -> Compression | None:
    """The compression of a file by its name, or None."""
    for ending, compression in _COMPRESSIONS.items():
        if name.lower().endswith(ending):
            return compression
    return None


def is_zip(name: str) -> bool:
    """Whether an archive is a zip or a wheel, by its name; else it is a tar."""
    return name.lower().endswith((".zip", ".whl"))


def is_glob(uri: str) -> bool:
    """Whether a path has a special character of globs. An existing file may have one too."""
    return _GLOB_CHARACTER.search(uri) is not None


def base_folder(uri: str) -> str:
    """The folder of a file; of a glob, the part before its first special character; of a path that
    ends with a slash, the path itself.

    "" is the current folder. `join_path(base_folder(uri), rest)` is the URI again.
    """
    special = _GLOB_CHARACTER.search(uri)
    folder, slash, _ = (uri[: special.start()] if special else uri).rpartition("/")
    return folder + slash if not folder or folder.endswith(("/", ":")) else folder


def join_path(folder: str, path: str) -> str:
    """A path below a folder of `base_folder`."""
    if not folder:
        return path
    return f"{folder}{path}" if folder.endswith("/") else f"{folder}/{path}"


class FileLocation(NamedTuple):
    """A path on a file system."""

    fs: Any
    path: str

    @property
    def uri(self) -> str:
        """An absolute local path or a URI, as valid UTF-8; `resolve_uri` converts it back."""
        if not isinstance(self.fs, LocalFileSystem):
            return str(self.fs.unstrip_protocol(self.path))
        if printable_name(self.path) == self.path:
            return self.path
        return _BYTES_SCHEME + quote_from_bytes(os.fsencode(self.path))


def resolve_uri(uri: str, storage_options: Mapping[str, Any] | None = None) -> FileLocation:
    """The location of a URI, without cached listings.

    Args:
        uri: a local path or an fsspec URI, or a result of `FileLocation.uri`.
        storage_options: options of a remote file system, such as endpoint and key.

    Raises:
        ConfigError: the protocol does not exist, or its package is not installed.
    """
    if uri.startswith(_BYTES_SCHEME):
        uri = os.fsdecode(unquote_to_bytes(uri.removeprefix(_BYTES_SCHEME)))
    fs, path = open_file_system(uri, storage_options)
    fs.invalidate_cache()
    return FileLocation(fs, path)


@contextmanager
def open_bytes(location: FileLocation) -> Iterator[Any]:
    """The stored bytes of a file, seekable."""
    with location.fs.open(location.path, "rb", block_size=_READ_AHEAD_BYTES) as file:
        yield file


class _GzipReader(gzip.GzipFile):
    """All members of a gzip file, also with zeros after a member; damage raises OSError."""

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, fewer at the end."""
        try:
            return super().read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise OSError(str(error)) from error


class Stream:
    """The decompressed bytes of a file."""

    def __init__(self, stream: Any, stored: Any) -> None:
        """`stored` is the file that `stream` reads."""
        self._stream = stream
        self._stored = stored
        self._num_bytes = 0
        self._stored_per_byte = 1.0

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, fewer at the end; raises OSError on damage."""
        data: bytes = self._stream.read(num_bytes)
        self._num_bytes += len(data)
        self._stored_per_byte = self._stored.tell() / max(1, self._num_bytes)
        return data

    def stored_bytes(self, offset: int) -> int:
        """Stored bytes of the first `offset` bytes, to within a few hundred kB of read-ahead."""
        return int(offset * self._stored_per_byte)


@contextmanager
def open_stream(
    location: FileLocation, compression: Compression | None, name: str
) -> Iterator[Stream]:
    """The decompressed bytes of a file.

    Raises:
        RecordError: a compressed file has no bytes, so not even a header.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_bytes(location))
        if compression is None:
            yield Stream(file, file)
            return
        if not file.read(1):
            raise damaged_file_error(name, "0 bytes, not even the header of a compressed file")
        file.seek(0)
        if compression == "gzip":
            yield Stream(stack.enter_context(_GzipReader(fileobj=file)), file)
            return
        stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), compression)
        yield Stream(stack.enter_context(stream), file)


def damaged_file_error(name: str, cause: object, expected: str = "a complete file") -> RecordError:
    """The error for a damaged file. None of its records are used, because some may be missing."""
    return RecordError(
        f"{name} is damaged or truncated: {cause}",
        expected=expected,
        fix="fetch or export the file again; if the error repeats, exclude it from the source",
    )


@contextmanager
def wrap_file_errors(name: str) -> Iterator[None]:
    """Convert errors of file systems and of Arrow to an error that names the file.

    Raises:
        FetchError: the file does not exist or cannot be read, or its store fails.
        RecordError: the file is damaged.
    """
    with wrap_read_errors(name, FetchError):
        try:
            yield
        except pa.ArrowException as error:
            raise damaged_file_error(name, error) from error
        except OSError as error:
            # For a damaged stream, Arrow raises OSError without an errno. EINVAL comes from an
            # invalid offset, which a damaged file may contain.
            if type(error) is OSError and error.errno in (None, errno.EINVAL):
                raise damaged_file_error(name, error) from error
            raise
