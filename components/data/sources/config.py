"""What a raw source is, which language an extension means, and how much may be broken.

Design decision: a source says what is read and how its fields are named, and nothing else. Credentials and endpoints are a
place, not an identity, so they are arguments of the functions that read. What is not covered: the filters of the paper,
which look at the text of a record and come later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config
from components.core.errors import ConfigError

Format = Literal["jsonl", "parquet", "avro", "files", "archive"]

EXTENSIONS: dict[str, str] = {
    ".c": "C",
    ".h": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".cxx": "C++",
    ".hh": "C++",
    ".hpp": "C++",
    ".hxx": "C++",
    ".go": "Go",
    ".java": "Java",
    ".cjs": "JavaScript",
    ".js": "JavaScript",
    ".mjs": "JavaScript",
    ".py": "Python",
}
"""The language of a file by its extension: the six languages of docs/paper.md, section 1. The paper prints no table of
extensions, so which belong to a language is an assumption; that `.h` is C, though C++ shares it, is one too."""


class Source(Config):
    """One raw source. Fields that are not named are looked for under the well-known names of docs/sources.md."""

    uri: str = Field(min_length=1)
    """A file, a folder or a glob: a local path or any URI that fsspec opens."""
    format: Literal["auto", "jsonl", "parquet", "avro", "files", "archive"] = "auto"
    """What the files are; "auto" goes by their names, and takes a folder for "files"."""
    text: str | None = None
    """Name of the field that holds the document. A dot reaches into an object: "meta.body"."""
    path: str | None = None
    """Name of the field that holds the path of the document in its repository."""
    name: str | None = None
    """Name of the field that says where the document comes from, e.g. its repository: the column `source`."""
    license: str | None = None
    """Name of the field that holds a license, or a list of them."""
    language: str | None = None
    """Name of the field that holds the language; where a record has none, the extension of its path decides."""
    fixed_language: str | None = None
    """The language of all records, e.g. English for the Pile. Nothing in a record changes it."""

    @model_validator(mode="after")
    def _names_apply(self) -> Self:
        if self.fixed_language is not None and self.language is not None:
            raise ValueError("fixed_language and language exclude each other")
        named = [
            field
            for field in ("text", "path", "name", "license", "language")
            if getattr(self, field) is not None
        ]
        if self.format in ("files", "archive") and named:
            raise ValueError(f"{self.format} has no fields that {', '.join(named)} could name")
        return self


class QuarantineConfig(Config):
    """What counts as bad, and how much of it a corpus may hold."""

    max_record_bytes: int = Field(default=64 << 20, gt=0)
    """A longer record is bad, and never held in memory as a whole (assumption: no document is that long)."""
    max_bad_fraction: float = Field(default=0.001, ge=0, le=1)
    """Share of all records that may be bad before the corpus is refused (assumption)."""


def extensions_with(extra: Mapping[str, str]) -> dict[str, str]:
    """The table of extensions with those of a recipe, which win.

    Raises:
        ConfigError: an extension does not begin with a dot, or is not in lower case.
    """
    for extension in extra:
        if not extension.startswith(".") or len(extension) < 2 or extension != extension.lower():
            raise ConfigError(
                f"the extension {extension!r} for {extra[extension]}",
                expected="a dot and lower-case letters, as in '.pyi'",
                fix="mend that key of the recipe's table of extensions",
            )
    return EXTENSIONS | dict(extra)
