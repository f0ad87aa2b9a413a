"""Every rule about prepared corpora, seen to hold on good data and to break on data that breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora_on_disk import CONTEXT_LENGTH, EOT_ID, SMALL, Prepared

from components.core.errors import ConfigError, ValidationFailedError
from components.validation.prepared import read_figures, validate_prepared
from components.validation.shard_checks import Index, Separators, ShardEntry, SplitEntry

IndexJson = dict[str, Any]


def english() -> Prepared:
    return Prepared("nl", ("English",))


def validate(folder: Path, **prepared: Path) -> dict[str, Any]:
    return validate_prepared(
        folder / "artifact", prepared=prepared, config=SMALL, docs=folder / "docs"
    )


def outcomes_in(folder: Path) -> list[dict[str, Any]]:
    outcomes: list[dict[str, Any]] = json.loads((folder / "artifact" / "results.json").read_text())
    return outcomes


def refused(folder: Path, **prepared: Path) -> ValidationFailedError:
    with pytest.raises(ValidationFailedError) as error:
        validate(folder, **prepared)
    return error.value


def test_good_corpora_pass_and_are_counted(tmp_path: Path) -> None:
    mono = Prepared("mono", ("Python",))
    statistics = validate(
        tmp_path, nl=english().write(tmp_path / "nl"), mono=mono.write(tmp_path / "mono")
    )
    # 6 documents of 6, 7, 8, 6, 7 and 8 ids make 42 ids: 5 sequences of 8; 2 of 7 and 8 make one.
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
    outcomes = outcomes_in(tmp_path)
    assert (
        statistics["num_expectations"]
        == statistics["num_passed"]
        == sum(bool(one["success"]) for one in outcomes)
    )
    judged = {one["suite"] for one in outcomes if one["success"] is not None}
    assert judged == {
        "prepared-shards", "prepared-splits", "prepared-documents", "prepared-languages", "prepared-held-out"
    }  # fmt: skip


# -- shards ------------------------------------------------------------------------------------------------------------


def test_ids_beyond_the_vocabulary_are_named(tmp_path: Path) -> None:
    corpus = english()
    corpus.splits["train"][2][1] = 300
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "nl: Every id is below the 300 ids of the vocabulary: broken by 1 of 2 shards" in error.got
    )
    assert "such as train/00000.bin (max_id = 300)" in error.got


def test_shards_that_are_cut_off_missing_or_unknown_are_named(tmp_path: Path) -> None:
    folders = {name: Prepared(name, ("Python",)).write(tmp_path / name) for name in ("nl", "mono")}
    for folder, cut in zip(folders.values(), (1, 2 * CONTEXT_LENGTH), strict=True):
        shard = folder / "train" / "00000.bin"
        shard.write_bytes(shard.read_bytes()[:-cut])
    (folders["nl"] / "held-out" / "Python" / "00000.bin").unlink()
    (folders["nl"] / "train" / "00001.bin").write_bytes(b"\1\0" * CONTEXT_LENGTH)
    refused(tmp_path, **folders)
    rule = "Every shard holds full sequences: its size is sequences x 8 ids x 2 bytes"
    found = {one["subject"]: one for one in outcomes_in(tmp_path) if one["rule"] == rule}
    assert (found["nl"]["num_unexpected"], found["mono"]["num_unexpected"]) == (3, 1)
    assert found["nl"]["examples"] == [
        "train/00000.bin (size_bytes = 79, expected_bytes = 80)",
        "held-out/Python/00000.bin (size_bytes = -1, expected_bytes = 16)",
        "train/00001.bin (size_bytes = 16, expected_bytes = 0)",
    ]
    assert found["mono"]["examples"] == ["train/00000.bin (size_bytes = 64, expected_bytes = 80)"]


def test_shards_of_one_split_are_one_stream(tmp_path: Path) -> None:
    def in_two(index: IndexJson) -> None:
        shard = tmp_path / "nl" / "train" / "00000.bin"
        first = 2 * CONTEXT_LENGTH * 2
        (tmp_path / "nl" / "train" / "00001.bin").write_bytes(shard.read_bytes()[first:])
        shard.write_bytes(shard.read_bytes()[:first])
        index["splits"]["train"]["shards"] = [
            {"path": "train/00000.bin", "num_sequences": 2},
            {"path": "train/00001.bin", "num_sequences": 3},
        ]

    validate(tmp_path, nl=english().write(tmp_path / "nl", in_two))


def test_large_shards_are_read_in_pieces_without_losing_the_place(tmp_path: Path) -> None:
    num_ids = 9 * 2**20  # More than is looked at together.
    ids = np.zeros(num_ids, dtype="<u2")
    ids[[3, num_ids - 1]] = EOT_ID
    ids.tofile(tmp_path / "00000.bin")
    num_sequences = num_ids // CONTEXT_LENGTH
    split = SplitEntry(
        shards=(ShardEntry(path="00000.bin", num_sequences=num_sequences),),
        num_sequences=num_sequences,
    )
    index = Index(
        corpus="nl",
        context_length=CONTEXT_LENGTH,
        eot_id=EOT_ID,
        num_ids=300,
        splits={"train": split},
    )
    separators = Separators(tmp_path, index, "train")
    separators.meet(np.array([4, 0]))
    separators.meet(np.array([num_ids - 4, 20]))
    separators.finish()
    assert separators.contents == {"00000.bin": (2 * num_ids, EOT_ID)}
    assert (separators.num_separators, separators.num_ends, separators.num_misplaced) == (2, 2, 0)


# -- splits ------------------------------------------------------------------------------------------------------------


def test_a_language_without_a_held_out_split_is_named(tmp_path: Path) -> None:
    corpus = Prepared("multi", ("C", "C++", "Go", "Java", "JavaScript"))
    error = refused(tmp_path, multi=corpus.write(tmp_path / "multi"))
    line = next(line for line in error.got.splitlines() if "The splits are" in line)
    assert (
        "train, held-out/C, held-out/C++, held-out/Go, held-out/Java, held-out/JavaScript, held-out/Python, and no"
        in line
    )
    assert line.endswith("no other: found missing held-out/Python")


def test_a_split_without_documents_or_sequences_is_named(tmp_path: Path) -> None:
    corpus = english()
    corpus.splits["held-out/English"] = []
    corpus.rows = [row for row in corpus.rows if row["split"] == "train"]
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "nl: Documents in every split: at least 1: broken by 1 of 2 splits, such as held-out/English (num_doc"
        in error.got
    )
    assert (
        "nl: Sequences in every split: at least 1: broken by 1 of 2 splits, such as held-out/English (num_seq"
        in error.got
    )


def test_an_index_that_contradicts_itself_is_named(tmp_path: Path) -> None:
    def one_more(index: IndexJson) -> None:
        index["splits"]["train"]["num_sequences"] += 1

    error = refused(tmp_path, nl=english().write(tmp_path / "nl", one_more))
    assert (
        "those of its shards together: broken by 1 of 2 splits, such as train (num_sequences = 6, num_sh"
        in error.got
    )


def drop_separator(corpus: Prepared) -> None:
    corpus.splits["train"][1][-1] = 7


def write_separator_in_a_document(corpus: Prepared) -> None:
    corpus.splits["train"][1][2] = EOT_ID


@pytest.mark.parametrize(
    ("spoil", "found"), [(drop_separator, 4), (write_separator_in_a_document, 6)]
)
def test_separators_that_are_missing_or_too_many_are_counted(
    tmp_path: Path, spoil: Callable[[Prepared], None], found: int
) -> None:
    # The last of the six documents ends in the ids that fill no sequence.
    corpus = english()
    spoil(corpus)
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "as many separators (id 256) as documents end in the sequences: broken by 1 of 2 splits"
        in error.got
    )
    assert f"such as train (num_separators = {found}, num_ends = 5)" in error.got
    assert (
        "stand where documents end, and nowhere else: broken by 1 of 2 splits, such as train (num_misplaced = 1)"
        in error.got
    )


def test_separators_at_other_places_than_the_documents_end_are_counted(tmp_path: Path) -> None:
    corpus = english()
    first, second = corpus.rows[0], corpus.rows[1]
    first["num_tokens"], second["num_tokens"] = second["num_tokens"], first["num_tokens"]
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert "1 of 22 rules" in error.got
    assert "such as train (num_misplaced = 2)" in error.got


def test_separators_beyond_the_last_document_are_misplaced(tmp_path: Path) -> None:
    # The table lists the first three of six documents, 21 ids; of the five sequences' 40 ids two more separators are left.
    corpus = english()
    del corpus.rows[3:6]
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert "such as train (num_separators = 5, num_ends = 3)" in error.got
    assert "such as train (num_misplaced = 2)" in error.got


def test_tokens_that_were_lost_are_counted(tmp_path: Path) -> None:
    folder = english().write(tmp_path / "nl")
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["train"] = {
        "shards": [{"path": "train/00000.bin", "num_sequences": 4}],
        "num_sequences": 4,
    }
    (folder / "index.json").write_text(json.dumps(index))
    ids = np.fromfile(folder / "train" / "00000.bin", dtype="<u2")
    ids[: 4 * CONTEXT_LENGTH].tofile(folder / "train" / "00000.bin")
    error = refused(tmp_path, nl=folder)
    assert (
        "fewer than the 8 that fill one: broken by 1 of 2 splits, such as train (num_dropped_tokens = 10)"
        in error.got
    )


# -- documents ---------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_documents_is_named(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"sha256": None}, "Every document has a SHA-256"),
        ({"language": None}, "Every document names its language"),
        ({"split": None}, "Every document names its split"),
        ({"num_tokens": None}, "Every document has a number of tokens"),
        ({"sha256": "A" * 64}, "Every SHA-256 is 64 hexadecimal digits"),
        ({"language": "Klingon"}, "The language of every document is one of English"),
        ({"split": "dev"}, "Every document is in a split of the index"),
        ({"num_tokens": 0}, "Every document has at least one token"),
    ]
    corpus = english()
    for row, (values, _) in zip(corpus.rows, wrong, strict=True):
        row.update(values)
    refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    found = {one["rule"]: one for one in outcomes_in(tmp_path)}
    for row, (_, rule) in zip(corpus.rows, wrong, strict=True):
        assert (found[rule]["success"], found[rule]["num_unexpected"], found[rule]["num_rows"]) == (
            False,
            1,
            8,
        )
        assert found[rule]["examples"][0].startswith(f"package 1.0/{row['path']}")


def test_duplicates_within_a_corpus_are_named(tmp_path: Path) -> None:
    # They lie in two row groups of the table.
    corpus = english()
    corpus.rows[4]["sha256"] = corpus.rows[1]["sha256"]
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert (
        "nl: No two documents have the same content (SHA-256): broken by 2 of 8 documents"
        in error.got
    )
    assert "package 1.0/train/1.txt" in error.got
    assert "package 1.0/train/4.txt" in error.got


def test_a_held_out_document_that_another_corpus_trains_on_is_named(tmp_path: Path) -> None:
    nl, mono = english(), Prepared("mono", ("Python",))
    mono.rows[2]["sha256"] = next(
        row["sha256"] for row in nl.rows if row["split"] == "held-out/English"
    )
    error = refused(tmp_path, nl=nl.write(tmp_path / "nl"), mono=mono.write(tmp_path / "mono"))
    assert "1 of 43 rules" in error.got
    assert (
        "all corpora: No held-out document is in a training split, of its own corpus or of another"
        in error.got
    )
    assert (
        "broken by 1 of 4 held-out documents, such as nl/package 1.0/held-out/English/0.txt (trained_on_in = 'mono')"
        in error.got
    )


def test_the_same_document_held_out_in_two_corpora_is_fine(tmp_path: Path) -> None:
    nl, mono = english(), Prepared("mono", ("Python",))
    mono.rows[-1]["sha256"] = nl.rows[-1]["sha256"]
    validate(tmp_path, nl=nl.write(tmp_path / "nl"), mono=mono.write(tmp_path / "mono"))


# -- languages ---------------------------------------------------------------------------------------------------------


def reject(number: int, reason: str, language: str = "English") -> dict[str, Any]:
    return {
        "language": language,
        "source": "package 1.0",
        "path": f"rejected/{number}.txt",
        "reason": reason,
    }


def test_documents_that_have_the_same_source_and_path_are_named_be_they_kept_or_not(
    tmp_path: Path,
) -> None:
    corpus = english()
    corpus.rejects = [{**reject(0, "digits"), "path": corpus.rows[2]["path"]}, reject(1, "digits")]
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    rule = "nl: Documents with the source and path of another: a fraction of at most 0: broken by 2 of 10 documents"
    assert f"{rule}, such as package 1.0/train/2.txt; package 1.0/train/2.txt" in error.got
    assert "validation.max_repeated_names" in error.fix
    tolerant = SMALL.replace(max_repeated_names=0.2)
    validate_prepared(
        tmp_path / "tolerant",
        prepared={"nl": tmp_path / "nl"},
        config=tolerant,
        docs=tmp_path / "docs",
    )


@pytest.mark.parametrize("field", ["source", "path"])
def test_documents_that_state_no_source_or_no_path_have_no_name_to_share(
    tmp_path: Path, field: str
) -> None:
    corpus = (
        english()
    )  # The Pile's have no path, records of a plain JSON Lines file may have no source.
    for row in corpus.rows:
        row.update({"source": "Wikipedia", "path": "same.txt", field: ""})
    named = [{**reject(number, "digits"), "path": "twice.txt"} for number in range(2)]
    corpus.rejects = [{**reject(0, "digits"), field: ""}, {**reject(0, "digits"), field: ""}]
    validate(tmp_path, nl=corpus.write(tmp_path / "nl"))
    corpus.rejects += named
    error = refused(tmp_path, nl=corpus.write(tmp_path / "again"))
    assert (
        "broken by 2 of 12 documents, such as package 1.0/twice.txt; package 1.0/twice.txt"
        in error.got
    )


def test_too_many_rejected_documents_and_copies_are_counted(tmp_path: Path) -> None:
    corpus = english()
    corpus.rejects = [
        reject(number, "digits" if number < 80 else "duplicate") for number in range(92)
    ]
    corpus.rejects[0]["reason"] = None  # It was rejected all the same.
    folder = corpus.write(tmp_path / "nl")
    validate(tmp_path, nl=folder)  # 80 of 100 are rejected, 12 are copies, 8 are kept.
    figures = read_figures(tmp_path / "artifact")
    assert figures is not None
    assert figures["nl"]["English"] == {
        "num_raw": 100, "num_kept": 8, "num_rejected": 80, "num_duplicates": 12,
        "rejected_fraction": 0.8, "duplicate_fraction": 0.12, "num_repeated_names": 0,
        "repeated_names_fraction": 0.0,
    }  # fmt: skip
    strict = SMALL.replace(max_rejected_fraction=0.79, max_duplicate_fraction=0.11)
    with pytest.raises(
        ValidationFailedError,
        match=r"reject at most 79% of .* such as English \(rejected_fraction = 0.8\)",
    ) as error:
        validate_prepared(
            tmp_path / "strict", prepared={"nl": folder}, config=strict, docs=tmp_path / "docs"
        )
    assert "At most 11% of the documents of a language are copies of others" in error.value.got


def test_documents_of_another_language_have_a_row_of_their_own(tmp_path: Path) -> None:
    corpus = english()
    corpus.rejects = [reject(0, "digits", "Klingon")]
    error = refused(tmp_path, nl=corpus.write(tmp_path / "nl"))
    assert "broken by 1 of 2 languages, such as (other) (rejected_fraction = 1)" in error.got
    figures = read_figures(tmp_path / "artifact")
    assert figures is not None
    assert figures["nl"]["(other)"]["num_rejected"] == 1


@pytest.mark.parametrize(("before", "now"), [(2, 0), (0, 2)], ids=["fewer", "more"])
def test_a_changed_share_of_rejected_documents_is_a_warning(
    tmp_path: Path, before: int, now: int
) -> None:
    folders = []
    for name, num in (("before", before), ("now", now)):
        corpus = english()
        corpus.rejects = [reject(number, "digits") for number in range(num)]
        folders.append(corpus.write(tmp_path / name))
    validate(tmp_path, nl=folders[0])
    previous = read_figures(tmp_path / "artifact")
    place = {"prepared": {"nl": folders[1]}, "docs": tmp_path / "docs", "previous": previous}
    statistics = validate_prepared(tmp_path / "warned", config=SMALL, **place)  # type: ignore[arg-type]
    share = ["0.0%", "20.0%"]
    found = f"English ({share[now > 0]}, was {share[before > 0]})"
    rule = "nl: The share of documents that the filters reject has changed by at most 5.0%"
    assert statistics["warnings"] == [f"{rule}: broken by 1 of 1 languages, such as {found}"]
    with pytest.raises(ValidationFailedError, match="that the filters reject has changed"):
        validate_prepared(tmp_path / "failed", config=SMALL.replace(drift="fail"), **place)  # type: ignore[arg-type]


# -- what cannot be judged at all --------------------------------------------------------------------------------------


def test_an_index_that_is_missing_or_wrong_is_refused(tmp_path: Path) -> None:
    folder = english().write(
        tmp_path / "nl", lambda index: index["splits"]["train"].pop("num_sequences")
    )
    assert (
        "index.json is wrong at splits.train.num_sequences: Field required"
        in refused(tmp_path, nl=folder).got
    )
    (folder / "index.json").write_text('{"corpus": ')
    assert "index.json is wrong at its start" in refused(tmp_path, nl=folder).got
    (folder / "index.json").unlink()
    assert "index.json does not exist" in refused(tmp_path, nl=folder).got


def test_a_list_of_documents_that_is_missing_or_wrong_is_refused(tmp_path: Path) -> None:
    corpus = english()
    for row in corpus.rows:
        del row["num_tokens"]
    folder = corpus.write(tmp_path / "nl")
    assert "documents.parquet cannot be read" in refused(tmp_path, nl=folder).got
    (folder / "documents.parquet").write_bytes(b"PAR1")
    assert "documents.parquet cannot be read" in refused(tmp_path, nl=folder).got
    (folder / "documents.parquet").unlink()
    assert "documents.parquet cannot be read" in refused(tmp_path, nl=folder).got


def test_an_unknown_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'poems'"):
        validate(tmp_path, poems=english().write(tmp_path / "poems"))
