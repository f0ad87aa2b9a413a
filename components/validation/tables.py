"""What each suite is about: the columns of its table, and what its rules may name besides the limits.

Design decision: stated here once, apart from the code that counts, so that a suite can be checked before there is any data:
a rule about a column that does not exist is found at once, not after hours of preparation. What is not covered: the values,
which `raw`, `drift`, `shards` and `prepared` put into the tables; a test holds their columns against these.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import JsonValue

from components.validation.document_checks import DOCUMENT_DEFECTS
from components.validation.profile import DEFECTS


class Table(NamedTuple):
    """The table of a suite; docs/validation.md says what a row of it is."""

    columns: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    """What a rule may name as a `$PARAMETER` or in its words, besides the limits."""


def _changing(*names: str) -> tuple[str, ...]:
    return tuple(
        column for name in names for column in (name, f"previous_{name}", f"{name}_change")
    )


_PREPARED = ("context_length", "eot_id", "num_ids", "max_dropped_tokens", "languages", "splits")

SUITE_TABLES = {
    "raw-documents": Table(
        (
            "language", "num_documents", *(f"num_{name}" for name in DEFECTS), *(f"{name}_fraction" for name in DEFECTS),
        ),
        ("languages",),
    ),
    "raw-languages": Table(
        (
            "language", "num_documents", "size_bytes", "num_chars", "smallest_bytes", "mean_bytes", "largest_bytes",
            "half_are_below_bytes", "99_percent_are_below_bytes", "num_licenses", "num_extensions",
        ),
        ("languages",),
    ),
    "raw-drift": Table(("language", *_changing("share", "mean_bytes", "quarantined_share"), "num_new_licenses")),
    "prepared-shards": Table(("split", "path", "size_bytes", "expected_bytes", "max_id"), _PREPARED),
    "prepared-splits": Table(
        (
            "split", "num_sequences", "num_shard_sequences", "num_documents", "num_separators", "num_ends", "num_misplaced",
            "num_dropped_tokens",
        ),
        _PREPARED,
    ),
    "prepared-documents": Table(
        ("split", "num_documents", "num_tokens", *(f"num_{name}" for name in DOCUMENT_DEFECTS)), _PREPARED
    ),
    "prepared-languages": Table(
        (
            "language", "num_raw", "num_kept", "num_rejected", "num_duplicates", "rejected_fraction", "duplicate_fraction",
            "num_repeated_names", "repeated_names_fraction",
        ),
        _PREPARED,
    ),
    "prepared-held-out": Table(("corpus", "num_held_out", "num_trained_on")),
    "prepared-drift": Table(("language", *_changing("rejected_fraction", "duplicate_fraction"))),
}  # fmt: skip
"""By the name of the suite: its file, without the ending."""

EXAMPLES: dict[str, JsonValue] = {
    "context_length": 2048,
    "eot_id": 50_256,
    "num_ids": 50_295,
    "max_dropped_tokens": 2047,
    "languages": ["Python"],
    "splits": ["train", "held-out/Python"],
}
"""A value of each parameter of the right type, to try a suite with."""
