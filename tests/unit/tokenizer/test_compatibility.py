"""Id-compatibility of tokenizers from any library, and the description of a mismatch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.models import TOKENIZER, write_tokenizer
from transformers import AutoTokenizer, CodeGenTokenizerFast

from components.core.errors import ArtifactError
from components.tokenizer.compatibility import first_mismatch, read_signature


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def edit(tokenizer: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write a changed copy of the tokenizer. Returns its folder."""
    document = json.loads((tokenizer / "tokenizer.json").read_text())
    change(document)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return folder


def write_merges_as_before_0_20(document: dict[str, Any]) -> None:
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    document["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}


def swap_two_ids(document: dict[str, Any]) -> None:
    vocabulary = document["model"]["vocab"]
    vocabulary["\u0120a"], vocabulary["\u0120t"] = vocabulary["\u0120t"], vocabulary["\u0120a"]


def add_a_token(document: dict[str, Any]) -> None:
    token = document["added_tokens"][-1]
    document["added_tokens"].append(token | {"id": token["id"] + 1, "content": "<mask>"})


def remove_the_last_token(document: dict[str, Any]) -> None:
    document["added_tokens"].pop()


def swap_the_last_merges(document: dict[str, Any]) -> None:
    merges = document["model"]["merges"]
    merges[-2:] = merges[:-3:-1]


def add_prefix_space(document: dict[str, Any]) -> None:
    document["pre_tokenizer"]["add_prefix_space"] = True


def normalize_to_nfc(document: dict[str, Any]) -> None:
    document["normalizer"] = {"type": "NFC"}


def test_tokenizers_written_by_transformers_are_compatible(tokenizer: Path, tmp_path: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    loaded.save_pretrained(tmp_path / "saved")
    wrapped = CodeGenTokenizerFast(tokenizer_object=loaded.backend_tokenizer)
    wrapped.save_pretrained(tmp_path / "wrapped")
    signature = read_signature(tokenizer)
    assert len(signature.merges) == TOKENIZER.num_merges
    assert len(signature.ids) == TOKENIZER.num_ids
    for name in ("saved", "wrapped"):
        assert first_mismatch(read_signature(tmp_path / name), signature) is None
    old = edit(tokenizer, tmp_path, write_merges_as_before_0_20)
    assert first_mismatch(read_signature(old), signature) is None


@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        (swap_two_ids, "'\u0120t' has the id 257, not 256"),
        (add_a_token, "'<mask>' has the id 495, not none"),
        (remove_the_last_token, "'\\t\\t' has no id, not 494"),
        (swap_the_last_merges, "the tokens are equal, the merges differ"),
        (add_prefix_space, "the normalizer or the pre-tokenizer differs"),
        (normalize_to_nfc, "the normalizer or the pre-tokenizer differs"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_first_mismatch_is_described(
    change: Callable[[dict[str, Any]], object], mismatch: str, tokenizer: Path, tmp_path: Path
) -> None:
    changed = read_signature(edit(tokenizer, tmp_path, change))
    assert first_mismatch(changed, read_signature(tokenizer)) == mismatch


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "has no vocabulary and merges"),
        ('{"model": {"vocab": {"a": 0}}, "added_tokens": []}', "has no vocabulary and merges"),
        (
            '{"model": {"vocab": {"a": 0}, "merges": [["a", "b"]]}, "added_tokens": []}',
            "cannot be read",
        ),
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_an_error(
    text: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not exist"):
        read_signature(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ArtifactError, match=rf"tokenizer\.json {problem}"):
        read_signature(tmp_path)
