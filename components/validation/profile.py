"""The profile of a raw corpus: all that its expectations need to know, over every document, in a few kilobytes of JSON.

    profile_batch   one Arrow record batch       -> Profile
    merge           profiles of disjoint parts   -> Profile of the whole
    profile_corpus  an iterable of batches       -> Profile, with one batch in memory at a time

Design decision: a profile can be merged in any order and grouping without a difference (see `tally`), so an engine may make
one for each partition, wherever it runs. Documents of a language that the corpus does not have are one group, `OTHER`, so
that no input makes a profile large. Not covered: documents that occur twice. That takes all of them together; preparation,
which sorts them, has the tables (see `prepared`).
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import compress, zip_longest
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError, DataError
from components.data.sources.records import FIELDS
from components.validation.config import ValidationConfig, languages_of
from components.validation.mergeable_stats import (
    BottomKCounter,
    Rows,
    RuleViolations,
    SumMinMax,
    defect,
    merge_defects,
    merge_spreads,
    merge_tallies,
    spread,
    tally,
)
from components.validation.text_stats import Measures, measure

OTHER = "(other)"
"""The group of documents whose language is none of the corpus's, or null."""

DEFECTS = {
    **{f"null_{field}": "" for field in FIELDS},
    **{f"empty_{field}": field if field == "license" else "" for field in FIELDS},
    "unknown_language": "language",
    "blank_text": "num_chars",
    "large_text": "num_bytes",
    "control_text": "control_fraction",
    "undecoded_text": "replacement_fraction",
}
"""What a document can have wrong with it, and what the value of an example is, if it has one. A null is not empty, nor is
it an unknown language; an empty text is blank as well."""

_MERGED_AT_ONCE = 64
"""Profiles of batches that are gathered before they are merged (assumption: a few megabytes)."""


Values: TypeAlias = "pa.Array | npt.NDArray[np.generic] | None"


class Limits(Config):
    """What a document is held against while it is profiled. Only profiles under equal limits can be merged."""

    languages: ListOrTuple[str]
    max_document_bytes: int
    max_control_fraction: float
    max_replacement_fraction: float

    @classmethod
    def of(cls, corpus: str, config: ValidationConfig) -> Self:
        """The limits of a corpus.

        Raises:
            ConfigError: there is no such corpus.
        """
        return cls(
            languages=tuple(languages_of(corpus)),
            max_document_bytes=config.max_document_bytes,
            max_control_fraction=config.max_control_fraction,
            max_replacement_fraction=config.max_replacement_fraction,
        )


class LanguageProfile(Config):
    """The documents of one language."""

    num_documents: int = 0
    size_bytes: SumMinMax = SumMinMax()
    """Of the texts, in UTF-8; a null text counts as an empty one, here and below."""
    num_chars: SumMinMax = SumMinMax()
    """Unicode code points of the texts."""
    sizes: ListOrTuple[int] = ()
    """Histogram: entry 0 counts texts of 0 bytes, entry i those of 2^(i-1) to 2^i - 1 bytes; the last entry is not 0."""
    licenses: BottomKCounter = BottomKCounter()
    extensions: BottomKCounter = BottomKCounter()
    """Of the file's name, with the dot; "" where there is none."""
    defects: dict[str, RuleViolations] = Field(
        default_factory=lambda: {name: RuleViolations() for name in DEFECTS}
    )
    """By the names of `DEFECTS`, all of them."""

    def size_below(self, share: float) -> int:
        """The smallest power of two such that at least that share of the texts has fewer bytes; 0 if there is no text."""
        reached = np.flatnonzero(np.cumsum(self.sizes) >= share * self.num_documents)
        return 2 ** int(reached[0]) if len(reached) else 0


class Profile(Config):
    """A raw corpus, or any part of one."""

    limits: Limits
    languages: dict[str, LanguageProfile] = Field(default_factory=dict)
    """Those that occur, and `OTHER` if it does."""
    num_quarantined: int = 0
    """Records that were set aside before there were documents. Whoever reads the corpus states it: see `with_quarantined`."""

    @property
    def num_documents(self) -> int:
        """Documents of all languages."""
        return sum(one.num_documents for one in self.languages.values())

    def with_quarantined(self, num_records: int) -> Profile:
        """The same documents, with so many more records set aside."""
        return self.replace(num_quarantined=self.num_quarantined + num_records)


def profile_corpus(batches: Iterable[pa.RecordBatch], limits: Limits) -> Profile:
    """The profile of all batches together; see `profile_batch`."""
    gathered = [Profile(limits=limits)]
    for batch in batches:
        gathered.append(profile_batch(batch, limits))
        if len(gathered) >= _MERGED_AT_ONCE:
            gathered = [merge(gathered)]
    return merge(gathered)


