"""The profile of a raw corpus: statistics over all documents, in a few kilobytes of JSON.

    profile_batch    an Arrow record batch          -> Profile
    merge_profiles   profiles of disjoint parts     -> Profile of the whole
    profile_corpus   an iterable of record batches  -> Profile, one batch in memory at a time

Profiles can be merged in any order and grouping (see `mergeable_stats`), so partitions can be
profiled anywhere. Documents in other languages form a group, `OTHER`, so no input makes a profile
large. Duplicates are counted later, in the tables of preparation (see `prepared`).
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, zip_longest
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from components.core.config import Config, ListOrTuple
from components.core.errors import ConfigError, DataError
from components.data.sources.quarantine import QuarantinedRecord
from components.data.sources.records import FIELDS
from components.validation.config import ValidationConfig
from components.validation.mergeable_stats import (
    BottomKCounter,
    RowMask,
    RuleViolations,
    SumMinMax,
    count_names,
    find_violations,
    merge_counters,
    merge_sums,
    merge_violations,
    sum_min_max,
)
from components.validation.text_stats import TextMeasures, measure_texts

OTHER = "(other)"
"""The group of documents whose language is null or not a language of the corpus."""

RAW_DEFECTS = {
    **{f"null_{field}": "" for field in FIELDS},
    **{f"empty_{field}": field if field == "license" else "" for field in FIELDS},
    "unknown_language": "language",
    "blank_text": "num_chars",
    "large_text": "num_bytes",
    "binary_text": "control_fraction",
    "undecoded_text": "replacement_fraction",
}
"""Defects of a document, each with the name of the value that examples show, or "". A null is
neither empty nor an unknown language; an empty text is also blank."""

MAX_QUARANTINED_EXAMPLES = 100
"""Quarantined records of a kind and corpus that are stored (assumption: enough to read)."""
_PROFILES_PER_MERGE = 64
"""Profiles of batches in memory before they are merged (assumption: a few megabytes)."""

Values: TypeAlias = "pa.Array | npt.NDArray[np.generic] | None"


class ProfileLimits(Config):
    """The limits for documents in a profile. Only profiles with equal limits can be merged."""

    languages: ListOrTuple[str]
    max_document_bytes: int
    max_control_fraction: float
    max_replacement_fraction: float

    @classmethod
    def for_corpus(cls, languages: Sequence[str], config: ValidationConfig) -> Self:
        """Return the limits for a corpus with these languages."""
        return cls(
            languages=tuple(languages),
            max_document_bytes=config.max_document_bytes,
            max_control_fraction=config.max_control_fraction,
            max_replacement_fraction=config.max_replacement_fraction,
        )


class LanguageProfile(Config):
    """The documents of a language."""

    num_documents: int = 0
    size_bytes: SumMinMax = SumMinMax()
    """Of the texts, in UTF-8. A null text counts as an empty text, here and below."""
    num_chars: SumMinMax = SumMinMax()
    """Unicode code points of the texts."""
    size_histogram: ListOrTuple[int] = ()
    """Entry 0 counts texts of 0 bytes, entry i texts of 2^(i-1) to 2^i - 1 bytes; the last entry is
    not 0."""
    licenses: BottomKCounter = BottomKCounter()
    extensions: BottomKCounter = BottomKCounter()
    """Of the file name, with the dot; "" if there is none."""
    defects: dict[str, RuleViolations] = Field(
        default_factory=lambda: {name: RuleViolations() for name in RAW_DEFECTS}
    )
    """By every name in `RAW_DEFECTS`."""

    def quantile_bound(self, fraction: float) -> int:
        """Return the smallest power of two that exceeds this fraction of the sizes; 0 if empty."""
        cumulative = np.cumsum(self.size_histogram)
        indices = np.flatnonzero(cumulative >= fraction * self.num_documents)
        return 2 ** int(indices[0]) if len(indices) else 0


class Profile(Config):
    """A raw corpus, or a part of it."""

    limits: ProfileLimits
    languages: dict[str, LanguageProfile] = Field(default_factory=dict)
    """Only languages with documents; may include `OTHER`."""
    num_quarantined: int = 0
    """Records that could not be read, set by the reader of the corpus (`with_quarantined`)."""

    @property
    def num_documents(self) -> int:
        """Documents of all languages."""
        return sum(language.num_documents for language in self.languages.values())

    def with_quarantined(self, num_records: int) -> Profile:
        """Return the same profile with `num_records` more quarantined records."""
        return self.replace(num_quarantined=self.num_quarantined + num_records)


class QuarantineSummary(NamedTuple):
    """The quarantined records of a corpus."""

    counts: Mapping[str, int]
    """Number of records by kind of reason."""
    examples: Sequence[Mapping[str, Any]]
    """The first `MAX_QUARANTINED_EXAMPLES` of each kind: `file`, `offset`, `kind`, `reason`,
    `excerpt`."""

    @property
    def num(self) -> int:
        """Number of records of all kinds."""
        return sum(self.counts.values())

    def records(self) -> list[QuarantinedRecord]:
        """The examples as records."""
        fields = QuarantinedRecord._fields
        return [QuarantinedRecord(*(item[field] for field in fields)) for item in self.examples]


def profile_corpus(batches: Iterable[pa.RecordBatch], limits: ProfileLimits) -> Profile:
    """Profile all batches together; see `profile_batch`."""
    profiles = [Profile(limits=limits)]
    for batch in batches:
        profiles.append(profile_batch(batch, limits))
        if len(profiles) >= _PROFILES_PER_MERGE:
            profiles = [merge_profiles(profiles)]
    return merge_profiles(profiles)


def profile_batch(batch: pa.RecordBatch, limits: ProfileLimits) -> Profile:
    """Profile documents, with a few megabytes of working memory.

    Args:
        batch: the columns `FIELDS`, strings of any Arrow type, with nulls allowed.
        limits: the limits for documents.

    Raises:
        DataError: the columns are not `FIELDS`.
    """
    columns = _columns(batch)
    measures = measure_texts(columns["text"])
    languages = pa.array(limits.languages, type=pa.large_string())
    index = pc.index_in(columns["language"], value_set=languages)
    group = pc.fill_null(index, len(languages)).to_numpy(zero_copy_only=False)
    defects = _find_defects(columns, measures, group == len(languages), limits)
    paths = pc.fill_null(columns["path"], "").to_pylist()
    extensions = [posixpath.splitext(path)[1] for path in paths]
    names = (*limits.languages, OTHER)
    profiles = {
        names[number]: _profile_rows(columns, measures, defects, extensions, group == number)
        for number in np.unique(group)
    }
    return Profile(limits=limits, languages=profiles)


def merge_profiles(profiles: Iterable[Profile]) -> Profile:
    """Merge the profiles of disjoint parts, in any order and grouping.

    Raises:
        ConfigError: there are no profiles, or they have different limits.
    """
    profiles = list(profiles)
    limits = {profile.limits for profile in profiles}
    if len(limits) != 1:
        raise ConfigError(
            f"{len(profiles)} profiles with {len(limits)} different limits cannot be merged",
            expected="at least 1 profile, all with the same limits",
            fix="profile all parts of a corpus with the limits of one recipe",
        )
    by_language: dict[str, list[LanguageProfile]] = {}
    for profile in profiles:
        for name, language in profile.languages.items():
            by_language.setdefault(name, []).append(language)
    return Profile(
        limits=limits.pop(),
        languages={name: merge_languages(by_language[name]) for name in sorted(by_language)},
        num_quarantined=sum(profile.num_quarantined for profile in profiles),
    )


def merge_languages(profiles: Iterable[LanguageProfile]) -> LanguageProfile:
    """Merge the profiles of disjoint groups of documents."""
    groups = list(profiles)
    histograms = zip_longest(*(group.size_histogram for group in groups), fillvalue=0)
    return LanguageProfile(
        num_documents=sum(group.num_documents for group in groups),
        size_bytes=merge_sums(group.size_bytes for group in groups),
        num_chars=merge_sums(group.num_chars for group in groups),
        size_histogram=tuple(map(sum, histograms)),
        licenses=merge_counters(group.licenses for group in groups),
        extensions=merge_counters(group.extensions for group in groups),
        defects={
            name: merge_violations(group.defects[name] for group in groups) for name in RAW_DEFECTS
        },
    )


def merge_quarantined(summaries: Iterable[QuarantineSummary]) -> QuarantineSummary:
    """Merge the summaries of disjoint parts, in any order and grouping."""
    counts: Counter[str] = Counter()
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for summary in summaries:
        counts.update(summary.counts)
        for example in summary.examples:
            by_kind.setdefault(example["kind"], []).append(example)
    examples: list[Mapping[str, Any]] = []
    for _, records in sorted(by_kind.items()):
        records.sort(key=lambda record: (record["file"], record["offset"]))
        examples += records[:MAX_QUARANTINED_EXAMPLES]
    return QuarantineSummary(dict(sorted(counts.items())), examples)


def _columns(batch: pa.RecordBatch) -> dict[str, pa.LargeStringArray]:
    if set(batch.schema.names) != set(FIELDS) or batch.num_columns != len(FIELDS):
        raise DataError(
            f"documents have the columns {', '.join(batch.schema.names) or '(none)'}",
            expected=f"exactly the columns {', '.join(FIELDS)}",
            fix="correct the reader of these documents, or run `codegen data pull` again",
        )
    return {name: batch[name].cast(pa.large_string()) for name in FIELDS}


def _find_defects(
    columns: Mapping[str, pa.LargeStringArray],
    measures: TextMeasures,
    is_other: RowMask,
    limits: ProfileLimits,
) -> dict[str, tuple[RowMask, Values]]:
    """Return for each defect the documents that have it, [N], and the values for examples."""
    is_valid = {
        name: column.is_valid().to_numpy(zero_copy_only=False) for name, column in columns.items()
    }
    rows: dict[str, RowMask] = {
        **{f"null_{name}": ~valid for name, valid in is_valid.items()},
        **{f"empty_{name}": _is_empty(column) for name, column in columns.items()},
        "unknown_language": is_other & is_valid["language"],
        "blank_text": measures.is_blank & is_valid["text"],
        "large_text": measures.num_bytes > limits.max_document_bytes,
        "binary_text": measures.control_fraction > limits.max_control_fraction,
        "undecoded_text": measures.replacement_fraction > limits.max_replacement_fraction,
    }
    values = {**columns, **measures._asdict(), "": None}
    return {name: (rows[name], values[value]) for name, value in RAW_DEFECTS.items()}


def _is_empty(column: pa.LargeStringArray) -> RowMask:
    lengths = pc.fill_null(pc.binary_length(column), 1)
    is_empty: RowMask = lengths.to_numpy(zero_copy_only=False) == 0
    return is_empty


def _profile_rows(
    columns: Mapping[str, pa.LargeStringArray],
    measures: TextMeasures,
    defects: Mapping[str, tuple[RowMask, Values]],
    extensions: list[str],
    selected: RowMask,
) -> LanguageProfile:
    """Profile the selected documents of a batch."""
    num_bytes = measures.num_bytes[selected]
    licenses = columns["license"].filter(pa.array(selected)).drop_null().value_counts()
    return LanguageProfile(
        num_documents=len(num_bytes),
        size_bytes=sum_min_max(num_bytes),
        num_chars=sum_min_max(measures.num_chars[selected]),
        # frexp's exponent is the number of bits: 0 for 0, i for 2^(i-1) to 2^i - 1.
        size_histogram=tuple(np.bincount(np.frexp(num_bytes)[1]).tolist()),
        licenses=count_names(
            {entry["values"].as_py(): entry["counts"].as_py() for entry in licenses}
        ),
        extensions=count_names(Counter(compress(extensions, selected))),
        defects={
            name: find_violations(rows & selected, columns["source"], columns["path"], values)
            for name, (rows, values) in defects.items()
        },
    )
