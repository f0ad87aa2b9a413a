"""Sources with epochs: how often each document occurs, and where."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fixtures.prepare_helpers import DATA, SEED, record, write_raw
from fixtures.prepare_reference import is_held_out, keyed_hash

from components.core.corpus_statistics import read_corpus_steps
from components.core.fingerprint import list_files
from components.data.config import DataConfig, DataExecution, NearDuplicateConfig
from components.data.sources.config import Source
from components.preparation import prepare_job
from components.preparation.corpus_pipeline import prepare_corpus
from components.tokenizer.config import TokenizerConfig

BYTES_ONLY = TokenizerConfig(num_merges=0)


def text(name: str, number: int) -> str:
    return f"{name} = {number:03}\n"


def write_source(root: Path, name: str, epochs: float, *others: str) -> Source:
    """60 documents of its own, and those of other sources."""
    records = [
        record(text(owner, number), "Python", f"{owner}/{number}", f"{name} 1")
        for owner in (name, *others)
        for number in range(60)
    ]
    return Source(uri=f"{write_raw(root / name, [records])}/*", title=name, epochs=epochs)


def prepare_sources(
    folder: Path,
    tokenizer_folder: Path,
    sources: list[Source],
    *,
    data: DataConfig = DATA,
    num_workers: int = 1,
) -> dict[str, Any]:
    folder.mkdir()
    return prepare_corpus(
        folder,
        sources=sources,
        corpus="mono",
        data=data,
        tokenizer_folder=tokenizer_folder,
        tokenizer=BYTES_ONLY,
        context_length=8,
        seed=SEED,
        execution=DataExecution(num_workers=num_workers),
    )


def expected_occurrences(name: str, epochs: float) -> dict[str, int]:
    """By the definition: held out once; else the whole epochs, and one more for a share."""
    expected = {}
    for number in range(60):
        content = text(name, number)
        share = int.from_bytes(keyed_hash("epochs", content, SEED)[:8], "big") / 2**64
        num = int(epochs) + (share < epochs % 1)
        if is_held_out(content, DATA.held_out_fraction, SEED):
            num = 1
        expected[hashlib.sha256(content.encode()).hexdigest()] = num
    return expected


def occurrences(folder: Path) -> Counter[str]:
    return Counter(pq.read_table(folder / "documents.parquet")["sha256"].to_pylist())


@pytest.mark.parametrize("num_workers", [1, 2])
def test_each_document_occurs_as_often_as_its_source_says(
    bytes_only: Path, tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [
        write_source(tmp_path, "once", 1),
        write_source(tmp_path, "more", 1.5),
        write_source(tmp_path, "three", 3),
        write_source(tmp_path, "less", 0.5),
    ]
    monkeypatch.setattr(prepare_job, "_SINGLE_PROCESS_MAX_BYTES", 0)
    monkeypatch.setattr(prepare_job, "_TASK_MEMORY_SHARE", 1e-5)  # Many runs and ranges.
    statistics = prepare_sources(tmp_path / "out", bytes_only, sources, num_workers=num_workers)
    expected: dict[str, int] = {}
    for source in sources:
        expected |= expected_occurrences(source.label, source.epochs)
    found = occurrences(tmp_path / "out")
    assert found == Counter({digest: num for digest, num in expected.items() if num})
    more = sum(expected_occurrences("more", 1.5).values())
    assert 60 < more < 120
    num_tokens = {name: len(text(name, 0)) + 1 for name in ("once", "more", "three", "less")}
    for source in sources:
        (counts,) = (row for row in read_corpus_steps(statistics) if row.source == source.label)
        occurring = expected_occurrences(source.label, source.epochs)
        num_kept = sum(num > 0 for num in occurring.values())
        assert counts.step("raw").num_documents == 60
        assert counts.step("deduplicated").num_documents == num_kept
        not_sampled = {row.rule: row.num_documents for row in counts.step("sampled").rules}
        assert not_sampled == ({"not sampled": 60 - num_kept} if num_kept < 60 else {})
        assert counts.num_tokens == num_kept * num_tokens[source.label]
        tokens = counts.num_train_tokens + counts.num_held_out_tokens
        assert tokens == sum(occurring.values()) * num_tokens[source.label]
    other = tmp_path / "other"
    monkeypatch.undo()
    prepare_sources(other, bytes_only, sources[::-1])
    shards = [
        [(file.path, file.sha256) for file in list_files(folder / "train")]
        for folder in (tmp_path / "out", other)
    ]
    assert shards[0] == shards[1]


def test_occurrences_are_spread_over_the_training_order(bytes_only: Path, tmp_path: Path) -> None:
    prepare_sources(tmp_path / "out", bytes_only, [write_source(tmp_path, "three", 3)])
    rows = pq.read_table(tmp_path / "out" / "documents.parquet").to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    assert Counter(row["occurrence"] for row in train) == dict.fromkeys(range(3), len(train) // 3)
    digests = [row["sha256"] for row in train]
    num_adjacent = sum(first == second for first, second in pairwise(digests))
    assert num_adjacent < len(train) / 10


def test_the_largest_number_of_epochs_counts_for_a_document_of_several_sources(
    bytes_only: Path, tmp_path: Path
) -> None:
    sources = [
        write_source(tmp_path, "a", 0.5, "b"),
        write_source(tmp_path, "b", 2.5),
        write_source(tmp_path, "c", 1, "a", "b"),
    ]
    prepare_sources(tmp_path / "out", bytes_only, sources)
    expected = (
        expected_occurrences("a", 1) | expected_occurrences("b", 2.5) | expected_occurrences("c", 1)
    )
    assert occurrences(tmp_path / "out") == Counter(expected)
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert (
        Counter(row["reason"] for row in rejects)["duplicate"]
        + Counter(row["reason"] for row in rejects)["not sampled"]
        == 60 * 6 - 60 * 3
    )


def test_near_duplicates_and_other_corpora_remove_all_occurrences(
    bytes_only: Path, tmp_path: Path
) -> None:
    multi = [write_source(tmp_path / "multi", "a", 1)]
    prepare_sources(tmp_path / "first", bytes_only, multi)
    both = [write_source(tmp_path / "mono", "b", 3, "a")]
    folder = tmp_path / "out"
    folder.mkdir()
    prepare_corpus(
        folder,
        sources=both,
        corpus="mono",
        data=DATA.replace(dedup_across_corpora=True),
        tokenizer_folder=bytes_only,
        tokenizer=BYTES_ONLY,
        context_length=8,
        seed=SEED,
        execution=DataExecution(num_workers=1),
        other_corpora=[tmp_path / "first"],
    )
    assert occurrences(folder) == Counter(expected_occurrences("b", 3))
    lines = "".join(f"value_{number} = compute({number})\n" for number in range(40))
    near = [
        record(lines + f"# {number}\n", "Python", f"near/{number}", "near 1") for number in range(4)
    ]
    source = Source(uri=f"{write_raw(tmp_path / 'near', [near])}/*", epochs=2)
    data = DATA.replace(held_out_fraction=1e-9).replace_corpus(
        "mono", near_duplicates=NearDuplicateConfig(enabled=True)
    )
    with_held_out = write_source(tmp_path / "more", "c", 1)
    data = data.replace(held_out_fraction=0.25)
    prepare_sources(tmp_path / "near-out", bytes_only, [source, with_held_out], data=data)
    paths = pq.read_table(tmp_path / "near-out" / "documents.parquet").to_pylist()
    kept = {row["path"] for row in paths if row["path"].startswith("near/")}
    assert len(kept) == 1


def test_without_exact_dedup_copies_are_kept(bytes_only: Path, tmp_path: Path) -> None:
    sources = [write_source(tmp_path, "a", 1), write_source(tmp_path, "b", 1, "a")]
    data = DATA.replace_corpus("mono", exact_dedup=False)
    statistics = prepare_sources(tmp_path / "out", bytes_only, sources, data=data)
    assert statistics["languages"]["Python"]["documents"] == 180
    assert set(Counter(occurrences(tmp_path / "out")).values()) == {1, 2}
