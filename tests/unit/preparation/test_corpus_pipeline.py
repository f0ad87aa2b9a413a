"""Preparation equals a slow reference implementation; rejects, statistics and errors."""

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
from fixtures.prepare_reference import is_held_out, prepare_reference
from transformers import PreTrainedTokenizerBase

from components.core.artifact import content_digest
from components.core.corpus_statistics import read_corpus_steps
from components.core.errors import ConfigError, DataError, RecordError
from components.core.files import read_json, read_jsonl
from components.core.fingerprint import list_files
from components.data.config import (
    DataConfig,
    DataExecution,
    FilterConfig,
    NearDuplicateConfig,
    RedactionConfig,
)
from components.data.filters.decontamination import BenchmarkText
from components.data.sources.config import QuarantineConfig
from components.dataset.reader import PackedSplit
from components.preparation import prepare_job
from components.preparation.input_checks import check_quarantine_of_reused_corpus
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder
from components.tokenizer.vocabulary import build_tokenizer


@pytest.mark.parametrize("corpus", ["nl", "multi", "mono"])
def test_the_output_equals_the_reference(
    corpus: str, small_folder: Path, small_transformers: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records(corpus)])
    folder = tmp_path / "out"
    statistics = prepare(folder, raw, corpus, small_folder)
    recipe = recipe_of(corpus, small_transformers)
    expected = prepare_reference(raw_records(corpus), recipe)
    index = read_json(folder / "index.json")
    assert {name: index[name] for name in ("corpus", "context_length", "eot_id", "num_ids")} == {
        "corpus": corpus,
        "context_length": CONTEXT_LENGTH,
        "eot_id": 856,
        "num_ids": 895,
    }
    assert index["splits"].keys() == expected.shards.keys()
    for name, content in expected.shards.items():
        split = index["splits"][name]
        (shard,) = split["shards"]
        assert (folder / shard["path"]).read_bytes() == content
        assert split["num_sequences"] == shard["num_sequences"] == len(PackedSplit(folder, name))
    for name, rows in (("documents", expected.documents), ("rejects", expected.rejects)):
        table = pq.read_table(folder / f"{name}.parquet")
        columns = table.column_names
        assert table.to_pylist() == [{column: row[column] for column in columns} for row in rows]
    reasons = [row["reason"] for row in expected.rejects]
    code_reasons = {"mean line length", "digits"} if corpus != "nl" else set()
    assert set(reasons) == {"empty", "duplicate", *code_reasons}
    num_encoded = len(expected.documents) + reasons.count("duplicate")
    assert statistics["verified_documents"] == num_encoded, "a small corpus is verified completely"


def test_statistics_equal_counts_by_hand(ranks: Path, tmp_path: Path) -> None:
    """Without merges a document has one token per byte and the separator: 6 for each of these."""
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
    raw = write_raw(tmp_path / "raw", [records])
    folder = tmp_path / "out"
    statistics = prepare(
        folder, raw, "mono", tmp_path / "tokenizer", tokenizer=bytes_only, context_length=7
    )
    num_held_out = sum(is_held_out(f"v{number:03}\n", 0.25, SEED) for number in range(100))
    assert 10 < num_held_out < 40
    languages = {
        "Python": {
            "raw_documents": 103,
            "raw_bytes": 101 * 5 + 200,
            "rejected": {"empty": 1, "mean line length": 1},
            "rejected_bytes": {"empty": 0, "mean line length": 200},
            "rejected_tokens": {},
            "duplicates": 1,
            "duplicate_bytes": 5,
            "duplicate_tokens": 6,
            "documents": 100,
            "bytes": 500,
            "tokens": 600,
            "train_documents": 100 - num_held_out,
            "train_bytes": 5 * (100 - num_held_out),
            "train_tokens": 6 * (100 - num_held_out),
            "held_out_documents": num_held_out,
            "held_out_tokens": 6 * num_held_out,
        }
    }
    assert statistics["languages"] == languages
    (steps,) = read_corpus_steps(statistics)
    assert (steps.source, steps.language) == (None, "Python"), "all of a single source"
    counts = {row.step: (row.num_documents, row.num_bytes, row.num_tokens) for row in steps.steps}
    assert counts["raw"] == (103, 705, None)
    assert counts["filtered"] == (101, 505, 606)
    assert counts["deduplicated"] == (100, 500, 600)
    assert statistics["licenses"] == [{"license": "MIT", "documents": 100, "tokens": 600}]
    assert statistics["splits"] == {
        "train": {
            "num_sequences": 6 * (100 - num_held_out) // 7,
            "dropped_tokens": 6 * (100 - num_held_out) % 7,
        },
        "held-out/Python": {
            "num_sequences": 6 * num_held_out // 7,
            "dropped_tokens": 6 * num_held_out % 7,
        },
    }


