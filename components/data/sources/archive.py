"""Members of zip and tar archives, read in memory one after another; nothing is unpacked.

Python's readers need further checks. `tarfile` takes a damaged header, or the end of the file, for
the end of the archive; so an end mark must follow the last member, and only zeros after it.
`zipfile` trusts the directory at the end; so the name at each member must agree, also of skipped
members. Limits: an uncompressed tar has no checksum of contents, and a zip's directory does not
protect the type of a member; a member that became a link is counted and not read.
"""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple

from components.core.text import printable_name
from components.data.sources.location import (
    FileLocation,
    compression_of,
    damaged_file_error,
    is_zip,
    open_bytes,
    open_stream,
)
from components.data.sources.records import (
    LANGUAGE,
    LINK,
    TOO_LONG,
    RawRecord,
    RecordParser,
    Reject,
    without_bom,
)

_READ_BYTES = 1 << 20
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
"""Without LZMA: a flipped bit in its header may request gigabytes of memory."""
_END_RECORD = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR = struct.Struct("<4sLQL")
_ZIP64_END_RECORD = struct.Struct("<4sQ2H2L4Q")
"""The end record of a zip, and the two records before it in a large zip (APPNOTE.TXT, sections
4.3.14 to 4.3.16)."""
_COUNT_IN_ZIP64 = 0xFFFF
"""Number of members in an end record that refers to the zip64 record."""
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""Exceptions of the readers for damage. RuntimeError: encryption, or a method that is not
supported."""
_EXPECTED = "a complete zip (stored, deflate or bzip2, not encrypted), tar, tar.gz or tar.zst"


class _Member(NamedTuple):
    """A member, which can be read until the next member is requested."""

    name: str
    size_bytes: int
    is_regular: bool
    stored_bytes: int
    """Stored bytes of the archive up to the member's end."""
    read: Callable[[], bytes]


def read(
    location: FileLocation, file: str, parser: RecordParser, max_record_bytes: int
) -> Iterator[RawRecord]:
    """All members except folders, in the order of the archive, also members with equal names.

    Raises:
        RecordError: the archive is damaged or truncated.
        OSError: its compressed stream is damaged or truncated.
    """
    source = file.rpartition("/")[2]
    try:
        for member in _walk_zip(location) if is_zip(file) else _walk_tar(location, file):
            path = printable_name(member.name)
            value = _reject(member, path, parser, max_record_bytes)
            if value is None:
                value = {"path": path, "source": source, "text": without_bom(member.read())}
            yield RawRecord(f"{file}!{path}", 0, member.size_bytes, member.stored_bytes, value)
    except _DAMAGE as error:
        raise damaged_file_error(file, error or type(error).__name__, _EXPECTED) from error


def _reject(member: _Member, path: str, parser: RecordParser, max_record_bytes: int) -> Any:
    if not member.is_regular:
        return Reject(LINK, is_quarantined=False)
    if parser.language_of(path) is None:
        return Reject(LANGUAGE, is_quarantined=False)
    if member.size_bytes > max_record_bytes:
        return Reject(f"{TOO_LONG}: a member of {member.size_bytes} bytes")
    return None


def _walk_zip(location: FileLocation) -> Iterator[_Member]:
    with open_bytes(location) as stored, zipfile.ZipFile(stored) as archive:
        archive_bytes = location.fs.size(location.path)
        entries = archive.infolist()
        num_stated = _stated_num_members(stored, archive_bytes - len(archive.comment))
        if num_stated != len(entries):
            raise zipfile.BadZipFile(
                f"its directory lists {len(entries)} members and states {num_stated}"
            )
        # The bytes of headers and directory are attributed to the members in proportion.
        content_bytes = max(1, sum(info.compress_size for info in entries))
        read_bytes = 0
        for info in entries:
            read_bytes += info.compress_size
            if info.compress_type not in _ZIP_METHODS:
                raise zipfile.BadZipFile(
                    f"{info.filename!r} is compressed with method {info.compress_type}"
                )
            with archive.open(info) as file:  # Compares the names, also of a skipped member.
                if not info.is_dir():
                    is_link = stat.S_ISLNK(info.external_attr >> 16)
                    stored_bytes = archive_bytes * read_bytes // content_bytes
                    content = partial(_read_all, file, info.file_size)
                    yield _Member(info.filename, info.file_size, not is_link, stored_bytes, content)


def _stated_num_members(stored: Any, end: int) -> int:
    """Number of members in the end record, which zipfile does not compare with the directory.

    `end` is the end of that record without its comment. Returns -1 if there is no record.
    """
    offset = end - _END_RECORD.size
    signature, *_, num_members, _, _, _ = _unpack(stored, offset, _END_RECORD)
    if num_members == _COUNT_IN_ZIP64:
        _, _, zip64_offset, _ = _unpack(stored, offset - _ZIP64_LOCATOR.size, _ZIP64_LOCATOR)
        signature, *_, num_members, _, _ = _unpack(stored, zip64_offset, _ZIP64_END_RECORD)
    return int(num_members) if signature in (b"PK\x05\x06", b"PK\x06\x06") else -1


def _unpack(stored: Any, offset: int, layout: struct.Struct) -> tuple[Any, ...]:
    stored.seek(offset)
    return layout.unpack(stored.read(layout.size))


def _walk_tar(location: FileLocation, file: str) -> Iterator[_Member]:
    with open_stream(location, compression_of(file), file) as stream:
        tracking = _TrackingStream(stream)
        with tarfile.open(fileobj=tracking, mode="r|", bufsize=_READ_BYTES) as tar:  # type: ignore[call-overload]
            while (info := tar.next()) is not None:
                tar.members.clear()  # Else it keeps all headers.
                if not info.isdir():
                    member: Any = tar.extractfile(info) if info.isreg() else None
                    stored_bytes = stream.stored_bytes(tar.offset)
                    content = partial(_read_all, member, info.size)
                    yield _Member(info.name, info.size, info.isreg(), stored_bytes, content)
            tracking.require_end_at(tar.offset)


def _read_all(file: IO[bytes], size_bytes: int) -> bytes:
    content = file.read()
    if len(content) != size_bytes:
        raise EOFError(f"a member of {size_bytes} bytes ends after {len(content)}")
    return content


class _TrackingStream:
    """A stream that records its length and the position of its last byte that is not zero."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._num_bytes = 0
        self._content_end = 0

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, fewer at the end."""
        data = bytes(self._stream.read(num_bytes))
        if content := len(data.rstrip(b"\0")):
            self._content_end = self._num_bytes + content
        self._num_bytes += len(data)
        return data

    def require_end_at(self, offset: int) -> None:
        """Check that only an end mark follows at `offset`. Reads the rest, so also its checksum."""
        while self.read(_READ_BYTES):
            pass
        if self._content_end > offset:
            raise tarfile.ReadError(
                f"the header at byte {offset} is damaged, or something follows the end mark"
            )
        if self._num_bytes < offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it ends at byte {self._num_bytes} without an end mark")
