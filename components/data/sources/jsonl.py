"""JSON Lines, plain, gzip or zstd: a block at a time, a line at a time.

Design decision: lines end at "\\n" and nowhere else, as JSON Lines has it; U+2028 is text, and a "\\r" before the "\\n"
is JSON's white space. A line is only ever held up to the limit of a record, so one of 2 GB costs a few MB. What is not
covered: a file that is one JSON array, whose lines are all bad and soon exceed the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from components.data.sources.file_types import compression_of
from components.data.sources.location import FileLocation, open_stream
from components.data.sources.record_batches import RawRecord
from components.data.sources.records import (
    BLANK,
    NOT_JSON,
    NOT_OBJECT,
    NOT_UTF8,
    SURROGATE,
    TOO_LONG,
    Reject,
)

_BLOCK_BYTES = 4 << 20
"""Read at a time (measured with tests/benchmarks/sources.py: no faster from 1 MB on)."""
_HEAD_BYTES = 1024
"""Kept of a line that is too long, for the excerpt."""


class Line(NamedTuple):
    """A line without its newline."""

    offset: int
    """In bytes from the beginning of the decompressed file."""
    size_bytes: int
    content: bytes
    """All of it, or the first bytes where `size_bytes` is above the limit."""


def read(place: FileLocation, file: str, max_record_bytes: int) -> Iterator[RawRecord]:
    """Every line of a file.

    Raises:
        OSError: the compressed stream is damaged or truncated.
    """
    with open_stream(place, compression_of(file), file) as stream:
        for line in read_lines(stream, max_record_bytes):
            stored_bytes = stream.stored_bytes(line.offset + line.size_bytes)
            yield RawRecord(
                file, line.offset, line.size_bytes, stored_bytes, _parse(line), line.content
            )


def _parse(line: Line) -> Any:
    content = line.content
    if line.size_bytes > len(content):
        return Reject(f"{TOO_LONG}: a line of {line.size_bytes} bytes")
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return _why(content, error)
    return value if isinstance(value, dict) else Reject(f"{NOT_OBJECT}: {type(value).__name__}")


def _why(content: bytes, error: orjson.JSONDecodeError) -> Reject:
    if not content or content.isspace():
        return Reject(BLANK, is_bad=False)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as why:
        return Reject(f"{NOT_UTF8}: {why.reason} at byte {why.start}")
    if "surrogate in string" in error.msg:
        return Reject(f"{SURROGATE}: at character {error.pos}")
    return Reject(f"{NOT_JSON}: {error.msg} at character {error.pos}")


def read_lines(stream: Any, max_bytes: int) -> Iterator[Line]:
    """The lines of a stream. What follows the last newline is a line too, unless it is nothing."""
    offset = size = 0
    parts: list[bytes] = []
    while block := stream.read(_BLOCK_BYTES):
        *ended, rest = block.split(b"\n")
        for end in ended:
            if size:
                yield _line(offset, size + len(end), [*parts, end], max_bytes)
                offset += size
                size, parts = 0, []
            else:
                yield _line(offset, len(end), [end], max_bytes)
            offset += len(end) + 1
        size += len(rest)
        parts = [b"".join(parts)[:_HEAD_BYTES]] if size > max_bytes else [*parts, rest]
    if size:
        yield _line(offset, size, parts, max_bytes)


def _line(offset: int, size: int, parts: list[bytes], max_bytes: int) -> Line:
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    return Line(
        offset, size, content if size <= max_bytes else content[: min(_HEAD_BYTES, max_bytes)]
    )