def test_files_workers_and_memory_do_not_change_the_bytes(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = raw_records("multi")
    one_file = write_raw(tmp_path / "raw-one", [records])
    parts = [records[number::7][::-1] for number in range(7)]
    seven_files = write_raw(tmp_path / "raw-seven", parts)
    results = [
        prepare(tmp_path / "out-one", one_file, "multi", small_folder),
        prepare(tmp_path / "out-again", one_file, "multi", small_folder),
        prepare(tmp_path / "out-seven", seven_files, "multi", small_folder),
    ]
    # Runs and ranges of a few documents each.
    monkeypatch.setattr(prepare_job, "_TASK_MEMORY_SHARE", 1e-5)
    results.append(prepare(tmp_path / "out-little", seven_files, "multi", small_folder))
    # Several processes even for a small corpus.
    monkeypatch.setattr(prepare_job, "_SINGLE_PROCESS_MAX_BYTES", 0)
    two_workers = DataExecution(num_workers=2)
    results.append(
        prepare(tmp_path / "out-two", seven_files, "multi", small_folder, execution=two_workers)
    )
    assert all(result == results[0] for result in results)
    digests = {content_digest(list_files(folder)) for folder in tmp_path.glob("out-*")}
    assert len(digests) == 1


def test_the_accepted_copy_does_not_depend_on_files_if_only_the_language_differs(
    small_folder: Path, tmp_path: Path
) -> None:
    """A header labeled C and C++, without a path: its prefix must not depend on the files."""
    copies = [record("int shared(void);\n", language, "", "") for language in ("C++", "C")]
    for name, parts in (
        ("one", [copies]),
        ("two", [copies[:1], copies[1:]]),
        ("back", [copies[1:], copies[:1]]),
    ):
        raw = write_raw(tmp_path / f"raw-{name}", [raw_records("multi"), *parts])
        prepare(tmp_path / f"out-{name}", raw, "multi", small_folder)
        rows = pq.read_table(tmp_path / f"out-{name}" / "documents.parquet").to_pylist()
        assert [row["language"] for row in rows if not row["path"]] == ["C"]
    assert len({content_digest(list_files(folder)) for folder in tmp_path.glob("out-*")}) == 1


def test_a_separator_inside_a_document_does_not_end_it(small_folder: Path, tmp_path: Path) -> None:
    records = [
        record(f"x = '<|endoftext|>'  # {number}\n", "Python", str(number), "demo 1")
        for number in range(60)
    ]
    folder = tmp_path / "out"
    prepare(folder, write_raw(tmp_path / "raw", [records]), "mono", small_folder, context_length=1)
    num_separators = 0
    for name in ("train", "held-out/Python"):
        split = PackedSplit(folder, name)
        num_separators += int((split.batch(range(len(split))) == SMALL.eot_id).sum())
    assert num_separators == 60


# -- errors --------------------------------------------------------------------------------------


def test_an_empty_corpus_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the sources of nl hold no usable record"):
        prepare(tmp_path / "out", write_raw(tmp_path / "raw", [[], []]), "nl", small_folder)


def test_a_corpus_without_accepted_documents_is_an_error(
    small_folder: Path, tmp_path: Path
) -> None:
    records = [record("", "English", str(number), "demo 1") for number in range(3)]
    raw = write_raw(tmp_path / "raw", [records])
    with pytest.raises(DataError, match=r"no accepted English document \(3 were rejected; "):
        prepare(tmp_path / "out", raw, "nl", small_folder)


def test_a_language_without_documents_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    records = [row for row in raw_records("multi") if row["language"] != "Go"]
    with pytest.raises(DataError, match="no accepted Go document"):
        prepare(tmp_path / "out", write_raw(tmp_path / "raw", [records]), "multi", small_folder)


def test_a_split_without_a_sequence_is_an_error(small_folder: Path, tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("nl")])
    with pytest.raises(
        DataError, match="held-out/English of the nl corpus has too few tokens"
    ) as error:
        prepare(tmp_path / "out", raw, "nl", small_folder, data=DataConfig(held_out_fraction=1e-9))
    assert "held_out_fraction" in error.value.fix
    with pytest.raises(DataError, match="train of the nl corpus has too few tokens"):
        prepare(tmp_path / "out-2", raw, "nl", small_folder, context_length=1_000_000)


