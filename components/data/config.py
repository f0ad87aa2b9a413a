"""Configuration of the raw corpora and of their filters: the data fields of a recipe, and of an
execution config.

The names of corpora and languages are defined here. `archives/corpus.json` lists the archives of
each preset.
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
"""Prefix of each document of the multi corpus (docs/paper.md, section 1). Assumption: the paper
does not publish its text, so each prefix is a comment of the language."""


RedactionKind = Literal["secret", "email", "ip_address"]
REDACTION_KINDS: tuple[RedactionKind, ...] = ("secret", "email", "ip_address")
"""Kinds of data to redact, by precedence: of overlapping spans, the kind that comes first here
replaces all."""


class FilterConfig(Config):
    """Thresholds of the document filters (docs/paper.md, section 1)."""

    max_mean_line_length: float = Field(default=100.0, gt=0)
    """Characters. The mean line length of a document must be below this."""
    max_line_length: int = Field(default=1000, gt=0)
    """Characters. No line may be longer."""
    max_digit_fraction: float = Field(default=0.9, gt=0, le=1)
    """Largest share of decimal and hexadecimal digits among the characters of a document."""


class DecontaminationConfig(Config):
    """Which documents count as contaminated."""

    enabled: bool = True
    """Whether documents are searched for benchmark problems."""
    ngram_words: int = Field(default=13, ge=1)
    """Words of an n-gram (GPT-3 uses 13: appendix C of arXiv 2005.14165)."""
    threshold: float = Field(default=0.0, ge=0, le=1)
    """Share of the distinct n-grams of a problem that a document must contain. With 0, a single
    n-gram is enough."""
    min_problem_words: int = Field(default=8, ge=1)
    """Shorter problems are not searched for, unless they have the words of an n-gram. GPT-3 stops
    at 8 words, because shorter texts match by chance (appendix C of arXiv 2005.14165)."""


class NearDuplicateConfig(Config):
    """Which documents count as near-duplicates."""

    enabled: bool = False
    """Whether near-duplicates are removed."""
    threshold: float = Field(default=0.7, gt=0, lt=1)
    """Jaccard similarity of the n-gram sets of two near-duplicates (StarCoder, arXiv
    2305.06161)."""
    num_perm: int = Field(default=256, ge=8, multiple_of=8)
    """MinHash permutations (The Stack, arXiv 2211.15533). More permutations make the threshold
    sharper."""
    ngram_words: int = Field(default=5, ge=1)
    """Words of an n-gram (StarCoder)."""


class RedactionConfig(Config):
    """Which secrets and personal data are replaced."""

    enabled: bool = False
    """Whether texts are redacted."""
    kinds: ListOrTuple[RedactionKind] = REDACTION_KINDS
    """Kinds that are replaced."""


class DataConfig(Config):
    """Training documents: archives or sources, filters, held-out share and language prefixes."""

    preset: Preset = "starter"
    """Set of pinned archives in `data/`."""
    sources: dict[Corpus, ListOrTuple[Source]] | None = None
    """Sources of each corpus, in place of the preset's archives. They are read where they are
    stored."""
    extensions: dict[str, Language] = Field(default_factory=dict)
    """Languages by file extension, in addition to `components.data.sources.config.EXTENSIONS`."""
    quarantine: QuarantineConfig = QuarantineConfig()
    filters: FilterConfig = FilterConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    dedup_across_corpora: bool = False
    """Whether a document of an earlier corpus (order: nl, multi, mono) is a duplicate in a later
    one. Not in the paper."""
    near_duplicates: NearDuplicateConfig = NearDuplicateConfig()
    redaction: RedactionConfig = RedactionConfig()
    held_out_fraction: float = Field(default=0.01, gt=0, lt=1)
    """Share of the documents of each language that is not trained on (assumption: the paper does
    not state a share)."""
    language_prefix: dict[Language, str] = LANGUAGE_PREFIX
    """Prefix of each document of the multi corpus, by language."""

    @model_validator(mode="after")
    def _every_language_has_a_prefix(self) -> Self:
        if missing := set(LANGUAGES["multi"]) - set(self.language_prefix):
            raise ValueError(f"language_prefix lacks {', '.join(sorted(missing))}")
        return self


class DataExecution(Config):
    """Execution settings of data preparation. They do not change the bytes, so they are not
    fingerprinted."""

    engine: Literal["local", "ray"] = "local"
    """`local`: processes of this machine. `ray`: an existing Ray cluster whose nodes share the
    workspace."""
    ray_address: str | None = None
    """Address of the Ray cluster, for example `head:6379`. None: the cluster that Ray finds on this
    machine."""
    num_workers: int = Field(default=2, ge=1)
    """Parallel tasks, each in a process with one core."""
    memory_mib: int = Field(default=2048, ge=256)
    """Memory for documents, shared by all workers. Python, libraries and tokenizer need a further
    400 MiB a worker (measured)."""

    @property
    def task_bytes(self) -> int:
        """Bytes of documents that a task may hold in memory."""
        return self.memory_mib * 2**20 // self.num_workers
