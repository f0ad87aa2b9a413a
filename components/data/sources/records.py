"""Records: their five fields, the parser of all formats, and the strict reader of `data/`.

Formats yield `RawRecord`s with fields as read. `RecordParser` checks texts and languages and
applies the default field names, for all formats alike. The quality of a text is checked by the
filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from components.core.errors import ConfigError, DataError, RecordError
from components.data.sources.columns import (
    LANGUAGE_OR_PATH,
    field_names,
    find_column,
    has_field,
    missing_columns_error,
)
from components.data.sources.config import Source

FIELDS = ("language", "license", "path", "source", "text")
"""The fields of a record, all strings."""

SCHEMA = pa.schema([(name, pa.large_string()) for name in FIELDS])
"""`large_string`, because the texts of a file may exceed the 2 GB of 32-bit offsets."""

WELL_KNOWN: dict[str, tuple[str, ...]] = {
    "language": ("language", "lang"),
    "license": ("license", "max_stars_repo_licenses", "detected_licenses", "licence"),
    "path": ("path", "max_stars_repo_path"),
    "source": ("source", "repo", "repo_name", "max_stars_repo_name"),
    "text": ("text", "content", "code"),
}
"""Default names of each field, the first existing name counts: `data/`, the Pile, BigQuery's tables
of GitHub, The Stack and its successors (examples in docs/sources.md)."""

NOT_JSON = "not JSON"
NOT_OBJECT = "not an object"
NO_TEXT = "no text"
NO_LANGUAGE = "no language"
WRONG_TYPE = "wrong type"
NOT_UTF8 = "not UTF-8"
SURROGATE = "half a surrogate pair"
NUL = "NUL character"
TOO_LONG = "too long"
BROKEN_LINK = "broken link"
OUTSIDE_LINK = "link out of the checkout"
LFS_POINTER = "Git LFS pointer"

QUARANTINE_REASONS = (
    NOT_JSON,
    NOT_OBJECT,
    NO_TEXT,
    NO_LANGUAGE,
    WRONG_TYPE,
    NOT_UTF8,
    SURROGATE,
    NUL,
    TOO_LONG,
    BROKEN_LINK,
    OUTSIDE_LINK,
    LFS_POINTER,
)
"""Reasons why a record is quarantined. Details may follow after a colon."""

LANGUAGE = "language"
BLANK = "blank line"
LINK = "link"
NOT_REGULAR = "no regular file"
NULL_TEXT = "null text"

SKIP_REASONS = (LANGUAGE, BLANK, LINK, NOT_REGULAR, NULL_TEXT)
"""Reasons of skipped records and files, which are counted but not quarantined."""


MAX_POINTER_BYTES = 1024
"""A pointer file of Git LFS is smaller than this (Git LFS specification, "The Pointer")."""
_POINTER_START = b"version https://git-lfs.github.com/spec/"
_BOM = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """A record, in the order of `SCHEMA`."""

    language: str
    license: str
    path: str
    source: str
    text: str


class Reject(NamedTuple):
    """Reason why there is no record."""

    reason: str
    is_quarantined: bool = True


class RawRecord(NamedTuple):
    """A record, file or archive member as a format reads it."""

    file: str
    offset: int
    size_bytes: int
    """Uncompressed, as stored in the file."""
    stored_bytes: int
    """Stored bytes from the start of the partition to the end of this record (an estimate)."""
    value: Mapping[str, Any] | Reject
    head_bytes: bytes = b""
    """The first bytes as stored, or more, if the format has them."""


def longest_value(fields: Mapping[str, Any]) -> int:
    """Length of the longest string or bytes of a row."""
    lengths = [len(value) for value in fields.values() if isinstance(value, str | bytes)]
    return max(lengths, default=0)


def without_bom(content: bytes) -> bytes:
    """The content of a text file without a UTF-8 byte order mark, which marks the encoding."""
    return content.removeprefix(_BOM)


def is_lfs_pointer(text: bytes) -> bool:
    """Whether a text is a pointer file, which Git LFS replaces by the real file."""
    return text.startswith(_POINTER_START) and len(text) < MAX_POINTER_BYTES


class _InvalidField(Exception):
    """A field that cannot be read; the message is the reason."""


class RecordParser:
    """Converts the fields of raw records of a source to records of a corpus."""

    def __init__(
        self,
        source: Source,
        languages: Sequence[str],
        extensions: Mapping[str, str],
        max_record_bytes: int,
    ) -> None:
        if source.fixed_language is not None and source.fixed_language not in languages:
            raise ConfigError(
                f"{source.uri} is all {source.fixed_language}",
                expected=f"a language of the corpus: {', '.join(languages)}",
                fix="correct fixed_language of that source, or move the source to another corpus",
            )
        self._fixed_language = source.fixed_language
        self._skip_null_text = source.skip_null_text
        self._languages = {name.casefold(): name for name in languages}
        self._extensions = extensions
        self._max_bytes = max_record_bytes
        configured = {
            "text": source.text,
            "path": source.path,
            "license": source.license,
            "language": source.language,
            "source": source.name,
        }
        self._configured = {field: name for field, name in configured.items() if name is not None}
        self._names = WELL_KNOWN | {field: (name,) for field, name in self._configured.items()}
        self._required = {field: self._names[field] for field in ("text", *self._configured)}
        if source.fixed_language is None and not self._configured.keys() & {"language", "path"}:
            self._required[LANGUAGE_OR_PATH] = (*self._names["language"], *self._names["path"])

    def language_of(self, path: str, stated: str = "") -> str | None:
        """The language of a record, or None if it is not a language of the corpus."""
        if self._fixed_language is not None:
            return self._fixed_language
        language = stated or _language_by_extension(path, self._extensions)
        return self._languages.get(language.casefold()) if language else None

    def select_columns(self, columns: Iterable[str], file: str) -> list[str]:
        """The columns of a table that can have a field of a record.

        Raises:
            ConfigError: the table lacks the text, a language or path, or a field that the source
                names.
        """
        existing = list(columns)
        missing = [
            field
            for field, names in self._required.items()
            if not any(find_column(name, existing) for name in names)
        ]
        if missing:
            raise missing_columns_error(file, existing, self._required, missing)
        selected = set[str]()
        for names in self._names.values():
            selected.update(filter(None, (find_column(name, existing) for name in names)))
        return sorted(selected)

    def require_fields(self, objects: Sequence[Mapping[str, Any]], file: str) -> None:
        """Check that each field that the source names is in one of the first objects of a file.

        The license is not required, and neither is a text that is skipped if it is null, because
        exports to JSON omit nulls.

        Raises:
            ConfigError: no object has the field.
        """
        optional = {"license", "text"} if self._skip_null_text else {"license"}
        missing = [
            field
            for field, name in self._configured.items()
            if field not in optional and not any(has_field(item, name) for item in objects)
        ]
        if missing:
            existing = dict.fromkeys(name for item in objects for name in field_names(item))
            raise missing_columns_error(file, list(existing), self._required, missing)

    def parse(self, fields: Mapping[str, Any]) -> Record | Reject:
        """The record, or the reason why there is none.

        Args:
            fields: values are strings, or UTF-8 bytes if the format does not decode them.
        """
        try:
            path = self._parse_field(fields, "path")
            stated = "" if self._fixed_language else self._parse_field(fields, "language")
            language = self.language_of(path, stated)
            if not (language or path or stated):
                details = "neither a language nor a path, and the source has no fixed_language"
                return Reject(f"{NO_LANGUAGE}: {details}")
            if language is None:
                return Reject(LANGUAGE, is_quarantined=False)
            text = self._find_value(fields, "text")
            if text is None and self._skip_null_text:
                return Reject(NULL_TEXT, is_quarantined=False)
            if text is None:
                return Reject(f"{NO_TEXT}: {' or '.join(self._names['text'])} is missing or null")
            if isinstance(text, str | bytes) and _exceeds(text, self._max_bytes):
                return Reject(f"{TOO_LONG}: more than {self._max_bytes} bytes")
            checked_text = _check_text(text, "text")
            if checked_text.startswith(_POINTER_START.decode()) and is_lfs_pointer(
                checked_text.encode()
            ):
                return Reject(LFS_POINTER)
            return Record(
                language,
                self._parse_field(fields, "license"),
                path,
                self._parse_field(fields, "source"),
                checked_text,
            )
        except _InvalidField as error:
            return Reject(str(error))

    def _parse_field(self, fields: Mapping[str, Any], field: str) -> str:
        """An optional field as a string. A list of licenses is joined without its nulls."""
        value = self._find_value(fields, field)
        if value is None:
            return ""
        if field == "license" and isinstance(value, list | tuple):
            return ", ".join(_check_text(item, field) for item in value if item is not None)
        return _check_text(value, field)

    def _find_value(self, fields: Mapping[str, Any], field: str) -> Any:
        for name in self._names[field]:
            value = fields.get(name)
            if value is None and "." in name:
                value = _nested_value(fields, name)
            if value is not None:
                return value
        return None


def _language_by_extension(path: str, extensions: Mapping[str, str]) -> str | None:
    """The language of a path, or None. Case is ignored: old repositories have `MAIN.PY`."""
    stem, dot, extension = path.rpartition("/")[2].rpartition(".")
    return extensions.get(dot + extension.lower()) if stem else None


def _nested_value(fields: Any, name: str) -> Any:
    for key in name.split("."):
        if isinstance(fields, list):
            fields = _map_of_pairs(fields)
        if not isinstance(fields, Mapping):
            return None
        fields = fields.get(key)
    return fields


def _map_of_pairs(pairs: list[Any]) -> dict[str, Any] | None:
    """A map column of Parquet, which Arrow returns as pairs; None for another list."""
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return None
    return {
        key.decode("utf-8", "replace") if isinstance(key, bytes) else key: value
        for key, value in pairs
    }


def _exceeds(text: str | bytes, max_bytes: int) -> bool:
    """Whether a text has more bytes in UTF-8. It is only encoded if its characters do not
    decide."""
    if isinstance(text, bytes) or text.isascii() or len(text) > max_bytes:
        return len(text) > max_bytes
    return 4 * len(text) > max_bytes and len(text.encode("utf-8", "surrogatepass")) > max_bytes


def _check_text(value: Any, field: str) -> str:
    """Check that a value is text without NUL that UTF-8 can encode; decodes bytes."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            details = f"{error.reason} at byte {error.start} of {field}"
            raise _InvalidField(f"{NOT_UTF8}: {details}") from None
    if not isinstance(value, str):
        raise _InvalidField(f"{WRONG_TYPE}: {field} is {type(value).__name__}, not a string")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            # `surrogateescape` decodes a byte that is not UTF-8 to this range.
            is_escaped_byte = "\udc80" <= value[error.start] <= "\udcff"
            reason = NOT_UTF8 if is_escaped_byte else SURROGATE
            raise _InvalidField(f"{reason}: at character {error.start} of {field}") from None
    if "\0" in value:
        raise _InvalidField(f"{NUL}: at character {value.index(chr(0))} of {field}")
    return value