def test_a_tokenizer_that_differs_from_the_recipe_is_an_error(
    small_folder: Path, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("nl")])
    with pytest.raises(ConfigError, match="with 895 ids and separator 856") as error:
        prepare(
            tmp_path / "out", raw, "nl", small_folder, tokenizer=TokenizerConfig(num_merges=700)
        )
    assert error.value.expected == "995 ids and separator 956 (700 merges)"


def test_too_many_bad_records_are_an_error_that_names_them(
    small_folder: Path, tmp_path: Path
) -> None:
    raw = write_raw(tmp_path / "raw", [raw_records("nl")])
    offset = (raw / "part-0.jsonl").stat().st_size
    with (raw / "part-0.jsonl").open("ab") as file:
        file.write(b'{"text": "no more\n')
    with pytest.raises(RecordError, match="1 of 21") as error:
        prepare(tmp_path / "out", raw, "nl", small_folder)
    assert f"part-0.jsonl, {offset}: not JSON" in error.value.got
    tolerant = DATA.replace(quarantine=QuarantineConfig(max_quarantined_fraction=0.05))
    statistics = prepare(tmp_path / "out-2", raw, "nl", small_folder, data=tolerant)
    check_quarantine_of_reused_corpus(statistics, tolerant.quarantine)
    with pytest.raises(RecordError, match="1 of 21") as error:
        check_quarantine_of_reused_corpus(
            statistics, QuarantineConfig(max_quarantined_fraction=0.04)
        )
    assert "4" in error.value.expected
    assert statistics["quarantined"] == {"not JSON": 1}, "counted by kind, without details"
    (line,) = read_jsonl(tmp_path / "out-2" / "quarantine.jsonl")
    assert (line["offset"], line["excerpt"]) == (offset, '{"text": "no more')
    assert statistics["languages"]["English"]["raw_documents"] == 20


# -- rejected documents --------------------------------------------------------------------------


def test_documents_that_contain_a_benchmark_are_rejected_and_listed(
    small_folder: Path, tmp_path: Path
) -> None:
    problem = (
        "def unusual(numbers): "
        "return the seventh prime after the largest of all the given numbers or none"
    )
    records = raw_records("mono")
    leaking = record(f"# mine\n{problem.upper()}\nx = 1\n", "Python", "leak", "demo 1.0")
    raw = write_raw(tmp_path / "raw", [records, [leaking, {**leaking, "path": "copy"}]])
    absent = BenchmarkText(benchmark="unseen", problem="1", text=problem.replace("prime", "square"))
    benchmarks = [BenchmarkText(benchmark="mine", problem="7", text=problem), absent]
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder, benchmarks=benchmarks)
    clean = prepare(
        tmp_path / "clean", write_raw(tmp_path / "without", [records]), "mono", small_folder
    )
    assert statistics["contaminated"] == {"mine": 1, "unseen": 0}, "two copies are one document"
    assert clean["contaminated"] == {}, "not searched, so not 0"
    assert statistics["languages"]["Python"]["rejected"]["contaminated"] == 2
    assert statistics["splits"] == clean["splits"]
    matches = [
        (match["path"], match["benchmark"], match["problem"])
        for match in read_jsonl(tmp_path / "out" / "contamination.jsonl")
    ]
    assert sorted(matches) == [("copy", "mine", "7"), ("leak", "mine", "7")]


