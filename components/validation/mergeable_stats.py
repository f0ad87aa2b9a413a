"""Statistics of bounded size that can be merged: name counts, sums and bounds, rule violations.

If not everything fits, the items with the smallest hashes are kept. The smallest of a whole are
among the smallest of each of its parts, so merging is exact, associative and commutative: results
do not depend on how a corpus is partitioned. Counting duplicates needs the whole corpus (see
`duplicate_keys`).
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from components.core.config import Config, ListOrTuple

Value = str | int | float | None
RowMask = npt.NDArray[np.bool_]

MAX_EXAMPLES = 20
"""Examples per rule, as many as Great Expectations lists on a page."""
MAX_NAMES = 1000
"""Licenses or extensions counted by name per language. Assumption: GitHub's list of 700 languages
has 1,400 extensions, and its license detector knows 50 licenses."""
_MAX_CHARS = 200
"""Stored characters of a name, source, path or value, which are unbounded in hostile input.
Assumption: enough to find it."""


class Example(Config):
    """A document that violates a rule."""

    source: str | None
    path: str | None
    value: Value
    """The wrong value; None if the rule's name is sufficient."""


class RuleViolations(Config):
    """The number of documents that violate a rule, and examples."""

    num: int = 0
    examples: ListOrTuple[Example] = ()
    """At most `MAX_EXAMPLES`: those with the smallest hashes of source and path, in that order."""


class SumMinMax(Config):
    """Sum, minimum and maximum; None without values."""

    total: int = 0
    smallest: int | None = None
    largest: int | None = None


class BottomKCounter(Config):
    """Counts of names, exact for each listed name."""

    counts: dict[str, int] = Field(default_factory=dict)
    """At most `MAX_NAMES` names, those with the smallest hashes."""
    num_unlisted: int = 0
    """Occurrences of all other names; 0 if all names are listed."""

    def definitely_absent(self, name: str) -> bool:
        """Whether the name certainly did not occur."""
        if name in self.counts:
            return False
        return not self.num_unlisted or _hash_name(name) < max(map(_hash_name, self.counts))


def count_names(counts: Mapping[str, int]) -> BottomKCounter:
    """Build a counter; names with the same first 200 characters count as the same name."""
    shortened: Counter[str] = Counter()
    for name, num in counts.items():
        shortened[name[:_MAX_CHARS]] += num
    return _bottom_k(shortened, 0)


def merge_counters(counters: Iterable[BottomKCounter]) -> BottomKCounter:
    """Return the counts of all counters together."""
    counts: Counter[str] = Counter()
    num_unlisted = 0
    for counter in counters:
        counts.update(counter.counts)
        num_unlisted += counter.num_unlisted
    return _bottom_k(counts, num_unlisted)


def _bottom_k(counts: Mapping[str, int], num_unlisted: int) -> BottomKCounter:
    names = (
        heapq.nsmallest(MAX_NAMES, counts, key=_hash_name) if len(counts) > MAX_NAMES else counts
    )
    listed = {name: counts[name] for name in sorted(names)}
    num_unlisted += sum(counts.values()) - sum(listed.values())
    return BottomKCounter(counts=listed, num_unlisted=num_unlisted)


def _hash_name(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def sum_min_max(values: npt.NDArray[np.int64]) -> SumMinMax:
    """Return sum and bounds of values."""
    if not len(values):
        return SumMinMax()
    return SumMinMax(total=int(values.sum()), smallest=int(values.min()), largest=int(values.max()))


def merge_sums(sums: Iterable[SumMinMax]) -> SumMinMax:
    """Return sum and bounds of all values together."""
    total = 0
    minima = []
    maxima = []
    for item in sums:
        total += item.total
        if item.smallest is not None and item.largest is not None:
            minima.append(item.smallest)
            maxima.append(item.largest)
    return SumMinMax(
        total=total, smallest=min(minima, default=None), largest=max(maxima, default=None)
    )


def find_violations(
    rows: RowMask,
    source: pa.Array,
    path: pa.Array,
    values: pa.Array | npt.NDArray[np.generic] | None = None,
) -> RuleViolations:
    """Collect the violations of a rule in a batch.

    Args:
        rows: [N], True for each document that violates the rule.
        source: [N].
        path: [N].
        values: [N], the wrong values, if the rule has any.
    """
    indices = np.flatnonzero(rows)
    if not len(indices):
        return RuleViolations()
    sources = source.take(pa.array(indices)).to_pylist()
    paths = path.take(pa.array(indices)).to_pylist()
    examples = []
    for index, document_source, document_path in zip(indices, sources, paths, strict=True):
        value = None if values is None else _to_python(values[index])
        examples.append(
            Example(
                source=_shorten(document_source),
                path=_shorten(document_path),
                value=_shorten(value) if isinstance(value, str) else value,
            )
        )
    return RuleViolations(num=len(indices), examples=_first_examples(examples))


def merge_violations(violations: Iterable[RuleViolations]) -> RuleViolations:
    """Return the violations of all documents together."""
    num = 0
    examples: list[Example] = []
    for item in violations:
        num += item.num
        examples += item.examples
    return RuleViolations(num=num, examples=_first_examples(examples))


def _shorten(value: str | None) -> str | None:
    return value if value is None else value[:_MAX_CHARS]


def _to_python(value: pa.Scalar | np.generic) -> Value:
    python_value: Value = value.as_py() if isinstance(value, pa.Scalar) else value.item()
    return python_value


def _first_examples(examples: Iterable[Example]) -> tuple[Example, ...]:
    return tuple(heapq.nsmallest(MAX_EXAMPLES, examples, key=_example_key))


def _example_key(example: Example) -> tuple[bytes, str]:
    name = json.dumps([example.source, example.path])
    return _hash_name(name), f"{name} {json.dumps(example.value)}"
