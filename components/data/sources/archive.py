"""Members of a zip or tar, read in memory one at a time: nothing is unpacked, no name becomes a path on disk.

Design decision: Python's readers are checked where they are lenient. `tarfile` takes a damaged header, or the end of the
file, for the end of the archive; so the block where it stopped must be an end mark, and nothing but zeros may follow.
`zipfile` believes the directory at the end; so the name in front of each member must agree, of skipped ones too. What is
not covered: a tar has no checksum of contents (a compressed one has its compressor's), and neither format protects the
kind of a member (file, link) in the zip's directory; a member that turned into a link is counted, not read.
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

from components.data.archives.archive_reader import readable_name
from components.data.sources.file_types import compression_of, is_zip
from components.data.sources.location import (
    FileLocation,
    damaged_file_error,
    open_bytes,
    open_stream,
)
from components.data.sources.record_batches import RawRecord
from components.data.sources.records import LANGUAGE, LINK, TOO_LONG, RecordMaker, Reject

_READ_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
"""LZMA is left out: a flipped bit in its header may ask for gigabytes of memory."""
_END, _LOCATOR_64, _END_64 = (
    struct.Struct("<4s4H2LH"),
    struct.Struct("<4sLQL"),
    struct.Struct("<4sQ2H2L4Q"),
)
"""The end record of a zip, and the two that stand before it in a large one (APPNOTE.TXT, sections 4.3.14 to 4.3.16)."""
_IN_ZIP64 = 0xFFFF
"""The number of members in an end record that leaves the number to its zip64 record."""
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
"""What the two readers raise on damage; RuntimeError is zipfile's for encryption, NotImplementedError included."""
_EXPECTED = "a whole archive: zip (stored, deflate or bzip2, not encrypted), tar, tar.gz or tar.zst"


def read(
    place: FileLocation, file: str, maker: RecordMaker, max_record_bytes: int
) -> Iterator[RawRecord]:
    """Every member that is no folder, in the order of the archive; of two with one name both.

    Raises:
        RecordError: the archive is damaged or truncated.
        OSError: its compressed stream is.
    """
    source = file.rpartition("/")[2]
    try:
        for member in _walk_zip(place) if is_zip(file) else _walk_tar(place, file):
            path = readable_name(member.name)
            reject = _reject(member, path, maker, max_record_bytes)
            value = reject or {"path": path, "source": source, "text": member.read()}
            yield RawRecord(f"{file}!{path}", 0, member.size_bytes, member.stored_bytes, value)
    except _DAMAGE as error:
        raise damaged_file_error(file, error or type(error).__name__, _EXPECTED) from error


class _Member(NamedTuple):
    """A member that can be read until the walk goes on."""

    name: str
    size_bytes: int
    is_regular: bool
    stored_bytes: int
    """Of the archive, up to its end."""
    read: Callable[[], bytes]


def _reject(member: _Member, path: str, maker: RecordMaker, max_record_bytes: int) -> Reject | None:
    if not member.is_regular:
        return Reject(LINK, is_bad=False)
    if maker.language_of(path) is None:
        return Reject(LANGUAGE, is_bad=False)
    if member.size_bytes > max_record_bytes:
        return Reject(f"{TOO_LONG}: a member of {member.size_bytes} bytes")
    return None


def _walk_zip(place: FileLocation) -> Iterator[_Member]:
    with open_bytes(place) as stored, zipfile.ZipFile(stored) as archive:
        stored_bytes = place.fs.size(place.path)
        num_stated = _num_stated(stored, stored_bytes - len(archive.comment))
        if num_stated != len(archive.infolist()):
            raise zipfile.BadZipFile(
                f"its directory lists {len(archive.infolist())} members and states {num_stated}"
            )
        # What members take besides their content is shared out among them.
        read_bytes, content_bytes = (
            0,
            max(1, sum(info.compress_size for info in archive.infolist())),
        )
        for info in archive.infolist():
            read_bytes += info.compress_size
            if info.compress_type not in _METHODS:
                raise zipfile.BadZipFile(
                    f"{info.filename!r} is compressed with method {info.compress_type}"
                )
            with archive.open(
                info
            ) as file:  # Compares the name in front of the member, whether it is read or not.
                if not info.is_dir():
                    is_link = stat.S_ISLNK(info.external_attr >> 16)
                    read, until = (
                        partial(_whole, file, info.file_size),
                        stored_bytes * read_bytes // content_bytes,
                    )
                    yield _Member(info.filename, info.file_size, not is_link, until, read)


def _num_stated(stored: Any, end: int) -> int:
    """How many members the end record states, which zipfile does not compare with the directory in front of it.

    `end` is where the end record ends, without its comment. -1 where no such record is.
    """
    signature, *_, num_members, _, _, _ = _unpack(stored, end - _END.size, _END)
    if num_members == _IN_ZIP64:
        _, _, at, _ = _unpack(stored, end - _END.size - _LOCATOR_64.size, _LOCATOR_64)
        signature, *_, num_members, _, _ = _unpack(stored, at, _END_64)
    return int(num_members) if signature in (b"PK\x05\x06", b"PK\x06\x06") else -1


def _unpack(stored: Any, offset: int, layout: struct.Struct) -> tuple[Any, ...]:
    stored.seek(offset)
    return layout.unpack(stored.read(layout.size))


def _walk_tar(place: FileLocation, file: str) -> Iterator[_Member]:
    with open_stream(place, compression_of(file), file) as stream:
        watched = _TrackingStream(stream)
        with tarfile.open(fileobj=watched, mode="r|", bufsize=_READ_BYTES) as tar:  # type: ignore[call-overload]
            while (info := tar.next()) is not None:
                tar.members.clear()  # It would keep every header for a second walk.
                if not info.isdir():
                    content: Any = tar.extractfile(info) if info.isreg() else None
                    read = partial(_whole, content, info.size)
                    yield _Member(
                        info.name, info.size, info.isreg(), stream.stored_bytes(tar.offset), read
                    )
            watched.require_end_at(tar.offset)


def _whole(file: IO[bytes], size_bytes: int) -> bytes:
    content = file.read()
    if len(content) != size_bytes:
        raise EOFError(f"a member of {size_bytes} bytes ends after {len(content)}")
    return content


class _TrackingStream:
    """A stream that knows where it ended and where its last byte that is not zero stood."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._num_bytes = self._end_of_content = 0

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, fewer at the end."""
        data = bytes(self._stream.read(num_bytes))
        if content := len(data.rstrip(b"\0")):
            self._end_of_content = self._num_bytes + content
        self._num_bytes += len(data)
        return data

    def require_end_at(self, offset: int) -> None:
        """Check that an end mark stands at `offset` and nothing behind it; reads the rest, and with it its checksum."""
        while self.read(_READ_BYTES):
            pass
        if self._end_of_content > offset:
            raise tarfile.ReadError(
                f"the header at byte {offset} is damaged, or something follows the end mark"
            )
        if self._num_bytes < offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it ends at byte {self._num_bytes} without an end mark")