def test_redacted_text_is_counted_and_not_packed(
    small: Encoder, small_folder: Path, tmp_path: Path
) -> None:
    """In accepted documents only."""
    accepted = record(
        "# jane@corp.net, 8.8.8.8, sam@corp.net\nx = 1\n", "Python", "accepted", "demo 1.0"
    )
    rejected = record("# jane@corp.net " + "x" * 1001, "Python", "wide", "demo 1.0")
    # Modules of the standard library contain e-mail addresses.
    clean = [row for row in raw_records("mono") if row["source"] != "stdlib 3"]
    raw = write_raw(tmp_path / "raw", [[accepted, rejected, *clean]])
    rules = RedactionConfig(enabled=True, kinds=("email", "ip_address"))
    data = DATA.replace_corpus("mono", redaction=rules)
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder, data=data, context_length=1)
    assert statistics["redacted"] == {"email": 2, "ip_address": 1}
    splits = [PackedSplit(tmp_path / "out", split) for split in ("train", "held-out/Python")]
    text = "".join(
        small.decode(split.batch(range(len(split))).ravel().tolist()) for split in splits
    )
    assert "# <EMAIL>, <IP_ADDRESS>, <EMAIL>\nx = 1\n<|endoftext|>" in text
    assert "jane" not in text


def test_documents_of_an_earlier_corpus_are_rejected_if_enabled(
    small_folder: Path, tmp_path: Path
) -> None:
    records = raw_records("mono")
    (tmp_path / "raw-multi").mkdir()
    multi = write_raw(tmp_path / "raw-multi" / "all", [raw_records("multi")])
    multi_out = tmp_path / "multi"
    prepare(multi_out, multi, "multi", small_folder)
    unique = [
        record(f"only = {number}\n" * 9, "Python", f"unique/{number}", "demo 2")
        for number in range(30)
    ]
    nameless = [record(records[number]["text"], "Python", "", "") for number in range(3)]
    raw = write_raw(tmp_path / "raw", [nameless + records + unique])
    across = DATA.replace(dedup_across_corpora=True)
    prepare(tmp_path / "out", raw, "mono", small_folder, data=across, other_corpora=[multi_out])
    prepare(tmp_path / "independent", raw, "mono", small_folder)
    expected = accepted_digests(tmp_path / "independent") - accepted_digests(multi_out)
    assert accepted_digests(tmp_path / "out") == expected
    assert len(expected) >= 30


def accepted_digests(corpus: Path) -> set[str]:
    return set(pq.read_table(corpus / "documents.parquet")["sha256"].to_pylist())


def test_near_duplicates_are_rejected_if_enabled(small_folder: Path, tmp_path: Path) -> None:
    records = raw_records("mono")
    lines = inspect.getsource(json.encoder).splitlines(keepends=True)
    near = [
        record("".join([*lines, f"# version {number}\n"]), "Python", f"near/{number}", "demo 3")
        for number in range(5)
    ]
    raw = write_raw(tmp_path / "raw", [records, near])
    data = DATA.replace_corpus("mono", near_duplicates=NearDuplicateConfig(enabled=True))
    statistics = prepare(tmp_path / "out", raw, "mono", small_folder, data=data)
    assert statistics["languages"]["Python"]["rejected"]["near duplicate"] >= 4
    paths = pq.read_table(tmp_path / "out" / "documents.parquet")["path"].to_pylist()
    assert sum(path.startswith("near/") for path in paths) == 1


def test_prose_with_a_line_per_paragraph_is_kept_in_nl_and_rejected_by_rules_for_code(
    small_folder: Path, tmp_path: Path
) -> None:
    """As in the Pile."""
    unwrapped = [
        {**row, "text": " ".join(row["text"].split()) + "\n", "path": f"unwrapped/{number}"}
        for number, row in enumerate(raw_records("nl")[:12])
    ]
    assert all(len(row["text"]) > 100 for row in unwrapped)
    raw = write_raw(tmp_path / "raw", [raw_records("nl"), unwrapped])
    languages = prepare(tmp_path / "nl", raw, "nl", small_folder)["languages"]
    assert languages["English"]["rejected"] == {"empty": 1}
    rules = DATA.replace_corpus("nl", filters=FilterConfig())
    filtered = prepare(tmp_path / "filtered", raw, "nl", small_folder, data=rules)["languages"]
    assert filtered["English"]["rejected"]["mean line length"] >= 12
