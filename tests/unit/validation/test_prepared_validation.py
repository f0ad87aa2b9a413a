"""Every rule for prepared corpora holds for valid data and is broken by invalid data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_files_on_disk import CONTEXT_LENGTH, EOT_ID, SMALL, Prepared

from components.core.errors import ValidationFailedError
from components.data.config import DataConfig, MaxDroppedShare
from components.validation.prepared import read_metrics, validate_prepared
from components.validation.shard_checks import SeparatorCheck, ShardEntry, ShardIndex, SplitEntry

IndexJson = dict[str, Any]


def english() -> Prepared:
    return Prepared("nl", ("English",))


def validate(folder: Path, **prepared: Path) -> dict[str, Any]:
    return validate_prepared(
        folder / "artifact",
        prepared=prepared,
        config=SMALL,
        data=DataConfig(),
        gx_root=folder / "gx",
    )


def read_results(folder: Path) -> list[dict[str, Any]]:
    return read_results_of(folder / "artifact")


def read_results_of(artifact: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads((artifact / "results.json").read_text())
    return results


def validation_error(folder: Path, **prepared: Path) -> ValidationFailedError:
    with pytest.raises(ValidationFailedError) as error:
        validate(folder, **prepared)
    return error.value


def test_valid_corpora_pass_and_are_counted(tmp_path: Path) -> None:
    mono = Prepared("mono", ("Python",))
    statistics = validate(
        tmp_path, nl=english().write(tmp_path / "nl"), mono=mono.write(tmp_path / "mono")
    )
    # 6 documents of 6, 7, 8, 6, 7 and 8 ids have 42 ids, 5 sequences of 8; 7 and 8 ids have 1.
    assert statistics["corpora"] == {
        "nl": {
            "train": {"documents": 6, "sequences": 5},
            "held-out/English": {"documents": 2, "sequences": 1},
        },
        "mono": {
            "train": {"documents": 6, "sequences": 5},
            "held-out/Python": {"documents": 2, "sequences": 1},
        },
    }
    results = read_results(tmp_path)
    assert (
        statistics["num_expectations"]
        == statistics["num_passed"]
        == sum(bool(result["success"]) for result in results)
    )
    evaluated = {result["suite"] for result in results if result["success"] is not None}
    assert evaluated == {
        "prepared-shards",
        "prepared-splits",
        "prepared-documents",
        "prepared-languages",
        "prepared-held-out",
    }


# -- shards


def test_ids_outside_the_vocabulary_are_reported(tmp_path: Path) -> None:
    corpus = english()
    corpus.splits["train"][2][1] = 300
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "nl: Every id is below 300, the size of the vocabulary: broken by 1 of 2 shards"
        in error.got
    )
    assert "such as train/00000.bin (max_id = 300)" in error.got


def test_truncated_missing_and_unlisted_shards_are_reported(tmp_path: Path) -> None:
    folders = {name: Prepared(name, ("Python",)).write(tmp_path / name) for name in ("nl", "mono")}
    for folder, cut in zip(folders.values(), (1, 2 * CONTEXT_LENGTH), strict=True):
        shard = folder / "train" / "00000.bin"
        shard.write_bytes(shard.read_bytes()[:-cut])
    (folders["nl"] / "held-out" / "Python" / "00000.bin").unlink()
    (folders["nl"] / "train" / "00001.bin").write_bytes(b"\1\0" * CONTEXT_LENGTH)
    validation_error(tmp_path, **folders)
    rule = "The size of every shard is its number of sequences x 8 ids x 2 bytes"
    results = {item["subject"]: item for item in read_results(tmp_path) if item["rule"] == rule}
    assert (results["nl"]["num_unexpected"], results["mono"]["num_unexpected"]) == (3, 1)
    assert results["nl"]["examples"] == [
        "train/00000.bin (size_bytes = 79, expected_bytes = 80)",
        "held-out/Python/00000.bin (size_bytes = -1, expected_bytes = 16)",
        "train/00001.bin (size_bytes = 16, expected_bytes = 0)",
    ]
    assert results["mono"]["examples"] == ["train/00000.bin (size_bytes = 64, expected_bytes = 80)"]


def test_documents_may_span_the_shards_of_a_split(tmp_path: Path) -> None:
    def split_shard(index: IndexJson) -> None:
        shard = tmp_path / "nl" / "train" / "00000.bin"
        first = 2 * CONTEXT_LENGTH * 2
        (tmp_path / "nl" / "train" / "00001.bin").write_bytes(shard.read_bytes()[first:])
        shard.write_bytes(shard.read_bytes()[:first])
        index["splits"]["train"]["shards"] = [
            {"path": "train/00000.bin", "num_sequences": 2},
            {"path": "train/00001.bin", "num_sequences": 3},
        ]

    validate(tmp_path, nl=english().write(tmp_path / "nl", split_shard))


def test_positions_are_correct_in_a_shard_larger_than_the_buffer(tmp_path: Path) -> None:
    num_ids = 9 * 2**20  # More than fit in the buffer.
    ids = np.zeros(num_ids, dtype="<u2")
    ids[[3, num_ids - 1]] = EOT_ID
    ids.tofile(tmp_path / "00000.bin")
    num_sequences = num_ids // CONTEXT_LENGTH
    split = SplitEntry(
        shards=(ShardEntry(path="00000.bin", num_sequences=num_sequences),),
        num_sequences=num_sequences,
    )
    index = ShardIndex(
        corpus="nl",
        context_length=CONTEXT_LENGTH,
        eot_id=EOT_ID,
        num_ids=300,
        splits={"train": split},
    )
    separators = SeparatorCheck(tmp_path, index, "train")
    separators.add_documents(np.array([4, 0]))
    separators.add_documents(np.array([num_ids - 4, 20]))
    separators.finish()
    assert separators.shard_contents == {"00000.bin": (2 * num_ids, EOT_ID)}
    assert (
        separators.num_separators,
        separators.num_document_ends,
        separators.num_misplaced_separators,
    ) == (2, 2, 0)


# -- splits


def test_a_language_without_a_held_out_split_is_reported(tmp_path: Path) -> None:
    corpus = Prepared("multi", ("C", "C++", "Go", "Java", "JavaScript"))
    error = validation_error(tmp_path, multi=corpus.write(tmp_path / "multi"))
    line = next(line for line in error.got.splitlines() if "The splits are" in line)
    languages = ("C", "C++", "Go", "Java", "JavaScript", "Python")
    splits = ", ".join(["train", *(f"held-out/{language}" for language in languages)])
    assert line.endswith(f"exactly {splits}: observed missing held-out/Python")


def test_a_split_without_documents_or_sequences_is_reported(tmp_path: Path) -> None:
    corpus = english()
    corpus.splits["held-out/English"] = []
    corpus.rows = [row for row in corpus.rows if row["split"] == "train"]
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "documents in every split is at least 1: broken by 1 of 2 splits, such as held-out/Eng"
        in error.got
    )
    assert (
        "sequences in every split is at least 1: broken by 1 of 2 splits, such as held-out/Eng"
        in error.got
    )


def test_an_inconsistent_index_is_reported(tmp_path: Path) -> None:
    def add_sequence(index: IndexJson) -> None:
        index["splits"]["train"]["num_sequences"] += 1

    error = validation_error(tmp_path, nl=english().write(tmp_path / "nl", add_sequence))
    assert (
        "sum over its shards: broken by 1 of 2 splits, such as train (num_sequences = 6, num_shard"
        in error.got
    )


def drop_separator(corpus: Prepared) -> None:
    corpus.splits["train"][1][-1] = 7


def insert_separator(corpus: Prepared) -> None:
    corpus.splits["train"][1][2] = EOT_ID


@pytest.mark.parametrize(("damage", "num_separators"), [(drop_separator, 4), (insert_separator, 6)])
def test_missing_and_additional_separators_are_counted(
    tmp_path: Path, damage: Callable[[Prepared], None], num_separators: int
) -> None:
    # The last of the six documents ends in the incomplete sequence.
    corpus = english()
    damage(corpus)
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "separators (id 256) is the number of document ends in the sequences: broken by 1 of 2 "
        in error.got
    )
    assert f"such as train (num_separators = {num_separators}, num_document_ends = 5)" in error.got
    assert (
        "document ends only: broken by 1 of 2 splits, such as train (num_misplaced_separators = 1)"
        in error.got
    )


def test_misplaced_separators_are_counted(tmp_path: Path) -> None:
    corpus = english()
    first, second = corpus.rows[0], corpus.rows[1]
    first["num_tokens"], second["num_tokens"] = second["num_tokens"], first["num_tokens"]
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert "1 of 24 rules" in error.got
    assert "such as train (num_misplaced_separators = 2)" in error.got


def test_separators_after_the_last_document_are_misplaced(tmp_path: Path) -> None:
    # The table lists 3 of 6 documents, 21 ids; the other 19 ids of 5 sequences have 2 separators.
    corpus = english()
    del corpus.rows[3:6]
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert "such as train (num_separators = 5, num_document_ends = 3)" in error.got
    assert "such as train (num_misplaced_separators = 2)" in error.got


def test_lost_tokens_are_counted(tmp_path: Path) -> None:
    folder = english().write(tmp_path / "nl")
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["train"] = {
        "shards": [{"path": "train/00000.bin", "num_sequences": 4}],
        "num_sequences": 4,
    }
    (folder / "index.json").write_text(json.dumps(index))
    ids = np.fromfile(folder / "train" / "00000.bin", dtype="<u2")
    ids[: 4 * CONTEXT_LENGTH].tofile(folder / "train" / "00000.bin")
    error = validation_error(tmp_path, nl=folder)
    assert (
        "fewer than 8 at the end: broken by 1 of 2 splits, such as train (num_dropped_tokens = 10)"
        in error.got
    )


# -- documents


def test_defects_of_documents_are_reported(tmp_path: Path) -> None:
    defects: list[tuple[dict[str, Any], str]] = [
        ({"sha256": None}, "Every document has a SHA-256"),
        ({"language": None}, "Every document has a language"),
        ({"split": None}, "Every document has a split"),
        ({"num_tokens": None}, "Every document has a number of tokens"),
        ({"sha256": "A" * 64}, "Every SHA-256 is 64 hexadecimal digits"),
        ({"language": "Klingon"}, "The language of every document is one of English"),
        ({"split": "dev"}, "Every document is in a split of the index"),
        ({"num_tokens": 0}, "Every document has at least one token"),
    ]
    corpus = english()
    for row, (values, _) in zip(corpus.rows, defects, strict=True):
        row.update(values)
    validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    results = {item["rule"]: item for item in read_results(tmp_path)}
    for row, (_, rule) in zip(corpus.rows, defects, strict=True):
        result = results[rule]
        assert (result["success"], result["num_unexpected"], result["num_rows"]) == (False, 1, 8)
        assert result["examples"][0].startswith(f"package 1.0/{row['path']}")


def test_duplicates_within_a_corpus_are_reported(tmp_path: Path) -> None:
    # The two documents are in different row groups of the table.
    corpus = english()
    corpus.rows[4]["sha256"] = corpus.rows[1]["sha256"]
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "nl: No two documents have the same content (SHA-256): broken by 2 of 8 documents"
        in error.got
    )
    assert "package 1.0/train/1.txt" in error.got
    assert "package 1.0/train/4.txt" in error.got


def test_a_held_out_document_in_the_training_split_of_another_corpus_is_reported(
    tmp_path: Path,
) -> None:
    nl = english()
    mono = Prepared("mono", ("Python",))
    mono.rows[2]["sha256"] = next(
        row["sha256"] for row in nl.rows if row["split"] == "held-out/English"
    )
    error = validation_error(
        tmp_path, nl=nl.write(tmp_path / "nl"), mono=mono.write(tmp_path / "mono")
    )
    assert "1 of 47 rules" in error.got
    assert "all corpora: No held-out document is in a training split of any corpus" in error.got
    assert (
        "broken by 1 of 4 held-out documents, such as nl/package 1.0/held-out/English/0.txt "
        "(in_train_of = 'mono')" in error.got
    )


def test_two_corpora_may_hold_out_the_same_document(tmp_path: Path) -> None:
    nl = english()
    mono = Prepared("mono", ("Python",))
    mono.rows[-1]["sha256"] = nl.rows[-1]["sha256"]
    validate(tmp_path, nl=nl.write(tmp_path / "nl"), mono=mono.write(tmp_path / "mono"))


# -- languages


def reject(number: int, reason: str, language: str = "English") -> dict[str, Any]:
    """A document of 2 bytes; the default limits allow 2 of them beside 8 kept documents of 20."""
    return {
        "sha256": f"{number:064}",
        "num_bytes": 2,
        "excerpt": None if reason == "duplicate" else f"{number:02}",
        "language": language,
        "source": "package 1.0",
        "path": f"rejected/{number}.txt",
        "reason": reason,
    }


def test_kept_and_rejected_documents_with_the_same_source_and_path_are_reported(
    tmp_path: Path,
) -> None:
    corpus = english()
    corpus.rejects = [{**reject(0, "digits"), "path": corpus.rows[2]["path"]}, reject(1, "digits")]
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    problem = "with another document is at most 0: broken by 2 of 10 documents"
    assert f"{problem}, such as package 1.0/train/2.txt; package 1.0/train/2.txt" in error.got
    assert "validation.corpora.nl.max_duplicate_path_fraction" in error.fix
    tolerant = SMALL.replace(max_duplicate_path_fraction=0.2)
    validate_prepared(
        tmp_path / "tolerant",
        prepared={"nl": tmp_path / "nl"},
        config=tolerant,
        data=DataConfig(),
        gx_root=tmp_path / "gx",
    )


@pytest.mark.parametrize("field", ["source", "path"])
def test_documents_without_source_or_path_are_not_compared(tmp_path: Path, field: str) -> None:
    # Documents of the Pile have no path; records of a JSON Lines file may have no source.
    corpus = english()
    for row in corpus.rows:
        row.update({"source": "Wikipedia", "path": "same.txt", field: ""})
    with_path = [{**reject(number, "digits"), "path": "twice.txt"} for number in range(2)]
    corpus.rejects = [{**reject(0, "digits"), field: ""}, {**reject(0, "digits"), field: ""}]
    validate(tmp_path, nl=corpus.write(tmp_path / "nl"))
    corpus.rejects += with_path
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "again"))
    assert (
        "broken by 2 of 12 documents, such as package 1.0/twice.txt; package 1.0/twice.txt"
        in error.got
    )


def test_rejected_and_duplicate_documents_are_counted(tmp_path: Path) -> None:
    corpus = english()
    corpus.rejects = [
        reject(number, "digits" if number < 80 else "duplicate") for number in range(92)
    ]
    corpus.rejects[0]["reason"] = None  # Still a rejected document.
    folder = corpus.write(tmp_path / "nl")
    validate_prepared(  # Of 100, 80 are rejected, 12 duplicates, 8 kept.
        tmp_path / "artifact",
        prepared={"nl": folder},
        config=SMALL,
        data=limits(filters=0.5),
        gx_root=tmp_path / "gx",
    )
    metrics = read_metrics(tmp_path / "artifact")
    assert metrics is not None
    assert metrics["nl"]["English"] == {
        "num_raw": 100,
        "num_kept": 8,
        "num_rejected": 80,
        "num_duplicates": 12,
        "rejected_fraction": 0.8,
        "duplicate_fraction": 0.12,
        "num_duplicate_paths": 0,
        "duplicate_path_fraction": 0.0,
        # 344 bytes: 160 kept, 158 by digits, 2 without a reason, 24 of duplicates.
        "num_raw_bytes": 344,
        "num_kept_bytes": 160,
        "filters_dropped_share": 158 / 344,
        "decontamination_dropped_share": 0.0,
        "exact_dedup_dropped_share": 24 / (344 - 158),
        "near_duplicates_dropped_share": 0.0,
    }


def limits(**values: float) -> DataConfig:
    return DataConfig().replace_corpus("nl", max_dropped_share=MaxDroppedShare(**values))


def test_a_step_that_rejects_too_much_text_is_reported_with_its_rules_and_examples(
    tmp_path: Path,
) -> None:
    corpus = english()  # 8 documents of 20 bytes.
    long_line = {**reject(0, "line length"), "num_bytes": 60, "excerpt": "\x1b[2J<b>\n" * 9}
    digits = [{**reject(number, "digits"), "num_bytes": 10} for number in range(1, 4)]
    digits[0] |= {"path": "", "source": "Pile-CC", "sha256": "0123456789ab" + "c" * 52}
    corpus.rejects = [
        *digits,
        long_line,
        {**reject(7, "contaminated"), "num_bytes": 10},
        {**reject(8, "not sampled"), "num_bytes": 500},
        {**reject(9, "duplicate"), "num_bytes": 40},
        {**reject(10, "near duplicate"), "num_bytes": 4, "excerpt": None},
    ]
    folder = corpus.write(tmp_path / "nl")

    def error(name: str, data: DataConfig) -> ValidationFailedError:
        with pytest.raises(ValidationFailedError) as error:
            validate_prepared(
                tmp_path / name,
                prepared={"nl": folder},
                config=SMALL,
                data=data,
                gx_root=tmp_path / "gx",
            )
        return error.value

    # 804 bytes: 90 by filters of 804; 10 of 714; 500 not sampled of 704; 40 of 204; 4 of 164.
    filters = error("filters", limits(filters=0.1))
    assert filters.got.splitlines()[1].strip() == (
        "nl: Filters reject at most 10.0% of the text of a language, in bytes: observed 11.2% of "
        "English: line length 7.5%, digits 3.7%, such as package 1.0/rejected/0.txt: "
        "'\\x1b[2J<b>\\n\\x1b[2J<b>\\n\\x1b[2J<b>\\n\\x1b[2J<b>\\n\\x1b[2J<b>\\n\\x1b[2J<b>\\n\\x1b[2J<b>"
        "\\n\\x1b[2J' (line length); Pile-CC/SHA-256 0123456789ab: '01' (digits); "
        "package 1.0/rejected/2.txt: '02' (digits)"
    )
    assert "data.corpora.nl.filters;" in filters.fix
    assert filters.fix.endswith("change data.corpora.nl.max_dropped_share.filters")
    (result,) = [item for item in read_results_of(tmp_path / "filters") if item["success"] is False]
    assert result["num_unexpected"] is None
    assert result["observed"].startswith("11.2% of English")
    assert len(result["examples"]) == 3
    for step, value, share in (
        ("decontamination", 0.013, "1.4% of English: contaminated 1.4%"),
        ("exact_dedup", 0.19, "19.6% of English: duplicate 19.6%, such as package 1.0/rejected/9"),
        ("near_duplicates", 0.024, "2.4% of English: near duplicate 2.4%"),
    ):
        failure = error(step, limits(**{step: value}))
        assert f"observed {share}" in failure.got
        assert f"max_dropped_share.{step}" in failure.fix
        assert "rules are broken" in failure.got
        assert failure.got.startswith("prepared corpora: 1 of ")
    page = max((tmp_path / "gx" / "runs").glob("*/index.html")).read_text(encoding="utf-8")
    assert "near duplicate 2.4%" in page
    validate_prepared(
        tmp_path / "exact",
        prepared={"nl": folder},
        config=SMALL,
        data=limits(
            filters=90 / 804,
            decontamination=10 / 714,
            exact_dedup=40 / 204,
            near_duplicates=4 / 164,
        ),
        gx_root=tmp_path / "gx",
    )


def test_documents_in_other_languages_have_a_separate_row(tmp_path: Path) -> None:
    corpus = english()
    corpus.rejects = [reject(0, "digits", "Klingon")]
    error = validation_error(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert "observed 100.0% of (other): digits 100.0%, such as" in error.got
    metrics = read_metrics(tmp_path / "artifact")
    assert metrics is not None
    assert metrics["nl"]["(other)"]["num_rejected"] == 1


@pytest.mark.parametrize(("num_before", "num_after"), [(2, 0), (0, 2)], ids=["fewer", "more"])
def test_a_changed_share_of_rejected_documents_is_a_warning(
    tmp_path: Path, num_before: int, num_after: int
) -> None:
    folders = []
    for name, num in (("before", num_before), ("after", num_after)):
        corpus = english()
        corpus.rejects = [reject(number, "digits") for number in range(num)]
        folders.append(corpus.write(tmp_path / name))
    validate(tmp_path, nl=folders[0])
    previous = read_metrics(tmp_path / "artifact")
    arguments: dict[str, Any] = {
        "prepared": {"nl": folders[1]},
        "data": DataConfig(),
        "gx_root": tmp_path / "gx",
        "previous": previous,
    }
    statistics = validate_prepared(tmp_path / "warned", config=SMALL, **arguments)
    shares = {0: "0.0%", 2: "20.0%"}
    change = f"English ({shares[num_after]}, was {shares[num_before]})"
    rule = "nl: The share of rejected documents changed by at most 5.0%"
    assert statistics["warnings"] == [f"{rule}: broken by 1 of 1 languages, such as {change}"]
    with pytest.raises(ValidationFailedError, match="The share of rejected documents changed"):
        validate_prepared(tmp_path / "failed", config=SMALL.replace(drift="fail"), **arguments)


# -- unreadable files


def test_a_missing_or_invalid_index_is_an_error(tmp_path: Path) -> None:
    folder = english().write(
        tmp_path / "nl", lambda index: index["splits"]["train"].pop("num_sequences")
    )
    assert (
        "index.json is invalid at splits.train.num_sequences: Field required"
        in validation_error(tmp_path, nl=folder).got
    )
    (folder / "index.json").write_text('{"corpus": ')
    assert "index.json is invalid at its start" in validation_error(tmp_path, nl=folder).got
    (folder / "index.json").unlink()
    assert "index.json does not exist" in validation_error(tmp_path, nl=folder).got


def test_a_missing_or_invalid_document_table_is_an_error(tmp_path: Path) -> None:
    corpus = english()
    for row in corpus.rows:
        del row["num_tokens"]
    folder = corpus.write(tmp_path / "nl")
    assert "documents.parquet cannot be read" in validation_error(tmp_path, nl=folder).got
    (folder / "documents.parquet").write_bytes(b"PAR1")
    assert "documents.parquet cannot be read" in validation_error(tmp_path, nl=folder).got
    (folder / "documents.parquet").unlink()
    assert "documents.parquet cannot be read" in validation_error(tmp_path, nl=folder).got
