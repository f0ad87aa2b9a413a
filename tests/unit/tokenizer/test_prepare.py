"""Preparation against a slow reference: json, hashlib and transformers, one document at a time, and equal bytes."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fixtures.prepare_helpers import (
    CONTEXT_LENGTH,
    DATA,
    SEED,
    SMALL,
    prepare,
    raw_records,
    recipe_of,
    record,
    write_raw,
)
from fixtures.prepare_reference import is_held_out, prepared
from transformers import PreTrainedTokenizerBase

from components.core.artifact import content_digest
from components.core.errors import ConfigError, DataError, RecordError
from components.core.files import read_json, read_jsonl
from components.core.fingerprint import list_files
from components.data.config import (
    Corpus,
    DataConfig,
    DataExecution,
    NearDuplicateConfig,
    RedactionConfig,
)
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import QuarantineConfig
from components.dataset.reader import PackedSplit
from components.preparation.input_checks import check_bad_records_of_reused_corpus
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder
from components.tokenizer.vocabulary import build_tokenizer


@pytest.mark.parametrize("corpus", ["nl", "multi", "mono"])
def test_equals_the_reference(
    corpus: Corpus, small_folder: Path, small_transformers: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    raw, folder = write_raw(tmp_path / "raw", [raw_records(corpus)]), tmp_path / "out"
    statistics = prepare(folder, raw, corpus, small_folder)
    shards, kept, rejected = prepared(raw_records(corpus), recipe_of(corpus, small_transformers))
    index = read_json(folder / "index.json")
    assert {name: index[name] for name in ("corpus", "context_length", "eot_id", "num_ids")} == {
        "corpus": corpus,
        "context_length": CONTEXT_LENGTH,
        "eot_id": 856,
        "num_ids": 895,
    }
    assert index["splits"].keys() == shards.keys()
    for split, expected in shards.items():
        (shard,) = index["splits"][split]["shards"]
        assert (folder / shard["path"]).read_bytes() == expected
        assert (
            index["splits"][split]["num_sequences"]
            == shard["num_sequences"]
            == len(PackedSplit(folder, split))
        )
    documents, rejects = (
        pq.read_table(folder / "documents.parquet"),
        pq.read_table(folder / "rejects.parquet"),
    )
    assert documents.to_pylist() == [
        {name: row[name] for name in documents.column_names} for row in kept
    ]
    assert rejects.to_pylist() == [
        {name: row[name] for name in rejects.column_names} for row in rejected
    ]
    assert {row["reason"] for row in rejected} == {
        "empty",
        "mean line length",
        "digits",
        "duplicate",
    }
    num_copies = sum(row["reason"] == "duplicate" for row in rejected)
    assert statistics["proved_documents"] == len(kept) + num_copies, (
        "so little text is compared as a whole"
    )


def test_statistics_are_counted_by_hand(ranks: Path, tmp_path: Path) -> None:
    """Without merges a document has as many tokens as bytes, and one for the separator: 6 for each of these."""
    bytes_only = TokenizerConfig(num_merges=0)
    (tmp_path / "tokenizer").mkdir()
    build_tokenizer(ranks, bytes_only, tmp_path / "tokenizer")
    records = [
        record(f"v{number:03}\n", "Python", f"{number:03}", "demo 1") for number in range(100)
    ]
    records += [
        record("v000\n", "Python", "copy", "demo 1"),
        record("", "Python", "none", "demo 1"),
    ]
    records += [record("z" * 200, "Python", "long", "demo 1")]
    raw, folder = write_raw(tmp_path / "raw", [records]), tmp_path / "out"
    statistics = prepare(
        folder, raw, "mono", tmp_path / "tokenizer", tokenizer=bytes_only, context_length=7
    )
    num_out = sum(is_held_out(f"v{number:03}\n", 0.25, SEED) for number in range(100))
    assert 10 < num_out < 40
    assert statistics["languages"] == {
        "Python": {
            "raw_documents": 103,
            "raw_bytes": 101 * 5 + 200,
            "rejected": {"empty": 1, "mean line length": 1},
            "duplicates": 1,
            "duplicate_bytes": 5,
            "documents": 100,
            "bytes": 500,
            "train_tokens": 6 * (100 - num_out),
            "held_out_documents": num_out,
            "held_out_tokens": 6 * num_out,
        }
    }
    assert statistics["splits"] == {
        "train": {
            "num_sequences": 6 * (100 - num_out) // 7,
            "dropped_tokens": 6 * (100 - num_out) % 7,
        },
        "held-out/Python": {"num_sequences": 6 * num_out // 7, "dropped_tokens": 6 * num_out % 7},
    }


def test_the_same_bytes_again_whatever_the_files_the_workers_and_the_memory(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = raw_records("multi")
    one = write_raw(tmp_path / "raw-one", [records])
    seven = write_raw(tmp_path / "raw-seven", [records[number::7][::-1] for number in range(7)])
    results = [
        prepare(tmp_path / "out-one", one, "multi", small_folder),
        prepare(tmp_path / "out-again", one, "multi", small_folder),
        prepare(tmp_path / "out-seven", seven, "multi", small_folder),
    ]
    monkeypatch.setattr(
        "components.preparation.corpus_pipeline._SHARE_OF_MEMORY", 1e-5
    )  # runs and ranges of a few documents each
    results.append(prepare(tmp_path / "out-little", seven, "multi", small_folder))
    monkeypatch.setattr(
        "components.preparation.corpus_pipeline._SINGLE_PROCESS_MAX_BYTES", 0
    )  # so that two processes are worth it
    results.append(
        prepare(
            tmp_path / "out-two", seven, "multi", small_folder, place=DataExecution(num_workers=2)
        )
    )
    assert all(result == results[0] for result in results)
    digests = {content_digest(list_files(folder)) for folder in tmp_path.glob("out-*")}
    assert len(digests) == 1


def test_of_copies_that_only_their_language_tells_apart_one_is_kept_whatever_the_files(
    small_folder: Path, tmp_path: Path
) -> None:
    """A header that two sources call C and C++, both without a path: its prefix must not hang on which was read first."""
    copies = [record("int shared(void);\n", language, "", "") for language in ("C++", "C")]
    for name, parts in (
        ("one", [copies]),
        ("two", [copies[:1], copies[1:]]),
        ("back", [copies[1:], copies[:1]]),
    ):
        raw = write_raw(tmp_path / f"raw-{name}", [raw_records("multi"), *parts])
        prepare(tmp_path / f"out-{name}", raw, "multi", small_folder)
        (kept,) = (
            one
            for one in pq.read_table(tmp_path / f"out-{name}" / "documents.parquet").to_pylist()
            if not one["path"]
        )
        assert kept["language"] == "C"
    assert len({content_digest(list_files(folder)) for folder in tmp_path.glob("out-*")}) == 1


def test_a_separator_written_in_a_document_does_not_end_it(
    small_folder: Path, tmp_path: Path
) -> None:
    records = [
        record(f"x = '<|endoftext|>'  # {number}\n", "Python", str(number), "demo 1")
        for number in range(60)
    ]
    folder = tmp_path / "out"
    prepare(folder, write_raw(tmp_path / "raw", [records]), "mono", small_folder, context_length=1)
    read = [PackedSplit(folder, split) for split in ("train", "held-out/Python")]
    assert sum(int((split.batch(range(len(split))) == SMALL.eot_id).sum()) for split in read) == 60


# -- what stops it -------------------------------------------------------------------------------------------------------


def test_an_empty_corpus_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no English document to learn from"):
        prepare(tmp_path / "out", write_raw(tmp_path / "raw", [[], []]), "nl", small_folder)


def test_a_corpus_of_rejects_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(
        tmp_path / "raw",
        [[record("z" * 2000, "English", str(number), "demo 1") for number in range(3)]],
    )
    with pytest.raises(DataError, match=r"no English document to learn from \(3 were rejected\)"):
        prepare(tmp_path / "out", raw, "nl", small_folder)


def test_a_language_without_documents_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    records = [one for one in raw_records("multi") if one["language"] != "Go"]
    with pytest.raises(DataError, match="no Go document to learn from"):
        prepare(tmp_path / "out", write_raw(tmp_path / "raw", [records]), "multi", small_folder)


def test_a_split_without_a_sequence_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("nl")])
    with pytest.raises(
        DataError, match="held-out/English of the nl corpus has too little text"
    ) as error:
        prepare(tmp_path / "out", raw, "nl", small_folder, data=DataConfig(held_out_fraction=1e-9))
    assert "held_out_fraction" in error.value.fix
    with pytest.raises(DataError, match="train of the nl corpus has too little text"):
        prepare(tmp_path / "out-2", raw, "nl", small_folder, context_length=1_000_000)


def test_another_tokenizer_than_the_recipes_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("nl")])
    with pytest.raises(ConfigError, match="has 895 ids and ends texts with 856") as error:
        prepare(
            tmp_path / "out", raw, "nl", small_folder, tokenizer=TokenizerConfig(num_merges=700)
        )
    assert error.value.expected == "995 ids and 956, for 700 merges"


def test_bad_records_beyond_what_is_tolerated_stop_it_and_are_named(
    small_folder: Path, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("nl")])
    offset = (raw / "part-0.jsonl").stat().st_size
    with (raw / "part-0.jsonl").open("ab") as file:
        file.write(b'{"text": "no more\n')
    with pytest.raises(
        RecordError, match=rf"1 of 21 records are bad\n.*part-0\.jsonl, {offset}: not JSON"
    ):
        prepare(tmp_path / "out", raw, "nl", small_folder)
    tolerant = DATA.replace(quarantine=QuarantineConfig(max_bad_fraction=0.05))
    statistics = prepare(tmp_path / "out-2", raw, "nl", small_folder, data=tolerant)
    check_bad_records_of_reused_corpus(statistics, tolerant.quarantine)
    with pytest.raises(RecordError, match=r"1 of 21 records are bad\n  expected: at most 4"):
        check_bad_records_of_reused_corpus(statistics, QuarantineConfig(max_bad_fraction=0.04))
    assert statistics["bad"] == {"not JSON": 1}, (
        "counted without the details, which are of one record each"
    )
    (line,) = read_jsonl(tmp_path / "out-2" / "quarantine.jsonl")
    assert (line["offset"], line["excerpt"]) == (offset, '{"text": "no more')
    assert statistics["languages"]["English"]["raw_documents"] == 20


# -- what is left out ----------------------------------------------------------------------------------------------------


def test_what_holds_a_benchmark_is_left_out_and_listed(small_folder: Path, tmp_path: Path) -> None:
    problem = "def unusual(numbers): return the seventh prime after the largest of all the given numbers or none"
    records = raw_records("mono")
    leaking = record(f"# mine\n{problem.upper()}\nx = 1\n", "Python", "leak", "demo 1.0")
    raw = write_raw(tmp_path / "raw", [records, [leaking, {**leaking, "path": "copy"}]])
    other = BenchmarkText(benchmark="unseen", problem="1", text=problem.replace("prime", "square"))
    benchmarks = [BenchmarkText(benchmark="mine", problem="7", text=problem), other]
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder, benchmarks=benchmarks)
    clean = prepare(
        tmp_path / "clean", write_raw(tmp_path / "without", [records]), "mono", small_folder
    )
    assert statistics["contaminated"] == {"mine": 1, "unseen": 0}, "two copies are one document"
    assert clean["contaminated"] == {}, "nobody looked, which is no zero"
    assert statistics["languages"]["Python"]["rejected"]["contaminated"] == 2
    assert statistics["splits"] == clean["splits"]
    found = [
        (one["path"], one["benchmark"], one["problem"])
        for one in read_jsonl(tmp_path / "out" / "contamination.jsonl")
    ]
    assert sorted(found) == [("copy", "mine", "7"), ("leak", "mine", "7")]


def test_what_is_redacted_is_counted_and_no_token_of_it_is_packed(
    small: Encoder, small_folder: Path, tmp_path: Path
) -> None:
    """In a document that is kept; nobody looks into one that the filters reject."""
    found = record("# jane@corp.net, 8.8.8.8, sam@corp.net\nx = 1\n", "Python", "found", "demo 1.0")
    rejected = record("# jane@corp.net " + "x" * 1001, "Python", "wide", "demo 1.0")
    others = [
        one for one in raw_records("mono") if one["source"] != "stdlib 3"
    ]  # Their authors gave addresses.
    raw = write_raw(tmp_path / "raw", [[found, rejected, *others]])
    data = DATA.replace(redaction=RedactionConfig(enabled=True, kinds=("email", "ip_address")))
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder, data=data, context_length=1)
    assert statistics["redacted"] == {"email": 2, "ip_address": 1}
    splits = [PackedSplit(tmp_path / "out", split) for split in ("train", "held-out/Python")]
    text = "".join(small.decode(one.batch(range(len(one))).ravel().tolist()) for one in splits)
    assert "# <EMAIL>, <IP_ADDRESS>, <EMAIL>\nx = 1\n<|endoftext|>" in text
    assert "jane" not in text


def test_documents_of_an_earlier_corpus_are_left_out_where_the_recipe_says_so(
    small_folder: Path, tmp_path: Path
) -> None:
    records = raw_records("mono")
    (tmp_path / "raw-multi").mkdir()
    multi = write_raw(tmp_path / "raw-multi" / "all", [raw_records("multi")])
    prepare(tmp_path / "multi", multi, "multi", small_folder)
    own = [
        record(f"only = {number}\n" * 9, "Python", f"own/{number}", "demo 2")
        for number in range(30)
    ]
    nameless = [record(records[number]["text"], "Python", "", "") for number in range(3)]
    raw = write_raw(tmp_path / "raw", [nameless + records + own])
    across = DATA.replace(dedup_across_corpora=True)
    prepare(tmp_path / "out", raw, "mono", small_folder, data=across, others=[tmp_path / "multi"])
    kept = set(pq.read_table(tmp_path / "out" / "documents.parquet")["sha256"].to_pylist())
    earlier = set(pq.read_table(tmp_path / "multi" / "documents.parquet")["sha256"].to_pylist())
    alone = tmp_path / "alone"
    prepare(alone, raw, "mono", small_folder)
    expected = set(pq.read_table(alone / "documents.parquet")["sha256"].to_pylist()) - earlier
    assert kept == expected
    assert len(expected) >= 30


def test_near_copies_are_left_out_where_the_recipe_says_so(
    small_folder: Path, tmp_path: Path
) -> None:
    records = raw_records("mono")
    lines = inspect.getsource(json.encoder).splitlines(keepends=True)
    near = [
        record("".join([*lines, f"# version {number}\n"]), "Python", f"near/{number}", "demo 3")
        for number in range(5)
    ]
    raw = write_raw(tmp_path / "raw", [records, near])
    data = DATA.replace(near_duplicates=NearDuplicateConfig(enabled=True))
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder, data=data)
    assert statistics["languages"]["Python"]["rejected"]["near duplicate"] >= 4
    kept = pq.read_table(tmp_path / "out" / "documents.parquet")["path"].to_pylist()
    assert sum(path.startswith("near/") for path in kept) == 1
