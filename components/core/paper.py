"""The paper's corpora (`paper_corpora.json`), quoted by the results report and the dataset card.

Numbers are strings as the paper prints them. A number that was not read in a primary source ends in
"?", so that it cannot be quoted without the mark.
"""

from __future__ import annotations

from pathlib import Path

from components.core.config import Config, ListOrTuple
from components.core.files import read_json


class PaperCorpus(Config):
    """A corpus of the paper, or a language of it."""

    stage: str
    language: str | None
    """None: all languages together."""
    corpus: str
    raw: str
    processed: str
    tokens: str


class PaperCorpora(Config):
    """The paper's table of corpora."""

    source: str
    note: str
    rows: ListOrTuple[PaperCorpus]


def paper_corpora() -> PaperCorpora:
    """Return the paper's table of corpora."""
    return PaperCorpora.parse(read_json(Path(__file__).with_name("paper_corpora.json")))


def is_verified(number: str) -> bool:
    """Return whether a number was read in a primary source."""
    return not number.endswith("?")
