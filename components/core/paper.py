"""The paper's corpora, which the page of results and the dataset card both quote: `paper_corpora.json`, read and checked.

Design decision: figures are texts as the paper prints them, and one that was not read in a primary source ends in "?", so
that no one can quote it without the mark. What is not covered: the paper's scores, which only the evaluation room needs.
"""

from __future__ import annotations

from pathlib import Path

from components.core.config import Config, ListOrTuple
from components.core.files import read_json


class PaperCorpus(Config):
    """A corpus of the paper, or one language of it."""

    stage: str
    language: str | None
    """None: of all languages together."""
    corpus: str
    raw: str
    processed: str
    tokens: str


class PaperCorpora(Config):
    """What the paper says of its corpora."""

    source: str
    note: str
    rows: ListOrTuple[PaperCorpus]


def paper_corpora() -> PaperCorpora:
    """The paper's corpora."""
    return PaperCorpora.parse(read_json(Path(__file__).with_name("paper_corpora.json")))


def is_verified(figure: str) -> bool:
    """Whether a figure was read in a primary source."""
    return not figure.endswith("?")
