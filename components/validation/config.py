"""The limits that suites apply.

Suites are files and limits are recipe fields: a rule refers to a limit as
`{"$PARAMETER": "max_document_bytes"}`, so a recipe can change a limit without editing a suite. A
corpus can have limits of its own, because real corpora differ: the Pile has no licenses, code has.
The location of the suites is here too, but it is not part of the recipe hash; their content is (see
`suite_files.validation_identity`).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from components.core.config import Config
from components.core.errors import ConfigError
from components.core.text import suggest_name

_NO_LIMITS = ("suites", "drift", "corpora")
"""Fields that are no limits of a corpus."""


class ValidationConfig(Config):
    """Limits for raw corpora and prepared shards. The defaults fit the starter and tiny presets."""

    suites: str | None = Field(default=None, min_length=1)
    """Folder of your own suites, relative to the project; `codegen data suites FOLDER` creates one.
    None: the suites of the package."""
    min_documents_per_corpus: int = Field(default=20, ge=1)
    """Assumption: half of the smallest pinned corpus (tiny NL, 43 documents), to detect a missing
    archive."""
    min_documents_per_language: int = Field(default=10, ge=0)
    """Assumption: just below the smallest pinned language (tiny JavaScript, 12 documents)."""
    max_without_license_fraction: float = Field(default=0, ge=0, le=1)
    """Maximum fraction of documents per language with an empty license. 0 in pinned corpora; some
    sources, such as the Pile, have no licenses."""
    max_without_path_fraction: float = Field(default=0, ge=0, le=1)
    """Maximum fraction of documents per language with an empty path. 0 in pinned corpora."""
    max_without_source_fraction: float = Field(default=0, ge=0, le=1)
    """Maximum fraction of documents per language with an empty source. 0 in pinned corpora."""
    max_document_bytes: int = Field(default=8 * 2**20, ge=1)
    """Size above which a document is too large. Assumption: it is a dump or several files.
    Measured: the largest pinned document has 2.2 MB (zstd.c)."""
    max_control_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fraction of control characters above which a document is binary, without tab, line feed, form
    feed and carriage return. Assumption: text has a few escape codes, binary content 10 %.
    Measured: 0 in pinned corpora."""
    max_replacement_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fraction of U+FFFD above which a document was not decoded correctly. Assumption: programs
    that process text contain a few. Measured: at most 0.000012 in pinned corpora."""
    max_blank_fraction: float = Field(default=0.2, ge=0, le=1)
    """Maximum fraction of blank documents per language. Assumption: 10 % of the Python files of a
    checkout are an empty `__init__.py`, which filters reject; more means lost texts. Measured: 0 in
    pinned corpora."""
    max_large_fraction: float = Field(default=0, ge=0, le=1)
    """Maximum fraction of documents per language larger than `max_document_bytes`. 0 in pinned
    corpora."""
    max_binary_fraction: float = Field(default=0, ge=0, le=1)
    """Maximum fraction of binary documents per language. 0 in pinned corpora; no filter rejects
    them."""
    max_undecoded_fraction: float = Field(default=0, ge=0, le=1)
    """Maximum fraction of documents per language that were not decoded correctly. 0 in pinned
    corpora; no filter rejects them."""
    min_documents_per_split: int = Field(default=1, ge=1)
    """Minimum documents per split. Assumption: 1 is enough to compute bits per byte."""
    min_sequences_per_split: int = Field(default=1, ge=1)
    """Minimum full sequences per split. Assumption: 1 is enough to compute bits per byte."""
    max_duplicate_path_fraction: float = Field(default=0, ge=0, le=1)
    """Maximum fraction of documents per language, including rejected documents, that share source
    and path with another document. 0 in pinned corpora; more means that an archive was read twice.
    Documents with an empty source or path do not count."""
    drift: Literal["off", "warn", "fail"] = "warn"
    """If a corpus differs too much from its previous version: no comparison, a warning, or stop."""
    max_language_share_change: float = Field(default=0.05, ge=0, le=1)
    """Maximum change of a language's share of the bytes of its corpus. Assumption: 0.05
    changes the training data noticeably."""
    max_mean_size_change: float = Field(default=0.25, ge=0)
    """Maximum relative change of the mean document size of a language. Assumption: new releases of
    packages change it by a few percent, truncated or concatenated documents by much more."""
    max_quarantined_share_change: float = Field(default=0.01, ge=0, le=1)
    """Maximum change of the share of quarantined records. Assumption: 0.01 of a corpus is a fault
    of a reader or source, not of a few files."""
    max_rejected_share_change: float = Field(default=0.05, ge=0, le=1)
    """Maximum change of a language's share of rejected documents, and of duplicates. Assumption: as
    for `max_language_share_change`."""
    max_new_licenses: int = Field(default=0, ge=0)
    """Maximum licenses that the previous version did not have. Assumption: a user reviews each new
    license."""

    corpora: dict[str, dict[str, int | float]] = Field(default_factory=dict)
    """Limits of single corpora, by corpus and limit, in place of those above."""

    @model_validator(mode="after")
    def _check_corpora(self) -> Self:
        for corpus, limits in self.corpora.items():
            for name in limits:
                if name not in self.limits:
                    raise _unknown_limit(corpus, name, list(self.limits))
            try:
                self.for_corpus(corpus)
            except ConfigError as error:
                got = f"validation.corpora.{corpus}: {error.got}"
                raise ConfigError(got, expected=error.expected, fix=error.fix) from None
        return self

    def for_corpus(self, corpus: str) -> Self:
        """Return the limits of a corpus: its own, and the shared limits for the others.

        Raises:
            ConfigError: a limit has an invalid value.
        """
        values = self.model_dump(exclude={"corpora"})
        return self.parse({**values, **self.corpora.get(corpus, {})})

    @property
    def limits(self) -> dict[str, JsonValue]:
        """The limits by name; rules may refer to them."""
        return self.model_dump(mode="json", exclude=set(_NO_LIMITS))


def _unknown_limit(corpus: str, name: str, limits: list[str]) -> ConfigError:
    return ConfigError(
        f"validation.corpora.{corpus} has no limit {name!r}",
        expected=f"one of {', '.join(limits)}",
        fix=suggest_name(name, limits) or "choose one of these names",
    )
