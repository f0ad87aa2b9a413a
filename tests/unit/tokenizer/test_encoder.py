"""The encoder gives the reference's ids, is reversible, and never encodes text as a separator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import DataError
from components.tokenizer.encoder import EDGE_CASE_TEXTS, Encoder, verify_edge_cases
from components.tokenizer.vocabulary import TOKENIZER_JSON

# Arbitrary text, with more of the cases that byte-pair encoders get wrong.
PIECES = st.one_of(
    st.text(max_size=8),
    st.text(alphabet=" \t\n\r\x0b\x0c\x85\u00a0\u2028\u3000", max_size=40),
    st.sampled_from(
        [
            "<|endoftext|>",
            "<|endof",
            "text|>",
            "'ll",
            "don't",
            "def ",
            "return",
            "0123",
            "\u00e9e\u0301",
            "_" * 20,
        ]
    ),
)
TEXTS = st.lists(st.lists(PIECES, max_size=8).map("".join), max_size=5)


@settings(deadline=None, max_examples=50)
@given(texts=TEXTS)
@pytest.mark.parametrize("size", ["small", "full"])
def test_encoding_equals_transformers_and_is_reversible(
    request: pytest.FixtureRequest, size: str, texts: list[str]
) -> None:
    encoder: Encoder = request.getfixturevalue(size)
    tokenizer = request.getfixturevalue(f"{size}_transformers")
    encoded = encoder.encode_batch(texts)
    assert len(encoded) == len(texts)
    assert encoded.ids.dtype == np.uint16
    for index, text in enumerate(texts):
        ids = encoded[index].tolist()
        assert ids == tokenizer(text, split_special_tokens=True)["input_ids"]
        assert ids == encoder.encode(text)
        assert encoder.decode(ids) == text
        assert encoder.token_num_bytes[ids].sum() == len(text.encode())


def test_a_separator_inside_a_document_is_encoded_as_text(full: Encoder) -> None:
    """Otherwise a document about tokenizers would be split in two."""
    text = "print('<|endoftext|>')"
    ids = full.encode(text)
    assert full.eot_id == 50_256
    assert full.eot_id not in ids
    assert ids == [4798, 10786, 27, 91, 437, 1659, 5239, 91, 29, 11537]
    assert full.encode_reference([text]) == [ids]
    assert full.decode(ids) == text
    assert full.decode([*full.encode("a"), full.eot_id]) == "a<|endoftext|>"


def test_each_id_has_its_number_of_bytes(full: Encoder) -> None:
    num_bytes = full.token_num_bytes
    assert num_bytes.shape == (50_295,)
    assert num_bytes[:256].tolist() == [1] * 256
    assert num_bytes[[15496, 995]].tolist() == [len("Hello"), len(" world")]
    assert num_bytes[50_256] == 0, "the separator represents no text"
    assert num_bytes[50_257:].tolist() == [*range(31, 1, -1), *range(9, 1, -1)]


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json does not exist"):
        Encoder(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"{}", b"[1]", b"\xff", b"[" * 100_000], ids=range(5))
def test_a_damaged_tokenizer_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / TOKENIZER_JSON).write_bytes(content)
    with pytest.raises(DataError, match=TOKENIZER_JSON):
        Encoder(tmp_path)


@pytest.fixture
def ambiguous_tokenizer(small_folder: Path, tmp_path: Path) -> Encoder:
    """A tokenizer that both libraries read differently: gigatoken 0.10 ignores `single_word`."""
    description = json.loads((small_folder / "tokenizer.json").read_text(encoding="utf-8"))
    token = {
        **description["added_tokens"][-1],
        "id": len(description["model"]["vocab"]) + 38,
        "content": "zebra",
        "single_word": True,
    }
    description["added_tokens"].append(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    return Encoder(tmp_path)


def test_a_document_that_is_encoded_differently_is_an_error(ambiguous_tokenizer: Encoder) -> None:
    texts = ["a zebra", "two zebras"]
    encoded = ambiguous_tokenizer.encode_batch(texts)
    names = ["a.py of demo 1.0", "b.py of demo 1.0"]
    with pytest.raises(DataError, match=r"b\.py of demo 1\.0 differently from token 4") as error:
        ambiguous_tokenizer.verify_against_reference(texts, [encoded[0], encoded[1]], names)
    assert "Hugging Face tokenizers" in error.value.expected


def test_edge_cases_detect_a_wrong_encoder(small_folder: Path, tmp_path: Path) -> None:
    description = json.loads((small_folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in description["added_tokens"]:
        token["single_word"] = not token["special"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(DataError, match="differently from token"):
        verify_edge_cases(Encoder(tmp_path))


def test_edge_cases_pass_and_are_distinct(small: Encoder, full: Encoder) -> None:
    verify_edge_cases(small)
    verify_edge_cases(full)
    assert len(set(EDGE_CASE_TEXTS)) == len(EDGE_CASE_TEXTS)
