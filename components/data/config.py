"""What the corpora are and how they are filtered: the part of a recipe that this room owns.

Design decision: names of corpora and languages are fixed here and nowhere else; which archives they come from is data
(`corpus.json`). Where files lie and how many threads fetch them is no identity, so it is not here.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config

Corpus = Literal["nl", "multi", "mono"]
Language = Literal["English", "C", "C++", "Go", "Java", "JavaScript", "Python"]
Preset = Literal["starter", "tiny"]

CORPORA: tuple[Corpus, ...] = ("nl", "multi", "mono")
"""The corpora in the order of the training stages (docs/paper.md, section 1)."""

LANGUAGES: dict[Corpus, tuple[Language, ...]] = {
    "nl": ("English",),
    "multi": ("C", "C++", "Go", "Java", "JavaScript", "Python"),
    "mono": ("Python",),
}
"""The languages of each corpus (docs/paper.md, section 1)."""

LANGUAGE_PREFIX: dict[Language, str] = {
    "C": "// language: C\n",
    "C++": "// language: C++\n",
    "Go": "// language: Go\n",
    "Java": "// language: Java\n",
    "JavaScript": "// language: JavaScript\n",
    "Python": "# language: Python\n",
}
"""A prefix names the language in the multi corpus (docs/paper.md, section 1). The exact text is not published: we
choose one, a comment of that language."""


class FilterConfig(Config):
    """Which documents are kept. The bounds are those of docs/paper.md, section 1."""

    max_mean_line_length: float = Field(default=100.0, gt=0)
    """Characters; a document's mean line length must be below this."""
    max_line_length: int = Field(default=1000, gt=0)
    """Characters; no line may be longer than this."""
    max_digit_fraction: float = Field(default=0.9, gt=0, le=1)
    """A document is dropped when more than this share of its characters are decimal or hexadecimal digits."""


class DataConfig(Config):
    """What is learnt from: the set of archives, the filters, the held-out share and the language prefixes."""

    preset: Preset = "starter"
    """Which set of pinned archives `data/` holds."""
    filters: FilterConfig = FilterConfig()
    held_out_fraction: float = Field(default=0.01, gt=0, lt=1)
    """Share of the documents of each language kept out of training (assumption: the paper does not state one)."""
    language_prefix: dict[Language, str] = LANGUAGE_PREFIX
    """What each document of the multi corpus begins with, by language."""

    @model_validator(mode="after")
    def _every_language_has_a_prefix(self) -> Self:
        if missing := set(LANGUAGES["multi"]) - set(self.language_prefix):
            raise ValueError(f"language_prefix names none for {', '.join(sorted(missing))}")
        return self