def profile_batch(batch: pa.RecordBatch, limits: Limits) -> Profile:
    """Profile documents; work memory is some megabytes, whatever the batch holds.

    Args:
        batch: the columns `FIELDS`, strings of any Arrow type; each may hold nulls.
        limits: what the documents are held against.

    Raises:
        DataError: a column is missing, or there is one too many.
    """
    columns = _columns(batch)
    measures = measure(columns["text"])
    known = pc.index_in(
        columns["language"], value_set=pa.array(limits.languages, type=pa.large_string())
    )
    group = pc.fill_null(known, len(limits.languages)).to_numpy(zero_copy_only=False)
    faults = _faults(columns, measures, group == len(limits.languages), limits)
    extensions = [
        posixpath.splitext(path)[1] for path in pc.fill_null(columns["path"], "").to_pylist()
    ]
    names = (*limits.languages, OTHER)
    return Profile(
        limits=limits,
        languages={
            names[one]: _language(columns, measures, faults, extensions, group == one)
            for one in np.unique(group)
        },
    )


def merge(profiles: Iterable[Profile]) -> Profile:
    """The profile of disjoint parts together. The order and grouping make no difference.

    Raises:
        ConfigError: there is nothing to merge, or the parts were held against different limits.
    """
    parts = list(profiles)
    limits = {part.limits for part in parts}
    if len(limits) != 1:
        raise ConfigError(
            f"profiles under {len(limits)} different limits cannot be merged",
            expected="at least one profile, all made with the same limits",
            fix="profile all parts of a corpus with the limits of one recipe",
        )
    names = sorted({name for part in parts for name in part.languages})
    return Profile(
        limits=limits.pop(),
        languages={
            name: merge_languages(part.languages[name] for part in parts if name in part.languages)
            for name in names
        },
        num_quarantined=sum(part.num_quarantined for part in parts),
    )


def merge_languages(profiles: Iterable[LanguageProfile]) -> LanguageProfile:
    """The documents of disjoint groups together."""
    parts = list(profiles)
    return LanguageProfile(
        num_documents=sum(part.num_documents for part in parts),
        size_bytes=merge_spreads(part.size_bytes for part in parts),
        num_chars=merge_spreads(part.num_chars for part in parts),
        sizes=tuple(map(sum, zip_longest(*(part.sizes for part in parts), fillvalue=0))),
        licenses=merge_tallies(part.licenses for part in parts),
        extensions=merge_tallies(part.extensions for part in parts),
        defects={name: merge_defects(part.defects[name] for part in parts) for name in DEFECTS},
    )


def _columns(batch: pa.RecordBatch) -> dict[str, pa.LargeStringArray]:
    if set(batch.schema.names) != set(FIELDS) or batch.num_columns != len(FIELDS):
        raise DataError(
            f"documents have the columns {', '.join(batch.schema.names) or '(none)'}",
            expected=f"exactly the columns {', '.join(FIELDS)}",
            fix="mend what reads these documents, or fetch the corpus again with `codegen data pull`",
        )
    return {name: batch[name].cast(pa.large_string()) for name in FIELDS}


def _faults(
    columns: Mapping[str, pa.LargeStringArray], measures: Measures, is_other: Rows, limits: Limits
) -> dict[str, tuple[Rows, Values]]:
    """Which documents have each of `DEFECTS`, [N], and the values that say what is wrong."""
    present = {
        name: column.is_valid().to_numpy(zero_copy_only=False) for name, column in columns.items()
    }
    empty = {name: _is_empty(column) for name, column in columns.items()}
    rows: dict[str, Rows] = {
        **{f"null_{name}": ~valid for name, valid in present.items()},
        **{f"empty_{name}": is_empty for name, is_empty in empty.items()},
        "unknown_language": is_other & present["language"],
        "blank_text": measures.is_blank & present["text"],
        "large_text": measures.num_bytes > limits.max_document_bytes,
        "control_text": measures.control_fraction > limits.max_control_fraction,
        "undecoded_text": measures.replacement_fraction > limits.max_replacement_fraction,
    }
    values = {**columns, **measures._asdict(), "": None}
    return {name: (rows[name], values[DEFECTS[name]]) for name in DEFECTS}


def _is_empty(column: pa.LargeStringArray) -> Rows:
    lengths = pc.fill_null(pc.binary_length(column), 1)
    empty: Rows = lengths.to_numpy(zero_copy_only=False) == 0
    return empty


def _language(
    columns: Mapping[str, pa.LargeStringArray],
    measures: Measures,
    faults: Mapping[str, tuple[Rows, Values]],
    extensions: list[str],
    mine: Rows,
) -> LanguageProfile:
    """The profile of those documents of a batch that are `mine`."""
    num_bytes = measures.num_bytes[mine]
    licenses = columns["license"].filter(pa.array(mine)).drop_null().value_counts()
    return LanguageProfile(
        num_documents=len(num_bytes),
        size_bytes=spread(num_bytes),
        num_chars=spread(measures.num_chars[mine]),
        # The exponent of n as a binary fraction is its number of bits: 0 for 0, i for 2^(i-1) to 2^i - 1.
        sizes=tuple(np.bincount(np.frexp(num_bytes)[1]).tolist()),
        licenses=tally({one["values"].as_py(): one["counts"].as_py() for one in licenses}),
        extensions=tally(Counter(compress(extensions, mine))),
        defects={
            name: defect(rows & mine, columns["source"], columns["path"], values)
            for name, (rows, values) in faults.items()
        },
    )
