"""Estimates are exact for a complete sample, and close to counts by hand for a partial one."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fixtures.fixed_length_corpus import (
    BYTES_ONLY,
    record,
    write_equal_records,
    write_records,
)
from fixtures.prepare_helpers import ONE_WORKER
from fixtures.synthetic_code import program
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import DataError, RecordError
from components.data.config import DataConfig, DataExecution, NearDuplicateConfig
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import Source
from components.data.sources.partitions import Partition
from components.preparation import corpus_pipeline, prepare_job
from components.preparation.estimate import Estimate, Interval, estimate_corpus
from components.preparation.sample import FEW_FILES, select_partitions

LANGUAGES = {name: corpus.languages for name, corpus in DataConfig().corpora.items()}

DATA = DataConfig(held_out_fraction=0.25)
ALL_BYTES = 10**9


def arguments(raw: Path, corpus: str, tokenizer: Path, **changes: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "sources": [Source(uri=f"{raw}/*.jsonl*")],
        "corpus": corpus,
        "data": DATA,
        "tokenizer_folder": tokenizer,
        "tokenizer": BYTES_ONLY,
        "context_length": 7,
        "seed": 11,
        "execution": ONE_WORKER,
        "benchmarks": (),
    }
    return defaults | changes


def estimate(
    folder: Path,
    raw: Path,
    tokenizer: Path,
    sample_bytes: int,
    corpus: str = "mono",
    **changes: Any,
) -> Estimate:
    folder.mkdir()
    return estimate_corpus(
        folder, **arguments(raw, corpus, tokenizer, **changes), sample_bytes=sample_bytes
    )


def without_duration(result: Estimate) -> Estimate:
    """The fields that do not depend on the machine."""
    return result._replace(duration_s=0, bytes_per_s=0)


# -- complete samples ----------------------------------------------------------------------------


def test_a_complete_sample_gives_counts_by_hand(bytes_only: Path, tmp_path: Path) -> None:
    """100 documents of 6 tokens; a copy, an empty text, a long line and a bad record."""
    records = [record(f"v{number:03}\n", f"{number:03}") for number in range(100)]
    raw = write_records(
        tmp_path / "raw/a.jsonl", [*records[:50], record("v000\n", "copy"), record("", "none")]
    )
    write_records(tmp_path / "raw/b.jsonl.zst", [*records[50:], record("z" * 200, "long")])
    with (raw / "a.jsonl").open("ab") as file:
        file.write(b"no JSON\n")
    result = estimate(tmp_path / "sample", raw, bytes_only, ALL_BYTES)
    assert (result.num_files, result.num_sampled_files, result.is_complete) == (2, 2, True)
    assert result.num_documents == Interval(103, 103, 103)
    assert result.raw_bytes == result.sample_bytes == 101 * 5 + 200
    assert result.rejected == {"duplicate": 1, "empty": 1, "mean line length": 1}
    assert result.rejected_bytes == {"mean line length": 200, "duplicate": 5, "empty": 0}
    assert result.num_quarantined == 1
    assert result.num_tokens == Interval(600, 600, 600)
    num_held_out = (600 - result.num_train_tokens) // 6
    assert 10 < num_held_out < 40
    assert result.num_train_sequences == 6 * (100 - num_held_out) // 7
    assert result.num_held_out_sequences == 6 * num_held_out // 7
    num_sequences = result.num_train_sequences + result.num_held_out_sequences
    assert result.shard_bytes == num_sequences * 7 * 2
    assert result.duration_s > 0


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "near duplicates": {
        "data": DATA.replace_corpus(
            "mono", near_duplicates=NearDuplicateConfig(enabled=True)
        ).replace_corpus("multi", near_duplicates=NearDuplicateConfig(enabled=True))
    },
    "several ranges": {"execution": DataExecution(num_workers=1, memory_mib=256)},
}


@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("corpus", ["multi", "mono"])
def test_a_complete_sample_equals_the_prepared_corpus(
    bytes_only: Path, tmp_path: Path, corpus: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = (
        "def unusual(numbers): "
        "return the seventh prime after the largest of all the given numbers or none"
    )
    changes = {
        "benchmarks": [BenchmarkText(benchmark="mine", problem="7", text=problem)],
        "context_length": 32,
    }
    changes |= OPTIONS[options]
    if options == "several ranges":
        monkeypatch.setattr(prepare_job, "_TASK_MEMORY_SHARE", 1e-4)
    records = [
        record(program(language, str(n)), str(n), language)
        for language in LANGUAGES[corpus]
        for n in range(25)
    ]
    records += [
        record("z" * 1001),
        record(problem, "leak"),
        record(records[-1]["text"], "copy"),
        record(""),
    ]
    for number, suffix in enumerate(("jsonl", "jsonl.gz", "jsonl.zst")):
        raw = write_records(tmp_path / f"raw/{number}.{suffix}", records[number::3])
    sizes = []

    def measure(path: Path, remove: Any = shutil.rmtree, **options: Any) -> None:
        files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        sizes.append(sum(file.stat().st_size for file in files))
        remove(path, **options)

    result = estimate(tmp_path / "sample", raw, bytes_only, ALL_BYTES, corpus, **changes)
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", measure)
        statistics: Any = corpus_pipeline.prepare_corpus(
            tmp_path / "out", **arguments(raw, corpus, bytes_only, **changes)
        )
    languages = list(statistics["languages"].values())

    def total(name: str) -> int:
        return sum(counts[name] for counts in languages)

    assert result.is_complete
    assert result.num_documents.value == total("raw_documents")
    assert result.raw_bytes == total("raw_bytes")
    assert result.num_train_tokens == total("train_tokens")
    assert result.num_tokens.value - result.num_train_tokens == total("held_out_tokens")
    rejected = Counter(duplicate=total("duplicates"))
    for counts in languages:
        rejected.update(counts["rejected"])
    assert result.rejected == {reason: number for reason, number in rejected.items() if number}
    assert "contaminated" in result.rejected
    sequences = {name: split["num_sequences"] for name, split in statistics["splits"].items()}
    assert result.num_train_sequences == sequences.pop("train")
    assert result.num_held_out_sequences == sum(sequences.values())
    shards = (tmp_path / "out").rglob("*.bin")
    assert result.shard_bytes == sum(file.stat().st_size for file in shards)
    # The fixed part of file sizes matters for so little text.
    assert result.work_bytes == pytest.approx(max(sizes), rel=0.1)
    assert not (tmp_path / "out" / "work").exists()


# -- partial samples -----------------------------------------------------------------------------


def test_the_unread_part_of_each_file_is_like_its_beginning(
    bytes_only: Path, tmp_path: Path
) -> None:
    """Documents of 5 and of 50 bytes in two files, a tenth read: each file has its own rate."""
    raw = write_equal_records(tmp_path / "raw/a.jsonl", "%04d\n", 1000)
    write_equal_records(tmp_path / "raw/b.jsonl", "%04d" + "\nx = y" * 7 + "\nok\n", 1000)
    stored = sum(path.stat().st_size for path in raw.iterdir())
    result = estimate(tmp_path / "sample", raw, bytes_only, stored // 10)
    assert (result.num_sampled_files, result.is_complete, result.rejected) == (2, False, {})
    assert result.num_documents.value == pytest.approx(2000, rel=0.02)
    assert result.raw_bytes == pytest.approx(1000 * 5 + 1000 * 50, rel=0.02)
    assert result.sample_bytes == pytest.approx(result.raw_bytes / 10, rel=0.02)
    assert result.num_tokens.value == pytest.approx(1000 * 6 + 1000 * 51, rel=0.02)
    assert result.num_tokens.low < result.num_tokens.value < result.num_tokens.high
    held_out = result.num_tokens.value - result.num_train_tokens
    # A quarter of the unread part; the read tenth is random.
    assert held_out == pytest.approx(0.25 * result.num_tokens.value, rel=0.1)


def test_a_compressed_file_is_weighted_by_its_stored_bytes(
    bytes_only: Path, tmp_path: Path
) -> None:
    """A tenth of the text is a tenth of the file, however much it is compressed."""
    text = "%04d\nthe same words again and again\n" * 20
    raw = write_records(
        tmp_path / "raw/a.jsonl.zst",
        [record(text % ((number,) * 20), f"{number:06}") for number in range(1000)],
    )
    assert (raw / "a.jsonl.zst").stat().st_size * 10 < 1000 * len(text)
    result = estimate(tmp_path / "sample", raw, bytes_only, 100_000)
    assert result.num_documents.value == pytest.approx(1000, rel=0.1)
    assert result.num_tokens.low == result.num_tokens.high, "a single file gives no interval"


def test_of_many_files_a_sample_is_drawn(bytes_only: Path, tmp_path: Path) -> None:
    """200 equal files: about every second is read completely and represents two."""
    for number in range(200):
        raw = write_equal_records(tmp_path / f"raw/{number:03}.jsonl", f"{number:03}-%04d\n", 20)
    size = (raw / "000.jsonl").stat().st_size
    result = estimate(tmp_path / "sample", raw, bytes_only, 100 * size)
    assert (result.num_files, result.num_sampled_files, result.is_complete) == (200, 100, False)
    assert result.num_documents == Interval(4000, 4000, 4000)
    assert result.num_tokens == Interval(4000 * 10, 4000 * 10, 4000 * 10)


def test_the_seed_determines_the_sample(bytes_only: Path, tmp_path: Path) -> None:
    for number in range(100):
        raw = write_equal_records(
            tmp_path / f"raw/{number:03}.jsonl", f"{number} {'word ' * (number % 17)}%04d\n", 20
        )
    results = [
        without_duration(estimate(tmp_path / f"sample-{n}", raw, bytes_only, 60_000, seed=seed))
        for n, seed in enumerate((1, 1, 2))
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]
    assert results[0].num_tokens.low < results[0].num_tokens.value < results[0].num_tokens.high


SIZES = st.lists(st.integers(min_value=0, max_value=10**10), min_size=1, max_size=200)


@given(
    sizes=SIZES,
    sample_bytes=st.integers(min_value=1, max_value=10**9),
    seed=st.integers(min_value=0, max_value=9),
)
def test_the_sample_represents_the_complete_listing(
    sizes: list[int], sample_bytes: int, seed: int
) -> None:
    partitions = [
        Partition(
            source=Source(uri="x"),
            format="jsonl",
            file=str(number),
            uri=str(number),
            size_bytes=size,
        )
        for number, size in enumerate(sizes)
    ]
    sampled = select_partitions(partitions, sample_bytes, seed)
    assert sampled == select_partitions(partitions, sample_bytes, seed)
    assert sum(entry.represented_bytes for entry in sampled) == pytest.approx(sum(sizes), abs=1)
    files = [entry.partition.file for entry in sampled]
    assert len(set(files)) == len(files)
    assert all(entry.partition.replace(max_bytes=None) in partitions for entry in sampled)
    num_bytes = sum(entry.partition.max_bytes or 0 for entry in sampled)
    max_bytes = sample_bytes + max(FEW_FILES, len(sampled))
    assert min(sample_bytes, sum(sizes)) <= num_bytes <= max_bytes


# -- errors --------------------------------------------------------------------------------------


def test_a_sample_without_accepted_documents_is_an_error(bytes_only: Path, tmp_path: Path) -> None:
    raw = write_records(
        tmp_path / "raw/a.jsonl", [record("z" * 2000), record("y" * 2000), record("")]
    )
    with pytest.raises(
        DataError,
        match=r"0 of 3 documents .* mono .*\(mean line length 2, empty 1\)",
    ):
        estimate(tmp_path / "sample", raw, bytes_only, ALL_BYTES)
    with pytest.raises(DataError, match=r"the sources of nl .* all 3 were skipped \(language 3\)"):
        estimate(tmp_path / "sample-2", raw, bytes_only, ALL_BYTES, "nl")


def test_empty_files_are_an_error(bytes_only: Path, tmp_path: Path) -> None:
    raw = write_records(tmp_path / "raw/a.jsonl", [])
    write_records(tmp_path / "raw/b.jsonl.gz", [])
    with pytest.raises(DataError, match="their files are empty"):
        estimate(tmp_path / "sample", raw, bytes_only, ALL_BYTES)


def test_an_empty_file_among_others_is_ignored(bytes_only: Path, tmp_path: Path) -> None:
    raw = write_equal_records(tmp_path / "raw/a.jsonl", "%04d\n", 10)
    write_records(tmp_path / "raw/b.jsonl.gz", [])
    write_records(tmp_path / "raw/c.jsonl", [])
    result = estimate(tmp_path / "sample", raw, bytes_only, ALL_BYTES)
    assert (result.num_files, result.is_complete, result.num_documents.value) == (3, True, 10)


def test_a_damaged_file_is_named(bytes_only: Path, tmp_path: Path) -> None:
    raw = write_records(
        tmp_path / "raw/a.jsonl.zst", [record(f"{number:04}\n" * 9) for number in range(999)]
    )
    content = (raw / "a.jsonl.zst").read_bytes()
    (raw / "a.jsonl.zst").write_bytes(content[: len(content) // 2])
    with pytest.raises(RecordError, match=r"a\.jsonl\.zst is damaged or truncated"):
        estimate(tmp_path / "sample", raw, bytes_only, ALL_BYTES)
