"""Avro object container files, read by block.

fastavro decodes. Two checks are added: a block has no bytes after its last record, and a snappy
block has its stated checksum. Limits: Avro has no other checksum and no end mark, so a flipped bit
may change a text unnoticed, and a cut between two blocks is only noticed by the size in the
listing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, cast

import cramjam
import fastavro
from fastavro.schema import SchemaParseException

from components.data.sources.location import FileLocation, damaged_file_error, open_bytes
from components.data.sources.records import RawRecord, RecordParser, longest_value

_SYNC_BYTES = 16
_CRC_BYTES = 4
_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    RecursionError,
    SchemaParseException,
    TypeError,
    ValueError,
    cramjam.DecompressionError,
    struct.error,
    zlib.error,
)
"""Exceptions of fastavro and its codecs for flipped bits (measured: all bits of small files), and
for a schema or a record that is nested too deep."""
_CODECS = ("null", "deflate", "snappy", "bzip2")
"""BigQuery writes the first three. With xz, a flipped bit may request gigabytes of memory; other
codecs need another package."""
_EXPECTED = (
    f"a complete Avro object container file with a codec of {', '.join(_CODECS)}, and a schema "
    "that is not recursive"
)


class _Block(NamedTuple):
    start: int
    end: int
    rows: list[dict[str, Any]]


def read(location: FileLocation, file: str, parser: RecordParser) -> Iterator[RawRecord]:
    """All records; offsets are record numbers in the file, from 0.

    Raises:
        ConfigError: the schema has no text field, or lacks a field that the source names.
        RecordError: the file is damaged.
        OSError: a bzip2 block is damaged.
    """
    row = 0
    with open_bytes(location) as stored:
        limited = _LimitedReader(stored, location.fs.size(location.path))
        for start, end, rows in _read_blocks(limited, file, parser):
            for number, fields in enumerate(rows, start=1):
                stored_bytes = start + (end - start) * number // len(rows)
                yield RawRecord(file, row, longest_value(fields), stored_bytes, fields)
                row += 1


def _read_blocks(stored: _LimitedReader, file: str, parser: RecordParser) -> Iterator[_Block]:
    blocks: Any
    try:
        # Invalid UTF-8 is decoded to surrogates, so that a bad string does not reject the file.
        blocks = fastavro.block_reader(
            cast(IO[bytes], stored), handle_unicode_errors="surrogateescape"
        )
    except _DAMAGE as error:
        raise damaged_file_error(file, error, _EXPECTED) from error
    if blocks.codec not in _CODECS:
        raise damaged_file_error(file, f"its codec is {blocks.codec}", _EXPECTED)
    schema = blocks.writer_schema
    if _is_recursive(schema, frozenset()):
        raise damaged_file_error(file, "its schema contains itself", _EXPECTED)
    fields = schema.get("fields", []) if isinstance(schema, dict) else []
    parser.select_columns([field["name"] for field in fields], file)
    end = stored.tell()
    block: Any
    while True:
        try:
            block = next(blocks, None)
            rows = [] if block is None else _decode_rows(block)
        except _DAMAGE as error:
            cause = f"{error or type(error).__name__} in the block at byte {end}"
            raise damaged_file_error(file, cause, _EXPECTED) from error
        if block is None:
            return
        end = block.offset + block.size
        if blocks.codec == "snappy":
            stated = stored.uint32_at(end - _SYNC_BYTES - _CRC_BYTES)
            if zlib.crc32(block.bytes_.getbuffer()) != stated:
                cause = f"the block at byte {block.offset} has a wrong checksum"
                raise damaged_file_error(file, cause, _EXPECTED)
        yield _Block(block.offset, end, rows)


def _is_recursive(schema: Any, open_names: frozenset[str]) -> bool:
    """Whether a record may contain itself. For 100,000 nested records, fastavro 1.13 overflows the
    stack, which ends the process (measured)."""
    if isinstance(schema, str):
        return schema in open_names
    if isinstance(schema, list):
        return any(_is_recursive(kind, open_names) for kind in schema)
    names = open_names | {schema["name"]} if "name" in schema else open_names
    parts = [field["type"] for field in schema.get("fields", [])]
    parts += [schema[key] for key in ("type", "items", "values") if key in schema]
    return any(_is_recursive(part, names) for part in parts)


def _decode_rows(block: Any) -> list[dict[str, Any]]:
    # A record has at least a byte. A damaged count could mean years of empty records.
    if not 0 <= block.num_records <= block.bytes_.getbuffer().nbytes:
        raise ValueError(f"it states {block.num_records} records")
    rows = list(block)
    if block.bytes_.read(1):
        raise ValueError("it holds more than the records that it states")
    return rows


class _LimitedReader:
    """Reads a file up to its end, because a damaged length could request terabytes of memory."""

    def __init__(self, file: Any, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self.tell = file.tell

    def read(self, num_bytes: int) -> bytes:
        """At most `num_bytes` bytes."""
        if num_bytes < 0:
            raise ValueError(f"a length of {num_bytes}")
        return bytes(self._file.read(min(num_bytes, max(0, self._size_bytes - self._file.tell()))))

    def uint32_at(self, offset: int) -> int:
        """The big-endian number at an offset; the position is restored."""
        position = self._file.tell()
        self._file.seek(offset)
        number = int.from_bytes(self._file.read(_CRC_BYTES), "big")
        self._file.seek(position)
        return number
