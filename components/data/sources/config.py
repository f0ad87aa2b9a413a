"""Configuration of raw sources: location and field names, languages by extension, limits of
quarantined records.

Credentials and endpoints are not fingerprinted, so they are arguments of the functions that read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config
from components.core.errors import ConfigError
from components.core.network import PublicUri

MAX_EPOCHS = 100
"""The Pile repeats no component more than three times."""

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
"""Languages by file extension, for the six languages of docs/paper.md, section 1. The paper lists
no extensions, so the table is an assumption, also that `.h` is C, although C++ uses it too."""


class Source(Config):
    """A raw source. Unnamed fields are looked up under the default names of docs/sources.md."""

    uri: PublicUri = Field(min_length=1)
    """A file, folder or glob: a local path or an fsspec URI."""
    format: Literal["auto", "jsonl", "parquet", "avro", "files", "archive"] = "auto"
    """Format of the files. "auto" decides by file name; a folder is read as "files"."""
    text: str | None = None
    """Name of the document field. A dot selects a field of an object: "meta.body"."""
    path: str | None = None
    """Name of the field with the document's path in its repository."""
    name: str | None = None
    """Name of the field with the document's origin, such as its repository: the column `source`."""
    license: str | None = None
    """Name of the field with a license or a list of licenses."""
    language: str | None = None
    """Name of the language field. A record without a language takes it from the extension."""
    fixed_language: str | None = None
    """Language of all records, such as English for the Pile; fields of records are ignored."""
    skip_null_text: bool = False
    """Whether a record without text is skipped and counted, not quarantined. BigQuery has no text
    of binary files and of files above 1 MB."""
    title: str | None = Field(default=None, min_length=1)
    """Name of the source in statistics. None: the URI."""
    group_by_name: bool = False
    """Whether statistics have a row for each value of `name`, such as each component of the Pile,
    in place of a row for the source."""
    epochs: float = Field(default=1.0, gt=0, le=MAX_EPOCHS)
    """How often each document occurs in the training split (the Pile weights its components like
    this: arXiv 2101.00027, table 1). With 1.5, each occurs once, and a half of them a second time,
    chosen by a hash of the content. If several sources have a document, the largest number counts.
    Held-out documents occur once."""

    @property
    def label(self) -> str:
        """Name in statistics."""
        return self.title or self.uri

    @model_validator(mode="after")
    def _names_apply(self) -> Self:
        if self.fixed_language is not None and self.language is not None:
            raise ValueError("fixed_language and language exclude each other")
        columns = ("text", "path", "name", "license", "language")
        named = [column for column in columns if getattr(self, column) is not None]
        if self.format in ("files", "archive") and named:
            raise ValueError(f"{self.format} has no fields that {', '.join(named)} could name")
        return self


class QuarantineConfig(Config):
    """Which records are quarantined, and how many quarantined records a corpus may have."""

    max_record_bytes: int = Field(default=64 << 20, gt=0)
    """Longer records are quarantined and not loaded into memory (assumption: no document is
    longer)."""
    max_quarantined_fraction: float = Field(default=0.001, ge=0, le=1)
    """Largest share of quarantined records in a corpus (assumption)."""


def merge_extensions(extensions: Mapping[str, str]) -> dict[str, str]:
    """`EXTENSIONS` with the additions and changes of a recipe.

    Raises:
        ConfigError: an extension does not start with a dot, or is not in lower case.
    """
    for extension, language in extensions.items():
        if not extension.startswith(".") or len(extension) < 2 or extension != extension.lower():
            raise ConfigError(
                f"the extension {extension!r} for {language}",
                expected="a dot and lower-case letters, as in '.pyi'",
                fix="correct the key in data.extensions of the recipe",
            )
    return EXTENSIONS | dict(extensions)
