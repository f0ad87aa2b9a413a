"""Two tokenizers give the same ids whoever wrote them, and the first thing in which they do not is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.models import TOKENIZER, write_tokenizer
from transformers import AutoTokenizer, CodeGenTokenizerFast

from components.core.errors import ArtifactError
from components.tokenizer.compatibility import first_mismatch, read_id_table


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("ours"))


def changed(ours: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads((ours / "tokenizer.json").read_text())
    change(document)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


def as_before_0_20(document: dict[str, Any]) -> None:
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    document["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}


def swapped(document: dict[str, Any]) -> None:
    vocabulary = document["model"]["vocab"]
    vocabulary["\u0120a"], vocabulary["\u0120t"] = vocabulary["\u0120t"], vocabulary["\u0120a"]


def one_more(document: dict[str, Any]) -> None:
    token = document["added_tokens"][-1]
    document["added_tokens"].append(token | {"id": token["id"] + 1, "content": "<mask>"})


def without_the_last(document: dict[str, Any]) -> None:
    document["added_tokens"].pop()


def last_merges_swapped(document: dict[str, Any]) -> None:
    merges = document["model"]["merges"]
    merges[-2:] = merges[:-3:-1]


def space_in_front(document: dict[str, Any]) -> None:
    document["pre_tokenizer"]["add_prefix_space"] = True


def composed(document: dict[str, Any]) -> None:
    document["normalizer"] = {"type": "NFC"}


def test_what_transformers_writes_gives_the_same_ids(ours: Path, tmp_path: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(ours)
    loaded.save_pretrained(tmp_path / "saved")
    CodeGenTokenizerFast(tokenizer_object=loaded.backend_tokenizer).save_pretrained(
        tmp_path / "wrapped"
    )
    table = read_id_table(ours)
    assert (len(table.merges), len(table.ids)) == (TOKENIZER.num_merges, TOKENIZER.num_ids)
    for theirs in ("saved", "wrapped"):
        assert first_mismatch(read_id_table(tmp_path / theirs), table) is None
    assert first_mismatch(read_id_table(changed(ours, tmp_path, as_before_0_20)), table) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (swapped, "'\u0120t' has the id 257, not 256"),
        (one_more, "'<mask>' has the id 495, not none"),
        (without_the_last, "'\\t\\t' has no id, not 494"),
        (last_merges_swapped, "the same tokens come of other merges"),
        (space_in_front, "text is cut into words by other rules, or changed before"),
        (composed, "text is cut into words by other rules, or changed before"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_first_difference_is_named(
    change: Callable[[dict[str, Any]], object], named: str, ours: Path, tmp_path: Path
) -> None:
    assert (
        first_mismatch(read_id_table(changed(ours, tmp_path, change)), read_id_table(ours)) == named
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "has no vocabulary and merges"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": []}', "has no vocabulary and merges"),
        (
            '{"model": {"vocab": {"a": 0}, "merges": [["a", "b"]]}, "added_tokens": []}',
            "cannot be read",
        ),
    ],
)
def test_a_file_that_is_no_tokenizer(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not exist"):
        read_id_table(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ArtifactError, match=rf"tokenizer\.json {named}"):
        read_id_table(tmp_path)
