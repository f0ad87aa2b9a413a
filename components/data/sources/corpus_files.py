"""Read the raw corpora: JSON Lines files, one document a line, into an Arrow table.

One strict path for every reader: each line is decoded, parsed and checked by itself, so an error can name file and line.
At 200 MB/s and more this is no bottleneck beside tokenisation. Whether the content makes sense (known languages, sizes,
counts) is not decided here, but by the expectations in `components.validation` and by the filters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.core.errors import DataError, RecordError

FIELDS = ("language", "license", "path", "source", "text")
"""The fields of a record, all strings. No other field is allowed: what is not read would be dropped silently."""

SCHEMA = pa.schema([(name, pa.large_string()) for name in FIELDS])
"""`large_string`, since the texts of one file may exceed the 2 GB that 32-bit offsets can address."""

_REBUILD = "mend that line or remove the file, then fetch it again with `codegen data pull`"


def corpus_files(folder: Path) -> list[Path]:
    """The corpus's files, sorted by name.

    Raises:
        DataError: the folder is absent or holds no `*.jsonl` file.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError(
            f"{folder} {'holds no *.jsonl file' if folder.is_dir() else 'does not exist'}",
            expected="a corpus: a folder with one JSON Lines file for each package",
            fix="fetch the raw corpora with `codegen data pull`",
        )
    return files


def read_corpus(folder: Path) -> pa.Table:
    """All documents of a corpus, in the order of file name and line. Columns: `FIELDS`, all `large_string`, no nulls.

    Raises:
        DataError: there is no corpus in the folder.
        RecordError: a line is not a valid record; the message names file and line.
    """
    return pa.concat_tables([read_file(path) for path in corpus_files(folder)])


def read_file(path: Path) -> pa.Table:
    """The documents of one file, as `read_corpus` gives them; a file of no bytes has no documents.

    Raises:
        RecordError: a line is not a valid record.
    """
    columns: dict[str, list[str]] = {name: [] for name in FIELDS}
    for record in _records(path):
        for name in FIELDS:
            columns[name].append(record[name])
    return pa.table(columns, schema=SCHEMA)


def _records(path: Path) -> Iterator[dict[str, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _record(line, f"{path}:{number}")


def _record(line: bytes, place: str) -> dict[str, str]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{place}: byte {error.start} is not UTF-8 ({error.reason})",
            expected="text in UTF-8",
            fix=_REBUILD,
        ) from None
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{place}: column {error.colno} is not JSON ({error.msg})",
            expected="one JSON object on the line",
            fix=_REBUILD,
        ) from None
    except RecursionError:
        raise RecordError(
            f"{place}: lists or objects are nested too deeply to be read",
            expected="a flat JSON object",
            fix=_REBUILD,
        ) from None
    if not isinstance(record, dict) or record.keys() != set(FIELDS):
        got = (
            f"the fields {', '.join(sorted(record)) or '(none)'}"
            if isinstance(record, dict)
            else type(record).__name__
        )
        raise RecordError(
            f"{place}: the record is {got}",
            expected=f"an object with exactly the fields {', '.join(FIELDS)}",
            fix=_REBUILD,
        )
    for name in FIELDS:
        _check(record[name], name, place)
    return record


def _check(value: Any, name: str, place: str) -> None:
    if not isinstance(value, str):
        raise RecordError(
            f"{place}: {name} is {json.dumps(value)[:60]}",
            expected=f"a string as {name}",
            fix=_REBUILD,
        )
    if not value.isascii() and _has_surrogate(value):
        raise RecordError(
            f"{place}: {name} holds half a surrogate pair",
            expected="text that UTF-8 can encode",
            fix=_REBUILD,
        )
    if "\0" in value:
        raise RecordError(
            f"{place}: {name} holds a NUL character at {value.index(chr(0))}",
            expected="text, not binary content",
            fix=_REBUILD,
        )


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
