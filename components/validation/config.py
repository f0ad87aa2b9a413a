"""The limits that the suites hold the data to: the part of a recipe that this room owns.

Design decision: rules live in `suites/*.json`, numbers live here, and a rule names its number as
`{"$PARAMETER": "max_document_bytes"}`, so that a recipe can move a limit without editing a suite. Which languages belong
to which corpus is no setting: `components.data.config` says it.
"""

from __future__ import annotations

from pydantic import Field

from components.core.config import Config
from components.core.errors import ConfigError
from components.data.config import LANGUAGES


class ValidationConfig(Config):
    """Limits on raw corpora and prepared shards. The defaults hold for the starter and the tiny preset."""

    min_documents_per_corpus: int = Field(default=20, ge=1)
    """Assumption: half of the smallest corpus that is pinned (tiny NL: 43 documents), so a lost archive shows."""
    min_documents_per_language: int = Field(default=10, ge=0)
    """Assumption: just below the smallest language that is pinned (tiny JavaScript: 12 documents)."""
    max_document_bytes: int = Field(default=8 * 2**20, ge=1)
    """Assumption: more is a dump or several files run together. Measured: the largest pinned document is 2.2 MB (zstd.c)."""
    max_control_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of a document's characters that may be control characters, other than tab, line feed, form feed and carriage
    return. Assumption: text has a few escape codes at most, binary content has one in ten. Measured: 0 in all that is
    pinned."""
    max_replacement_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of a document's characters that may be U+FFFD, which stands where bytes could not be decoded. Assumption:
    programs that handle text quote it now and then. Measured: at most 0.000012 in what is pinned."""
    min_documents_per_split: int = Field(default=1, ge=1)
    """Documents in each training or held-out split. Assumption: one is enough to measure bits per byte at all."""
    min_sequences_per_split: int = Field(default=1, ge=1)
    """Full sequences in each training or held-out split. Assumption: as above."""


def languages_of(corpus: str) -> list[str]:
    """The languages that a corpus has to contain, and no others.

    Raises:
        ConfigError: there is no such corpus.
    """
    for known, languages in LANGUAGES.items():
        if known == corpus:
            return list(languages)
    raise ConfigError(
        f"there is no corpus {corpus!r}", expected=f"one of {', '.join(LANGUAGES)}", do="name the corpus as the recipe does"
    )
