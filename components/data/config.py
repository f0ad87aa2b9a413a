"""What the corpora are and how they are filtered: the part of a recipe that this room owns.

Design decision: names of corpora and languages are fixed here and nowhere else; which archives they come from is data
(`corpus.json`). Where files lie and how many threads fetch them is no identity, so it is not here.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config, ListOrTuple
from components.data.sources.config import QuarantineConfig, Source

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


Kind = Literal["secret", "email", "ip_address"]
KINDS: tuple[Kind, ...] = ("secret", "email", "ip_address")
"""What can be found. Where two finds overlap, the one that is named first here replaces both."""


class FilterConfig(Config):
    """Which documents are kept. The bounds are those of docs/paper.md, section 1."""

    max_mean_line_length: float = Field(default=100.0, gt=0)
    """Characters; a document's mean line length must be below this."""
    max_line_length: int = Field(default=1000, gt=0)
    """Characters; no line may be longer than this."""
    max_digit_fraction: float = Field(default=0.9, gt=0, le=1)
    """A document is dropped when more than this share of its characters are decimal or hexadecimal digits."""


class DecontaminationConfig(Config):
    """Which documents count as contaminated."""

    enabled: bool = True
    """Whether documents are looked through at all."""
    ngram_words: int = Field(default=13, ge=1)
    """Words of an n-gram (GPT-3 removes what shares 13: appendix C of arXiv 2005.14165)."""
    threshold: float = Field(default=0.0, ge=0, le=1)
    """Share of a problem's distinct n-grams that a document must contain; at least one always, so 0 means any."""
    min_problem_words: int = Field(default=8, ge=1)
    """A problem of fewer words than this, and than an n-gram, is not looked for (GPT-3 goes no lower than 8 words, because
    fewer match by chance: appendix C of arXiv 2005.14165)."""


class NearDuplicateConfig(Config):
    """Which documents count as near-duplicates."""

    enabled: bool = False
    """Whether documents are compared at all."""
    threshold: float = Field(default=0.7, gt=0, lt=1)
    """Jaccard similarity of two sets of n-grams above which a pair is to be found (StarCoder's, arXiv 2305.06161)."""
    num_perm: int = Field(default=256, ge=8, multiple_of=8)
    """Permutations, i.e. values of a signature (The Stack's, arXiv 2211.15533). More make the threshold sharper."""
    ngram_words: int = Field(default=5, ge=1)
    """Words of an n-gram (StarCoder's)."""


class RedactionConfig(Config):
    """Whether secrets and personal data are replaced, and which."""

    enabled: bool = False
    """Whether texts are looked through at all."""
    kinds: ListOrTuple[Kind] = KINDS
    """What is replaced."""


class DataConfig(Config):
    """What is learnt from: the set of archives, the filters, the held-out share and the language prefixes."""

    preset: Preset = "starter"
    """Which set of pinned archives `data/` holds."""
    sources: dict[Corpus, ListOrTuple[Source]] | None = None
    """Where the documents of each corpus are, instead of a preset: files that are there already, here or elsewhere."""
    extensions: dict[str, Language] = Field(default_factory=dict)
    """Languages by extension, besides those of `components.data.sources.config.EXTENSIONS`."""
    quarantine: QuarantineConfig = QuarantineConfig()
    filters: FilterConfig = FilterConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    dedup_across_corpora: bool = False
    """Whether a document that an earlier corpus holds (nl, multi, mono is the order) is a duplicate. The paper does not."""
    near_duplicates: NearDuplicateConfig = NearDuplicateConfig()
    redaction: RedactionConfig = RedactionConfig()
    held_out_fraction: float = Field(default=0.01, gt=0, lt=1)
    """Share of the documents of each language kept out of training (assumption: the paper does not state one)."""
    language_prefix: dict[Language, str] = LANGUAGE_PREFIX
    """What each document of the multi corpus begins with, by language."""

    @model_validator(mode="after")
    def _every_language_has_a_prefix(self) -> Self:
        if missing := set(LANGUAGES["multi"]) - set(self.language_prefix):
            raise ValueError(f"language_prefix names none for {', '.join(sorted(missing))}")
        return self


class DataExecution(Config):
    """Where and how wide data are prepared. No part of a fingerprint: every place gives the same bytes."""

    engine: Literal["native", "ray"] = "native"
    """`native`: Daft's own runner, on this machine. `ray`: an existing Ray cluster, whose nodes share the workspace."""
    ray_address: str | None = None
    """Address of the cluster, e.g. `head:6379`. None: the one that Ray finds running on this machine."""
    num_workers: int = Field(default=2, ge=1)
    """Tasks at a time, each in a process of its own and on one core."""
    memory_mib: int = Field(default=2048, ge=256)
    """Memory for the documents that all workers together hold at a time. Python, its libraries and the tokenizer take some
    400 MiB a worker besides (measured)."""

    @property
    def task_bytes(self) -> int:
        """Bytes of documents that one task may hold at a time."""
        return self.memory_mib * 2**20 // self.num_workers
