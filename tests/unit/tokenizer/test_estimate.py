"""Estimates: the exact truth where the sample is everything, figures worked out by hand where it is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fixtures.fixed_length_corpus import BYTES_ONLY, record, uniform, write
from fixtures.synthetic_code import program
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import DataError, RecordError
from components.data.config import LANGUAGES, Corpus, DataConfig, DataExecution, NearDuplicateConfig
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import Source
from components.data.sources.partitions import Partition
from components.preparation import corpus_pipeline
from components.preparation.estimate import Estimate, Interval, estimate_corpus
from components.preparation.sample import FEW_FILES, select_partitions

DATA = DataConfig(held_out_fraction=0.25)
PLACE = DataExecution(num_workers=1)
EVERYTHING = 10**9


def arguments(raw: Path, corpus: Corpus, tokenizer: Path, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "sources": [Source(uri=f"{raw}/*.jsonl*")],
        "corpus": corpus,
        "data": DATA,
        "tokenizer_folder": tokenizer,
        "tokenizer": BYTES_ONLY,
        "context_length": 7,
        "seed": 11,
        "place": PLACE,
        "benchmarks": (),
    }
    return given | changes


def estimate(
    folder: Path,
    raw: Path,
    tokenizer: Path,
    sample_bytes: int,
    corpus: Corpus = "mono",
    **changes: Any,
) -> Estimate:
    folder.mkdir()
    return estimate_corpus(
        folder, **arguments(raw, corpus, tokenizer, **changes), sample_bytes=sample_bytes
    )


def timeless(found: Estimate) -> Estimate:
    """What does not depend on how busy the machine was."""
    return found._replace(duration_s=0, bytes_per_s=0)


# -- a sample that is everything ---------------------------------------------------------------------------------------


def test_the_whole_corpus_by_hand(bytes_only: Path, tmp_path: Path) -> None:
    """100 documents of 5 bytes, so 6 tokens; a copy, an empty one and a long line are rejected, and a line is no JSON."""
    records = [record(f"v{number:03}\n", f"{number:03}") for number in range(100)]
    raw = write(
        tmp_path / "raw/a.jsonl", [*records[:50], record("v000\n", "copy"), record("", "none")]
    )
    write(tmp_path / "raw/b.jsonl.zst", [*records[50:], record("z" * 200, "long")])
    with (raw / "a.jsonl").open("ab") as file:
        file.write(b"no JSON\n")
    found = estimate(tmp_path / "sample", raw, bytes_only, EVERYTHING)
    assert (found.num_files, found.num_drawn, found.is_whole) == (2, 2, True)
    assert found.documents == Interval(103, 103, 103)
    assert found.raw_bytes == found.sample_bytes == 101 * 5 + 200
    assert found.rejected == {"duplicate": 1, "empty": 1, "mean line length": 1}
    assert found.bad == 1
    assert found.tokens == Interval(600, 600, 600)
    num_out = (600 - found.train_tokens) // 6
    assert 10 < num_out < 40
    assert (found.sequences, found.held_out_sequences) == (
        6 * (100 - num_out) // 7,
        6 * num_out // 7,
    )
    assert found.shard_bytes == (found.sequences + found.held_out_sequences) * 7 * 2
    assert found.duration_s > 0


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "near duplicates": {"data": DATA.replace(near_duplicates=NearDuplicateConfig(enabled=True))},
    "several ranges": {"place": DataExecution(num_workers=1, memory_mib=256)},
}


@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("corpus", ["multi", "mono"])
def test_the_whole_corpus_is_what_preparation_makes_of_it(
    bytes_only: Path, tmp_path: Path, corpus: Corpus, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = "def unusual(numbers): return the seventh prime after the largest of all the given numbers or none"
    given = {
        "benchmarks": [BenchmarkText(benchmark="mine", problem="7", text=problem)],
        "context_length": 32,
    }
    given |= OPTIONS[options]
    if options == "several ranges":
        monkeypatch.setattr(corpus_pipeline, "_SHARE_OF_MEMORY", 1e-4)
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
        raw = write(tmp_path / f"raw/{number}.{suffix}", records[number::3])
    peaks = []

    def measure(path: Path, remove: Any = shutil.rmtree, **more: Any) -> None:
        peaks.append(
            sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
        )
        remove(path, **more)

    found = estimate(tmp_path / "sample", raw, bytes_only, EVERYTHING, corpus, **given)
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", measure)
        truth: Any = corpus_pipeline.prepare_corpus(
            tmp_path / "out", **arguments(raw, corpus, bytes_only, **given)
        )
    languages = truth["languages"].values()
    assert found.is_whole
    assert found.documents.value == sum(one["raw_documents"] for one in languages)
    assert found.raw_bytes == sum(one["raw_bytes"] for one in languages)
    assert found.train_tokens == sum(one["train_tokens"] for one in languages)
    assert found.tokens.value - found.train_tokens == sum(
        one["held_out_tokens"] for one in languages
    )
    reasons: dict[str, int] = {"duplicate": sum(one["duplicates"] for one in languages)}
    for one in languages:
        reasons = {
            reason: reasons.get(reason, 0) + one["rejected"].get(reason, 0)
            for reason in reasons | one["rejected"]
        }
    assert found.rejected == {reason: number for reason, number in reasons.items() if number}
    assert "contaminated" in found.rejected
    splits = {name: split["num_sequences"] for name, split in truth["splits"].items()}
    assert (found.sequences, found.held_out_sequences) == (
        splits.pop("train"),
        sum(splits.values()),
    )
    shards = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*.bin"))
    assert found.shard_bytes == shards
    # Beside so little text, what is fixed in the files' sizes still weighs.
    assert found.work_bytes == pytest.approx(max(peaks), rel=0.05)
    assert not (tmp_path / "out" / "work").exists()


# -- a sample that is not ----------------------------------------------------------------------------------------------


def test_what_was_not_read_is_like_what_was(bytes_only: Path, tmp_path: Path) -> None:
    """Documents of 5 bytes in one file and of 50 in another, each file a tenth read: every file counts by its own rate."""
    raw = uniform(tmp_path / "raw/a.jsonl", "%04d\n", 1000)
    uniform(tmp_path / "raw/b.jsonl", "%04d" + "\nx = y" * 7 + "\nok\n", 1000)
    stored = sum(path.stat().st_size for path in raw.iterdir())
    found = estimate(tmp_path / "sample", raw, bytes_only, stored // 10)
    assert (found.num_drawn, found.is_whole, found.rejected) == (2, False, {})
    assert found.documents.value == pytest.approx(2000, rel=0.02)
    assert found.raw_bytes == pytest.approx(1000 * 5 + 1000 * 50, rel=0.02)
    assert found.sample_bytes == pytest.approx(found.raw_bytes / 10, rel=0.02)
    assert found.tokens.value == pytest.approx(1000 * 6 + 1000 * 51, rel=0.02)
    assert found.tokens.low < found.tokens.value < found.tokens.high
    held_out = found.tokens.value - found.train_tokens
    # Of what was not read, a quarter exactly; of the tenth that was, what chance has put there.
    assert held_out == pytest.approx(0.25 * found.tokens.value, rel=0.1)


def test_a_compressed_file_counts_by_its_stored_bytes(bytes_only: Path, tmp_path: Path) -> None:
    """A tenth of the text of a file that is compressed to a fraction is a tenth of the file all the same."""
    text = "%04d\nthe same words again and again\n" * 20
    raw = write(
        tmp_path / "raw/a.jsonl.zst",
        [record(text % ((number,) * 20), f"{number:06}") for number in range(1000)],
    )
    assert (raw / "a.jsonl.zst").stat().st_size * 10 < 1000 * len(text)
    found = estimate(tmp_path / "sample", raw, bytes_only, 100_000)
    assert found.documents.value == pytest.approx(1000, rel=0.1)
    assert found.tokens.low == found.tokens.high, "one file alone gives no range"


def test_of_many_files_some_are_drawn(bytes_only: Path, tmp_path: Path) -> None:
    """200 files alike, of which every second is read to its end, near enough, and stands for two."""
    for number in range(200):
        raw = uniform(tmp_path / f"raw/{number:03}.jsonl", f"{number:03}-%04d\n", 20)
    size = (raw / "000.jsonl").stat().st_size
    found = estimate(tmp_path / "sample", raw, bytes_only, 100 * size)
    assert (found.num_files, found.num_drawn, found.is_whole) == (200, 100, False)
    assert found.documents == Interval(4000, 4000, 4000)
    assert found.tokens == Interval(4000 * 10, 4000 * 10, 4000 * 10)


def test_the_seed_decides(bytes_only: Path, tmp_path: Path) -> None:
    for number in range(100):
        raw = uniform(
            tmp_path / f"raw/{number:03}.jsonl", f"{number} {'word ' * (number % 17)}%04d\n", 20
        )
    found = [
        timeless(estimate(tmp_path / f"sample-{at}", raw, bytes_only, 60_000, seed=seed))
        for at, seed in enumerate((1, 1, 2))
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0].tokens.low < found[0].tokens.value < found[0].tokens.high


SIZES = st.lists(st.integers(min_value=0, max_value=10**10), min_size=1, max_size=200)


@given(
    sizes=SIZES,
    sample_bytes=st.integers(min_value=1, max_value=10**9),
    seed=st.integers(min_value=0, max_value=9),
)
def test_what_is_drawn_stands_for_the_whole_listing(
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
    drawn = select_partitions(partitions, sample_bytes, seed)
    assert drawn == select_partitions(partitions, sample_bytes, seed)
    assert sum(one.represented_bytes for one in drawn) == pytest.approx(sum(sizes), abs=1)
    files = [one.partition.file for one in drawn]
    assert len(set(files)) == len(files)
    assert all(one.partition.replace(first_bytes=None) in partitions for one in drawn)
    to_read = sum(one.partition.max_bytes or 0 for one in drawn)
    assert min(sample_bytes, sum(sizes)) <= to_read <= sample_bytes + max(FEW_FILES, len(drawn))


# -- what stops it -----------------------------------------------------------------------------------------------------


def test_a_sample_of_which_nothing_is_kept_is_an_error(bytes_only: Path, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw/a.jsonl", [record("z" * 2000), record("y" * 2000), record("")])
    with pytest.raises(
        DataError,
        match=r"none of 3 documents in the sample of mono is kept \(mean line length 2, empty 1\)",
    ):
        estimate(tmp_path / "sample", raw, bytes_only, EVERYTHING)
    with pytest.raises(DataError, match="none of 0 documents in the sample of nl is kept"):
        estimate(tmp_path / "sample-2", raw, bytes_only, EVERYTHING, "nl")


def test_empty_files_are_an_error_and_not_a_division(bytes_only: Path, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw/a.jsonl", [])
    write(tmp_path / "raw/b.jsonl.gz", [])
    with pytest.raises(DataError, match="none of 0 documents"):
        estimate(tmp_path / "sample", raw, bytes_only, EVERYTHING)


def test_an_empty_file_beside_others_is_no_matter(bytes_only: Path, tmp_path: Path) -> None:
    raw = uniform(tmp_path / "raw/a.jsonl", "%04d\n", 10)
    write(tmp_path / "raw/b.jsonl.gz", [])
    write(tmp_path / "raw/c.jsonl", [])
    found = estimate(tmp_path / "sample", raw, bytes_only, EVERYTHING)
    assert (found.num_files, found.is_whole, found.documents.value) == (3, True, 10)


def test_a_damaged_file_is_named(bytes_only: Path, tmp_path: Path) -> None:
    raw = write(
        tmp_path / "raw/a.jsonl.zst", [record(f"{number:04}\n" * 9) for number in range(999)]
    )
    content = (raw / "a.jsonl.zst").read_bytes()
    (raw / "a.jsonl.zst").write_bytes(content[: len(content) // 2])
    with pytest.raises(RecordError, match=r"a\.jsonl\.zst is damaged or truncated"):
        estimate(tmp_path / "sample", raw, bytes_only, EVERYTHING)
