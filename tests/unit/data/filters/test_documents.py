"""Annotation, training order and duplicates of documents depend on their content only."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.config import FilterConfig
from components.data.filters.documents import (
    DEDUP_SORT_KEYS,
    DOCUMENT_SCHEMA,
    annotate_documents,
    hash_prefix_u64,
    in_hash_sample,
    is_held_out,
    mark_duplicates,
)

SEED = 7


def keyed_sha256(purpose: str, text: str) -> bytes:
    return hashlib.sha256(
        f"{purpose}:{SEED}:".encode() + hashlib.sha256(text.encode()).digest()
    ).digest()


def annotated(
    records: list[tuple[str, ...]], held_out_fraction: float = 0.01, seed: int = SEED
) -> pa.Table:
    """Annotated rows of (text, source, path, language); the default language is Python."""
    rows_with_language = [(*record, "Python")[:4] for record in records]
    texts, *other_columns = (
        pa.array(column, type=pa.large_string()) for column in zip(*rows_with_language, strict=True)
    )
    rows = pa.Table.from_batches(
        [annotate_documents(texts, FilterConfig(), held_out_fraction, seed)]
    ).append_column("text", texts)
    for name, column in zip(("source", "path", "language"), other_columns, strict=True):
        rows = rows.append_column(name, column)
    first = pa.array([0] * rows.num_rows, type=pa.int16())
    return rows.append_column("occurrence", first)


def sort_and_mark_duplicates(rows: pa.Table) -> pa.Table:
    return mark_duplicates(rows.take(pc.sort_indices(rows, sort_keys=DEDUP_SORT_KEYS)))


def test_annotations_are_computed_from_the_content() -> None:
    """Expected values computed with hashlib."""
    texts = ["x = 1\n", "z" * 1001, "", "wide \u4e16\u754c\n"]
    annotations = annotate_documents(
        pa.array(texts, type=pa.large_string()), FilterConfig(), 0.5, SEED
    )
    assert annotations.schema == DOCUMENT_SCHEMA
    assert annotations["order"].to_pylist() == [keyed_sha256("order", text) for text in texts]
    assert annotations["sha256"].to_pylist() == [
        hashlib.sha256(text.encode()).digest() for text in texts
    ]
    assert annotations["held_out"].to_pylist() == [
        int.from_bytes(keyed_sha256("held-out", text)[:8], "big") < 2**63 for text in texts
    ]
    assert annotations["reason"].to_pylist() == [None, "mean line length", "empty", None]


def test_first_copy_by_source_and_path_is_kept() -> None:
    copies = [
        ("pass\n", "zlib 1", "a.py"),
        ("pass\n", "abc 1", "z.py"),
        ("pass\n", "abc 1", "b.py"),
        ("pass \n", "abc 1", "c"),
    ]
    rows = sort_and_mark_duplicates(annotated(copies)).to_pylist()
    assert {(row["source"], row["path"]) for row in rows if row["reason"] is None} == {
        ("abc 1", "b.py"),
        ("abc 1", "c"),
    }
    assert [row["reason"] for row in rows].count("duplicate") == 2


def test_first_copy_by_language_name_is_kept() -> None:
    copies = [("int x;\n", "", "", "C++"), ("int x;\n", "", "", "C")]
    for unsorted in (copies, copies[::-1]):
        rows = sort_and_mark_duplicates(annotated(unsorted)).to_pylist()
        assert [(row["language"], row["reason"]) for row in rows] == [
            ("C", None),
            ("C++", "duplicate"),
        ]


def test_rejected_copy_keeps_its_reason() -> None:
    rows = sort_and_mark_duplicates(
        annotated([("z" * 1001, "a", "1"), ("z" * 1001, "a", "2"), ("x\n", "a", "3")])
    )
    assert sorted(map(str, rows["reason"].to_pylist())) == [
        "None",
        "mean line length",
        "mean line length",
    ]


@settings(deadline=None)
@given(st.permutations(range(40)), st.integers(1, 40))
def test_training_order_does_not_depend_on_input_order_or_batches(
    shuffled: list[int], at_once: int
) -> None:
    """40 documents with 13 copies; the reference is sorted() by key, source and path."""
    records = [
        (f"x = {number % 27}\n", f"source {number % 3}", f"{number:03}.py") for number in range(40)
    ]
    parts = [
        [records[number] for number in shuffled[start : start + at_once]]
        for start in range(0, 40, at_once)
    ]
    rows = sort_and_mark_duplicates(
        pa.concat_tables([annotated(part) for part in parts])
    ).to_pylist()
    expected = sorted(
        records, key=lambda record: (keyed_sha256("order", record[0]), record[1], record[2])
    )
    assert [(row["text"], row["source"], row["path"]) for row in rows] == expected
    seen: set[str] = set()
    for row in rows:
        assert (row["reason"] == "duplicate") == (row["text"] in seen)
        seen.add(row["text"])


def test_fewer_than_two_rows_have_no_duplicates() -> None:
    assert mark_duplicates(annotated([("x\n", "a", "1")]))["reason"].to_pylist() == [None]
    assert mark_duplicates(annotated([("x\n", "a", "1")]).slice(0, 0)).num_rows == 0


def test_seed_changes_order_and_split() -> None:
    records = [(f"x = {number}\n", "a", f"{number}") for number in range(100)]
    first, second = (sort_and_mark_duplicates(annotated(records, 0.5, seed)) for seed in (1, 2))
    assert first["path"].to_pylist() != second["path"].to_pylist()
    held_out = [
        set(table.filter(table["held_out"])["path"].to_pylist()) for table in (first, second)
    ]
    assert held_out[0] != held_out[1]
    assert all(30 < len(paths) < 70 for paths in held_out)


@given(
    content=st.binary(min_size=32, max_size=32), low=st.floats(0.01, 0.98), more=st.floats(0, 0.01)
)
def test_larger_fraction_holds_out_a_superset(content: bytes, low: float, more: float) -> None:
    assert is_held_out(content, low, seed=0) <= is_held_out(content, low + more, seed=0)
    assert in_hash_sample("anything", content, 1.0, seed=0)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20), st.integers(0, 19))
def test_hash_prefixes_sort_like_the_keys(keys: list[bytes], start: int) -> None:
    column = pa.array(keys, type=pa.binary(32)).slice(min(start, len(keys) - 1))
    assert hash_prefix_u64(column).tolist() == [
        int.from_bytes(key.as_py()[:8], "big") for key in column
    ]
