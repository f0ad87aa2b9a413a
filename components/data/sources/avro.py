"""Avro object container files, a block at a time.

Design decision: fastavro decodes, and what it does not check is checked here: that a block holds nothing behind its last
record, and that a snappy block has the checksum it states. What is not covered: Avro has no other checksum and no end mark,
so a flipped bit may change a text unseen, and a file that was cut between two blocks is only noticed by its size, against
that of its listing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

import cramjam
import fastavro
from fastavro.schema import SchemaParseException

from components.data.sources.location import FileLocation, damaged_file_error, open_bytes
from components.data.sources.record_batches import RawRecord
from components.data.sources.records import RecordMaker

_SYNC_BYTES = 16
_CRC_BYTES = 4
_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    SchemaParseException,
    TypeError,
    ValueError,
    cramjam.DecompressionError,
    struct.error,
    zlib.error,
)
"""What fastavro and its codecs raise on flipped bits (measured: every bit of small files in four codecs)."""
_CODECS = ("null", "deflate", "snappy", "bzip2")
"""BigQuery writes the first three; of xz a flipped bit may ask for gigabytes of memory, others need another package."""
_EXPECTED = "a whole Avro object container file, of the codec null, deflate, snappy or bzip2"


def read(place: FileLocation, file: str, maker: RecordMaker) -> Iterator[RawRecord]:
    """Every record; offsets are numbers of records in the file, from 0.

    Raises:
        ConfigError: the schema has no field for the text, or not one that the source names.
        RecordError: the file is damaged.
        OSError: a block of bzip2 is damaged.
    """
    row = 0
    with open_bytes(place) as stored:
        stored_size = place.fs.size(place.path)
        for first, end, rows in _blocks(_LimitedReader(stored, stored_size), file, maker):
            for number, fields in enumerate(rows, start=1):
                size = max(
                    (len(value) for value in fields.values() if isinstance(value, str | bytes)),
                    default=0,
                )
                yield RawRecord(
                    file, row, size, first + (end - first) * number // len(rows), fields
                )
                row += 1


def _blocks(
    stored: _LimitedReader, file: str, maker: RecordMaker
) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
    """Where each block begins and ends, and its records."""
    blocks: Any
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad string does not end the whole file.
        blocks = fastavro.block_reader(
            cast(IO[bytes], stored), handle_unicode_errors="surrogateescape"
        )
    except _DAMAGE as error:
        raise damaged_file_error(file, error, _EXPECTED) from error
    if blocks.codec not in _CODECS:
        raise damaged_file_error(file, f"its codec is {blocks.codec}", _EXPECTED)
    schema = blocks.writer_schema
    fields = schema.get("fields", []) if isinstance(schema, dict) else []
    maker.columns([field["name"] for field in fields], file)
    end = stored.tell()
    block: Any
    while True:
        try:
            block = next(blocks, None)
            rows = [] if block is None else _rows(block)
        except _DAMAGE as error:
            raise damaged_file_error(
                file, f"{error or type(error).__name__} in the block at byte {end}", _EXPECTED
            ) from error
        if block is None:
            return
        first, end = block.offset, block.offset + block.size
        if blocks.codec == "snappy" and zlib.crc32(block.bytes_.getbuffer()) != stored.uint32_at(
            end - _SYNC_BYTES - _CRC_BYTES
        ):
            raise damaged_file_error(
                file, f"the checksum of the block at byte {block.offset} does not hold", _EXPECTED
            )
        yield first, end, rows


def _rows(block: Any) -> list[dict[str, Any]]:
    # A record takes at least a byte: without this check a flipped count could mean years of empty records.
    if not 0 <= block.num_records <= block.bytes_.getbuffer().nbytes:
        raise ValueError(f"it states {block.num_records} records")
    rows = list(block)
    if block.bytes_.read(1):
        raise ValueError("it holds more than the records that it states")
    return rows


class _LimitedReader:
    """A file that reads no further than its end: a flipped length would otherwise ask for terabytes of memory."""

    def __init__(self, file: Any, size_bytes: int) -> None:
        self._file, self._size_bytes = file, size_bytes
        self.tell = file.tell

    def read(self, num_bytes: int) -> bytes:
        """At most `num_bytes` bytes."""
        if num_bytes < 0:
            raise ValueError(f"a length of {num_bytes}")
        return bytes(self._file.read(min(num_bytes, max(0, self._size_bytes - self._file.tell()))))

    def uint32_at(self, offset: int) -> int:
        """The big-endian number at an offset; the file is then where it was."""
        here = self._file.tell()
        self._file.seek(offset)
        number = int.from_bytes(self._file.read(_CRC_BYTES), "big")
        self._file.seek(here)
        return number
