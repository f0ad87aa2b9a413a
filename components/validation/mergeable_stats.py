"""Counts that can be kept in little memory and merged in any order: of names, of sizes, and of documents that break a rule.

Design decision: where something has to be left out, a hash of the thing itself decides what stays ("the smallest hashes").
What is among the smallest of a whole is among the smallest of every part of it, so the parts always hold what the whole
needs: merging is exact, associative and commutative, and no result depends on how a corpus was cut into partitions. What is
not covered: counts of what occurs more than once in a corpus, which need all of it (see `repeats`).
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
Rows = npt.NDArray[np.bool_]

MAX_EXAMPLES = 20
"""Examples kept of a defect (as many values as Great Expectations lists on a page)."""
MAX_NAMES = 1000
"""Different licenses or extensions that are counted by name for each language (assumption: GitHub's list of languages has
some 1,400 extensions for some 700 languages, and its license detector knows some 50 licenses)."""
_MAX_LENGTH = 200
"""Characters of a name, source, path or value that are kept (assumption: enough to find it; what hostile input puts there
has no bound)."""


class Example(Config):
    """A document that breaks a rule."""

    source: str | None
    path: str | None
    value: Value
    """What is wrong with it; None where the rule's name says it all."""


class RuleViolations(Config):
    """How many documents break a rule, and the few of them that are named."""

    num: int = 0
    examples: ListOrTuple[Example] = ()
    """At most `MAX_EXAMPLES`: those whose source and path have the smallest hashes, in that order."""


class SumMinMax(Config):
    """Sum and bounds of a measure; the bounds of nothing are None."""

    total: int = 0
    smallest: int | None = None
    largest: int | None = None


class BottomKCounter(Config):
    """How often each name occurs, exact for every name that is listed."""

    counts: dict[str, int] = Field(default_factory=dict)
    """At most `MAX_NAMES` names: those with the smallest hashes. All names, unless `num_others` is above 0."""
    num_others: int = 0
    """Occurrences of all names that are not listed."""

    def definitely_absent(self, name: str) -> bool:
        """Whether the name is certain not to have occurred; False where that cannot be known."""
        if name in self.counts:
            return False
        return not self.num_others or _name_rank(name) < max(map(_name_rank, self.counts))

    def most_frequent(self, num: int) -> list[tuple[str, int]]:
        """The most frequent of the listed names, the most frequent first."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:num]


def shorten(value: str | None) -> str | None:
    """The beginning of a string that may be of any length."""
    return value if value is None else value[:_MAX_LENGTH]


def tally(counts: Mapping[str, int]) -> BottomKCounter:
    """Count names as they were found; names with the same first 200 characters count as one."""
    short: Counter[str] = Counter()
    for name, num in counts.items():
        short[name[:_MAX_LENGTH]] += num
    return _tally(short, 0)


def merge_tallies(tallies: Iterable[BottomKCounter]) -> BottomKCounter:
    """The tally of all that was counted by any of them."""
    counts: Counter[str] = Counter()
    num_others = 0
    for one in tallies:
        counts.update(one.counts)
        num_others += one.num_others
    return _tally(counts, num_others)


def _tally(counts: Mapping[str, int], num_others: int) -> BottomKCounter:
    kept = (
        counts if len(counts) <= MAX_NAMES else heapq.nsmallest(MAX_NAMES, counts, key=_name_rank)
    )
    listed = {name: counts[name] for name in sorted(kept)}
    return BottomKCounter(
        counts=listed, num_others=num_others + sum(counts.values()) - sum(listed.values())
    )


def _name_rank(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def spread(values: npt.NDArray[np.int64]) -> SumMinMax:
    """Sum and bounds of values."""
    if not len(values):
        return SumMinMax()
    return SumMinMax(total=int(values.sum()), smallest=int(values.min()), largest=int(values.max()))


def merge_spreads(spreads: Iterable[SumMinMax]) -> SumMinMax:
    """Sum and bounds of all that was measured by any of them."""
    every = list(spreads)
    return SumMinMax(
        total=sum(one.total for one in every),
        smallest=min((one.smallest for one in every if one.smallest is not None), default=None),
        largest=max((one.largest for one in every if one.largest is not None), default=None),
    )


def defect(
    rows: Rows,
    source: pa.Array,
    path: pa.Array,
    values: pa.Array | npt.NDArray[np.generic] | None = None,
) -> RuleViolations:
    """The documents of a batch that break a rule, [N] True for each; `values` [N] say what is wrong, where anything does."""
    found = np.flatnonzero(rows)
    if not len(found):
        return RuleViolations()
    sources, paths = (
        source.take(pa.array(found)).to_pylist(),
        path.take(pa.array(found)).to_pylist(),
    )
    given = [None] * len(found) if values is None else [_plain(values[number]) for number in found]
    named = (
        Example(
            source=shorten(of),
            path=shorten(at),
            value=shorten(value) if isinstance(value, str) else value,
        )
        for of, at, value in zip(sources, paths, given, strict=True)
    )
    return RuleViolations(num=len(found), examples=_smallest(named))


def merge_defects(defects: Iterable[RuleViolations]) -> RuleViolations:
    """The defect of all documents together."""
    every = [one for one in defects if one.num]
    return RuleViolations(
        num=sum(one.num for one in every),
        examples=_smallest(example for one in every for example in one.examples),
    )


def _plain(value: pa.Scalar | np.generic) -> Value:
    plain: Value = value.as_py() if isinstance(value, pa.Scalar) else value.item()
    return plain


def _smallest(examples: Iterable[Example]) -> tuple[Example, ...]:
    return tuple(heapq.nsmallest(MAX_EXAMPLES, examples, key=_rank))


def _rank(example: Example) -> tuple[bytes, str]:
    place = json.dumps([example.source, example.path])
    return hashlib.blake2b(
        place.encode(), digest_size=16
    ).digest(), f"{place} {json.dumps(example.value)}"
