"""The limits that the suites hold the data to: the part of a recipe that this room owns.

Design decision: rules live in suites, which are files, numbers live here, and a rule names its number as
`{"$PARAMETER": "max_document_bytes"}`, so that a recipe can move a limit without editing a suite. Where the suites lie is
stated here too, but is no identity: their content is (`suites.identity`). Which languages belong to which corpus is no
setting: `components.data.config` says it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from components.core.config import Config
from components.core.errors import ConfigError
from components.data.config import LANGUAGES


class ValidationConfig(Config):
    """Limits on raw corpora and prepared shards. The defaults hold for the starter and the tiny preset."""

    suites: str | None = Field(default=None, min_length=1)
    """Folder of suites of one's own; a relative one starts at the project. `codegen data suites FOLDER` makes one. None: the
    package's."""
    min_documents_per_corpus: int = Field(default=20, ge=1)
    """Assumption: half of the smallest corpus that is pinned (tiny NL: 43 documents), so a lost archive shows."""
    min_documents_per_language: int = Field(default=10, ge=0)
    """Assumption: just below the smallest language that is pinned (tiny JavaScript: 12 documents)."""
    max_without_license: int = Field(default=0, ge=0)
    """Documents of a language that may name no license: none of what is pinned. Sources such as the Pile state none."""
    max_without_path: int = Field(default=0, ge=0)
    """Documents of a language that may name no path, likewise."""
    max_without_source: int = Field(default=0, ge=0)
    """Documents of a language that may not say where they come from, likewise."""
    max_document_bytes: int = Field(default=8 * 2**20, ge=1)
    """Assumption: more is a dump or several files run together. Measured: the largest pinned document is 2.2 MB (zstd.c)."""
    max_control_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of a document's characters that may be control characters, other than tab, line feed, form feed and carriage
    return. Assumption: text has a few escape codes at most, binary content has one in ten. Measured: 0 in all that is
    pinned."""
    max_replacement_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of a document's characters that may be U+FFFD, which stands where bytes could not be decoded. Assumption:
    programs that handle text quote it now and then. Measured: at most 0.000012 in what is pinned."""
    max_blank_documents: float = Field(default=0.2, ge=0, le=1)
    """Share of a language's documents that may be empty or white space only. Assumption: in a checkout one Python file in
    ten is an empty `__init__.py`, which the filters leave out; more means that texts got lost. None in what is pinned."""
    max_large_documents: float = Field(default=0, ge=0, le=1)
    """Share of a language's documents that may be larger than `max_document_bytes`: none of what is pinned."""
    max_binary_documents: float = Field(default=0, ge=0, le=1)
    """Share of a language's documents that may be above `max_control_fraction`, likewise. No filter leaves them out."""
    max_undecoded_documents: float = Field(default=0, ge=0, le=1)
    """Share of a language's documents that may be above `max_replacement_fraction`, likewise."""
    min_documents_per_split: int = Field(default=1, ge=1)
    """Documents in each training or held-out split. Assumption: one is enough to measure bits per byte at all."""
    min_sequences_per_split: int = Field(default=1, ge=1)
    """Full sequences in each training or held-out split. Assumption: as above."""
    max_rejected_fraction: float = Field(default=0.9, ge=0, le=1)
    """Share of a language's documents that the filters may reject. Assumption: more means that archives of another kind were
    read, or that a filter is broken. Measured: at most 0.43 % (multi, Go) in what is pinned."""
    max_duplicate_fraction: float = Field(default=0.9, ge=0, le=1)
    """Share of a language's documents that may be copies of others. Assumption: more means that the same archives were read
    again and again. Measured: at most 0.21 % (mono) in what is pinned."""
    max_repeated_names: float = Field(default=0, ge=0, le=1)
    """Share of a language's documents, rejected ones included, that may have the source and path of another: none of what is
    pinned, where it would mean that an archive was read twice. Documents that state no source or no path have no name."""
    drift: Literal["off", "warn", "fail"] = "warn"
    """What happens when a corpus differs too much from its previous version: nothing is compared, it is shown and the run
    goes on, or the run stops."""
    max_language_share_change: float = Field(default=0.05, ge=0, le=1)
    """By how much a language's share of the bytes of its corpus may rise or fall, as a fraction of the corpus. Assumption:
    what is learnt shifts noticeably when a twentieth of the text changes its language."""
    max_mean_size_change: float = Field(default=0.25, ge=0)
    """By how much the mean size of a language's documents may grow or shrink, relative to the previous one. Assumption: new
    releases of packages change it by a few per cent, documents that were cut off or run together by much more."""
    max_quarantined_share_change: float = Field(default=0.01, ge=0, le=1)
    """By how much the share of records that could not be read may rise or fall. Assumption: a hundredth of a corpus is a
    fault of a reader or of a source, not of a few files."""
    max_rejected_share_change: float = Field(default=0.05, ge=0, le=1)
    """By how much the share of a language's documents that the filters reject, or that are copies, may rise or fall.
    Assumption: as for the shares of languages."""
    max_new_licenses: int = Field(default=0, ge=0)
    """Licenses that the previous version did not have. Assumption: every new one is for a person to read."""

    @property
    def limits(self) -> dict[str, JsonValue]:
        """Everything but the place of the suites, by name: what a rule may name."""
        return self.model_dump(mode="json", exclude={"suites"})


def languages_of(corpus: str) -> list[str]:
    """The languages that a corpus has to contain, and no others.

    Raises:
        ConfigError: there is no such corpus.
    """
    for known, languages in LANGUAGES.items():
        if known == corpus:
            return list(languages)
    raise ConfigError(
        f"there is no corpus {corpus!r}",
        expected=f"one of {', '.join(LANGUAGES)}",
        fix="name the corpus as the recipe does",
    )
