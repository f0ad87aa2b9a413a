"""From whatever a source holds to the five strings of a record, or the reason why there is none.

Design decision: one maker for every format. A format gives it a mapping; that text is text, that a language is one of the
corpus's, and which of the well-known names is used is decided here alone. What is not covered: whether the text is any
good, which is for the filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from components.core.errors import ConfigError
from components.data.sources.config import Source
from components.data.sources.file_types import language_by_extension

WELL_KNOWN: dict[str, tuple[str, ...]] = {
    "language": ("language", "lang"),
    "license": ("license", "max_stars_repo_licenses", "detected_licenses", "licence"),
    "path": ("path", "max_stars_repo_path"),
    "source": ("source", "repo", "repo_name", "max_stars_repo_name"),
    "text": ("text", "content", "code"),
}
"""Under which names a field of a record is looked for, the first that is there: our own corpora, the Pile, BigQuery's
tables of GitHub (`repo_name` and `license`), The Stack and its followers (docs/sources.md has an example of each)."""

NOT_JSON = "not JSON"
NOT_OBJECT = "not an object"
NO_TEXT = "no text"
NO_LANGUAGE = "no language"
WRONG_TYPE = "wrong type"
NOT_UTF8 = "not UTF-8"
SURROGATE = "half a surrogate pair"
NUL = "NUL character"
TOO_LONG = "too long"

BAD_REASONS = (
    NOT_JSON,
    NOT_OBJECT,
    NO_TEXT,
    NO_LANGUAGE,
    WRONG_TYPE,
    NOT_UTF8,
    SURROGATE,
    NUL,
    TOO_LONG,
)
"""Why a record is quarantined. A reason may go on with a colon and details."""

LANGUAGE = "language"
BLANK = "blank line"
LINK = "link"
NOT_REGULAR = "no regular file"

SKIP_REASONS = (LANGUAGE, BLANK, LINK, NOT_REGULAR)
"""Why something that is not bad is left out: it is counted, not quarantined."""


class Record(NamedTuple):
    """A record, in the order of the columns of `components.data.sources.corpus_files.SCHEMA`."""

    language: str
    license: str
    path: str
    source: str
    text: str


class Reject(NamedTuple):
    """Why there is no record."""

    reason: str
    is_bad: bool = True


class _Bad(Exception):
    """A field that makes its record bad."""


class RecordMaker:
    """Makes records of the mappings of one source, for one corpus."""

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
                fix="mend fixed_language of that source, or move the source to the corpus it belongs to",
            )
        self._fixed = source.fixed_language
        self._languages = {name.casefold(): name for name in languages}
        self._extensions = extensions
        self._max_bytes = max_record_bytes
        named = {
            **source.model_dump(include={"text", "path", "license", "language"}),
            "source": source.name,
        }
        self._named = {column: name for column, name in named.items() if name is not None}
        self._names = dict(WELL_KNOWN)
        self._names.update({column: (name,) for column, name in self._named.items()})

    def language_of(self, path: str, stated: str = "") -> str | None:
        """The language of the corpus that a record is in, or None where it is in none of them."""
        if self._fixed is not None:
            return self._fixed
        found = stated or language_by_extension(path, self._extensions)
        return self._languages.get(found.casefold()) if found else None

    def columns(self, names: Iterable[str], file: str) -> list[str]:
        """Which columns of a table, given by name, can hold a field of a record.

        Raises:
            ConfigError: the table has no text, nothing that says a language, or not a field that the source names.
        """
        known = list(names)
        telling = (*self._names["language"], *self._names["path"])
        if self._fixed is None and not any(_column(name, known) for name in telling):
            raise ConfigError(
                f"{file} has the columns {', '.join(known) or '(none)'}",
                expected=f"a language or a path in one of them: {' or '.join(telling)}",
                fix="name the column in `language` or `path` of that source, or give it a fixed_language",
            )
        for column in {**self._named, "text": ""}:
            if not any(_column(name, known) for name in self._names[column]):
                raise ConfigError(
                    f"{file} has the columns {', '.join(known) or '(none)'}",
                    expected=f"{' or '.join(self._names[column])} for {column}",
                    fix=f"name the column in `{'name' if column == 'source' else column}` of that source",
                )
        found = (_column(name, known) for choices in self._names.values() for name in choices)
        return sorted({name for name in found if name})

    def make(self, fields: Mapping[str, Any]) -> Record | Reject:
        """The record, or why there is none. Values are strings, or UTF-8 bytes where a format has not decoded them."""
        try:
            path = self._string(fields, "path")
            stated = "" if self._fixed else self._string(fields, "language")
            language = self.language_of(path, stated)
            if not (language or path or stated):
                return Reject(
                    f"{NO_LANGUAGE}: neither a language nor a path, and the source has no fixed_language"
                )
            if language is None:
                return Reject(LANGUAGE, is_bad=False)
            text = self._find(fields, "text")
            if text is None:
                return Reject(f"{NO_TEXT}: {' or '.join(self._names['text'])} is missing or null")
            if (
                isinstance(text, str | bytes)
                and _num_bytes(text, self._max_bytes) > self._max_bytes
            ):
                return Reject(f"{TOO_LONG}: more than {self._max_bytes} bytes")
            return Record(
                language,
                self._string(fields, "license"),
                path,
                self._string(fields, "source"),
                _checked(text, "text"),
            )
        except _Bad as error:
            return Reject(str(error))

    def _string(self, fields: Mapping[str, Any], column: str) -> str:
        """A field that may be absent, as one string; only licenses may be several."""
        value = self._find(fields, column)
        if value is None:
            return ""
        if column == "license" and isinstance(value, list | tuple):
            return ", ".join(_checked(one, column) for one in value)
        return _checked(value, column)

    def _find(self, fields: Mapping[str, Any], column: str) -> Any:
        for name in self._names[column]:
            value = fields.get(name)
            if value is None and "." in name:
                value = _reach(fields, name)
            if value is not None:
                return value
        return None


def _column(name: str, known: list[str]) -> str | None:
    """The top column that holds `name`, of those that are known."""
    return next((one for one in (name, name.partition(".")[0]) if one in known), None)


def _reach(fields: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(fields, Mapping):
            return None
        fields = fields.get(part)
    return fields


def _num_bytes(text: str | bytes, limit: int) -> int:
    """Length in bytes; characters are only encoded where that could decide on `limit`."""
    if isinstance(text, bytes) or text.isascii() or len(text) > limit:
        return len(text)
    return len(text.encode("utf-8", "surrogatepass")) if 4 * len(text) > limit else len(text)


def _checked(value: Any, column: str) -> str:
    """Text that Arrow can hold and a tokenizer can read."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Bad(f"{NOT_UTF8}: {error.reason} at byte {error.start} of {column}") from None
    if not isinstance(value, str):
        raise _Bad(f"{WRONG_TYPE}: {column} is {type(value).__name__}, not a string")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            if (
                "\udc80" <= value[error.start] <= "\udcff"
            ):  # How `surrogateescape` keeps a byte that is not UTF-8.
                raise _Bad(f"{NOT_UTF8}: at character {error.start} of {column}") from None
            raise _Bad(f"{SURROGATE}: at character {error.start} of {column}") from None
    if "\0" in value:
        raise _Bad(f"{NUL}: at character {value.index(chr(0))} of {column}")
    return value
