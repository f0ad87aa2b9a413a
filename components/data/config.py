"""Configuration of the raw corpora and of their filters: the data fields of a recipe, and of an
execution config.

Corpora, their languages and their rules are data of the recipe. `archives/corpus.json` lists the
archives of each preset.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from components.core.config import NAME_RULE, Config, ListOrTuple, is_name
from components.data.sources.config import QuarantineConfig, Source

Preset = Literal["starter", "tiny"]

VOCABULARY_FOLDER = "vocabulary"
"""The folder of the vocabulary in `data/`, beside the corpora."""
RESERVED_CORPORA = frozenset(
    (VOCABULARY_FOLDER, "raw", "tokenizer", "checkpoint", "initial", "previous", "protocol")
) | {"corpus", "humaneval"}
"""Names of other inputs of artifacts and of other metrics, which a corpus cannot have."""
PRESET_CORPORA = ("nl", "multi", "mono")
"""The corpora of every preset, in the order of CodeGen's stages (docs/paper.md, section 1)."""

ENGLISH = "English"
CODE_LANGUAGES = ("C", "C++", "Go", "Java", "JavaScript", "Python")
"""The languages of CodeGen-Multi (docs/paper.md, section 1)."""

LANGUAGE_PREFIX: dict[str, str] = {
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


class MaxDroppedShare(Config):
    """Largest share of the text of a language that each step of a preparation may reject, in bytes.

    If a step rejects more, validation stops the flow. Bytes and not tokens, because the documents
    that a filter rejects are not tokenized.
    """

    filters: float = Field(default=0.25, ge=0, le=1)
    """Assumption: twice the share of Codex, whose similar filters keep 159 of 179 GB of Python
    (arXiv 2107.03374, section 3.1, unverified). Filters that do not fit the text reject more: 65 %
    of the tokens of prose with one line per paragraph (measured). Pinned corpora: at most 5.7 %
    (JavaScript)."""
    decontamination: float = Field(default=0.05, ge=0, le=1)
    """Assumption: more means that a problem consists of common words. Pinned corpora: at most
    0.24 % (mono)."""
    exact_dedup: float = Field(default=0.98, ge=0, le=1)
    """Assumption: the paper's steps together reject 98 % of JavaScript (docs/paper.md, section 1,
    unverified). Pinned corpora: at most 0.02 %."""
    near_duplicates: float = Field(default=0.75, ge=0, le=1)
    """Assumption: more than the 54 % of The Stack (arXiv 2211.15533, unverified)."""


class CorpusConfig(Config):
    """A corpus: its sources, and the rules for its documents."""

    languages: Annotated[ListOrTuple[str], Field(min_length=1)]
    """Languages of its documents; records in other languages are skipped."""
    sources: ListOrTuple[Source] | None = None
    """They are read where they are stored. None: the archives of the preset, if the recipe has
    one."""
    filters: FilterConfig | None = FilterConfig()
    """The paper's filters, which are rules for code. None: only empty documents are rejected, as
    for the Pile, whose published size the paper's NL corpus has (docs/paper.md, section 1)."""
    exact_dedup: bool = True
    """Whether a document that repeats another document of the corpus is rejected."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    near_duplicates: NearDuplicateConfig = NearDuplicateConfig()
    redaction: RedactionConfig = RedactionConfig()
    language_prefix: dict[str, str] = Field(default_factory=dict)
    """Prefix of each document, by language. Empty: no prefixes."""
    max_dropped_share: MaxDroppedShare = MaxDroppedShare()
    """Checked when the prepared corpus is validated; it changes no document."""

    @model_validator(mode="after")
    def _check_languages(self) -> Self:
        if len(set(self.languages)) < len(self.languages):
            raise ValueError("languages without repetitions")
        missing = set(self.languages) - set(self.language_prefix)
        if self.language_prefix and missing:
            raise ValueError(f"a language_prefix for {', '.join(sorted(missing))} too, or for none")
        return self


def _default_corpora() -> dict[str, CorpusConfig]:
    """Return the corpora of CodeGen (docs/paper.md, section 1)."""
    return {
        "nl": CorpusConfig(languages=(ENGLISH,), filters=None),
        "multi": CorpusConfig(languages=CODE_LANGUAGES, language_prefix=LANGUAGE_PREFIX),
        "mono": CorpusConfig(languages=("Python",)),
    }


class DataConfig(Config):
    """Training documents: corpora with their sources and rules, and the held-out share."""

    schema_version: ClassVar[int] = 2

    preset: Preset | None = None
    """Set of pinned archives in `data/`, for those of the corpora nl, multi and mono that have no
    sources. None: they are read from sources only."""
    corpora: dict[str, CorpusConfig] = Field(default_factory=_default_corpora)
    """By name. A stage trains on the corpus with its name, or on the one that it names."""
    extensions: dict[str, str] = Field(default_factory=dict)
    """Languages by file extension, in addition to `components.data.sources.config.EXTENSIONS`."""
    quarantine: QuarantineConfig = QuarantineConfig()
    dedup_across_corpora: bool = False
    """Whether a document of an earlier corpus is a duplicate in a later one; the order is that of
    the training stages. Not in the paper."""
    held_out_fraction: float = Field(default=0.01, gt=0, lt=1)
    """Share of the documents of each language that is not trained on (assumption: the paper does
    not state a share). The same for all corpora: a held-out document is held out of each."""

    @model_validator(mode="after")
    def _check_corpora(self) -> Self:
        for name, corpus in self.corpora.items():
            if not is_name(name) or name in RESERVED_CORPORA:
                raise ValueError(
                    f"corpora with names of {NAME_RULE}, other than "
                    f"{', '.join(sorted(RESERVED_CORPORA))}; not {name!r}"
                )
            if self.preset and not corpus.sources and name not in PRESET_CORPORA:
                raise ValueError(
                    f"sources for corpora.{name}, since the presets have only "
                    f"{', '.join(PRESET_CORPORA)}"
                )
        return self

    def replace_corpus(self, name: str, **values: Any) -> Self:
        """Return a copy in which fields of a corpus have other values."""
        return self.replace(corpora={**self.corpora, name: self.corpora[name].replace(**values)})

    @property
    def declared_sources(self) -> dict[str, tuple[Source, ...]]:
        """The sources of the corpora that do not come from the preset, by corpus."""
        return {name: corpus.sources for name, corpus in self.corpora.items() if corpus.sources}

    @property
    def available(self) -> list[str]:
        """The corpora that have sources, or come from the preset."""
        declared = self.declared_sources
        return [name for name in self.corpora if self.preset or name in declared]


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