def parse_json_object(line: bytes) -> dict[str, Any] | Reject:
    """The JSON object of a line, or the reason why there is none.

    A byte order mark is ignored at every line, because files with a mark may be concatenated.
    """
    line = line.removeprefix(_BOM)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if not line or line.isspace():
            return Reject(BLANK, is_quarantined=False)
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as decode_error:
            reason = f"{decode_error.reason} at byte {decode_error.start}"
            return Reject(f"{NOT_UTF8}: {reason}")
        if "surrogate in string" in error.msg:
            return Reject(f"{SURROGATE}: at character {error.pos}")
        return Reject(f"{NOT_JSON}: {error.msg} at character {error.pos}")
    return value if isinstance(value, dict) else Reject(f"{NOT_OBJECT}: {type(value).__name__}")


def list_corpus_files(folder: Path) -> list[Path]:
    """The `*.jsonl` files of a pulled corpus, sorted by name.

    Raises:
        DataError: the folder does not exist or has no such file.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError(
            f"{folder} {'has no *.jsonl file' if folder.is_dir() else 'does not exist'}",
            expected="the folder of a corpus, with a JSON Lines file for each package",
            fix="run `codegen data pull`",
        )
    return files


def read_corpus_file(path: Path) -> pa.Table:
    """The records of a file of `data/`, strictly: a record that cannot be read is an error.

    Raises:
        RecordError: a line is not a record with exactly the fields of `FIELDS`; names file and
            line.
    """
    columns: dict[str, list[str]] = {name: [] for name in FIELDS}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = parse_json_object(line)
            try:
                if isinstance(record, Reject):
                    raise _InvalidField(record.reason)
                if record.keys() != set(FIELDS):
                    names = ", ".join(sorted(record)) or "(none)"
                    raise _InvalidField(f"the record has the fields {names}")
                for name in FIELDS:
                    columns[name].append(_check_text(record[name], name))
            except _InvalidField as error:
                raise RecordError(
                    f"{path}:{number}: {error}",
                    expected=f"a JSON object with exactly the string fields {', '.join(FIELDS)}",
                    fix="correct that line, or remove the file and run `codegen data pull`",
                ) from None
    return pa.table(columns, schema=SCHEMA)
