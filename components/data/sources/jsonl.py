"""JSON Lines files, plain, gzip or zstd, read in blocks.

Lines end at "\\n" only: U+2028 is text, and "\\r" before "\\n" is white space of JSON. A line is
held in memory only up to the limit of a record, so a line of 2 GB costs a few MB. Limit: the lines
of a single JSON array are all quarantined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from components.data.sources.location import FileLocation, compression_of, open_stream
from components.data.sources.records import TOO_LONG, RawRecord, Reject, parse_json_object

_BLOCK_BYTES = 4 << 20
"""Bytes of a read (measured with tests/benchmarks/sources.py: not faster above 1 MB)."""
_HEAD_BYTES = 1024
"""Bytes kept of a line that is too long, for the excerpt."""


class Line(NamedTuple):
    """A line without its newline."""

    offset: int
    """In bytes from the start of the decompressed file."""
    size_bytes: int
    content: bytes
    """The line, or its first bytes if `size_bytes` exceeds the limit."""


def read(location: FileLocation, file: str, max_record_bytes: int) -> Iterator[RawRecord]:
    """All lines of a file.

    Raises:
        OSError: the compressed stream is damaged or truncated.
    """
    with open_stream(location, compression_of(file), file) as stream:
        for line in read_lines(stream, max_record_bytes):
            if line.size_bytes > len(line.content):
                value: Any = Reject(f"{TOO_LONG}: a line of {line.size_bytes} bytes")
            else:
                value = parse_json_object(line.content)
            stored_bytes = stream.stored_bytes(line.offset + line.size_bytes)
            yield RawRecord(file, line.offset, line.size_bytes, stored_bytes, value, line.content)


def read_lines(stream: Any, max_bytes: int) -> Iterator[Line]:
    """The lines of a stream. Bytes after the last newline are a line too."""
    offset = 0
    size = 0  # Bytes of the current, incomplete line.
    parts: list[bytes] = []  # Its content, or only its head if it is too long.
    while block := stream.read(_BLOCK_BYTES):
        *line_ends, rest = block.split(b"\n")
        for line_end in line_ends:
            if size:
                yield _line(offset, size + len(line_end), [*parts, line_end], max_bytes)
                offset += size
                size = 0
                parts = []
            else:
                yield _line(offset, len(line_end), [line_end], max_bytes)
            offset += len(line_end) + 1
        size += len(rest)
        if size > max_bytes:
            parts = [(b"".join(parts) + rest[:_HEAD_BYTES])[:_HEAD_BYTES]]
        else:
            parts.append(rest)
    if size:
        yield _line(offset, size, parts, max_bytes)


def _line(offset: int, size: int, parts: list[bytes], max_bytes: int) -> Line:
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    if size > max_bytes:
        content = content[: min(_HEAD_BYTES, max_bytes)]
    return Line(offset, size, content)
