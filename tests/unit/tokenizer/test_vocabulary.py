"""With all merges the vocabulary is CodeGen's; with fewer merges its ids are unchanged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from components.core.errors import ConfigError, DataError
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.vocabulary import TOKENIZER_JSON, build_tokenizer

# SHA-256 of GPT-2's released files, as published with tiktoken (tiktoken_ext/openai_public.py).
VOCAB_BPE = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_JSON = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


def model(folder: Path) -> dict[str, Any]:
    return json.loads((folder / TOKENIZER_JSON).read_text(encoding="utf-8"))["model"]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_all_merges_give_the_files_released_by_openai(full_folder: Path) -> None:
    """From ranks only: the merges in order, and every id, `<|endoftext|>` included."""
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in model(full_folder)["merges"]
    ]
    assert sha256("\n".join(["#version: 0.2", *merges, ""])) == VOCAB_BPE
    vocabulary = dict(sorted(model(full_folder)["vocab"].items(), key=lambda entry: entry[1]))
    assert sha256(json.dumps(vocabulary)) == ENCODER_JSON


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        # The example of Hugging Face's CodeGen page.
        ("def hello_world():", [4299, 23748, 62, 6894, 33529]),
        (" " * 31, [50257]),
        (" " * 2, [50286]),
        ("\t" * 9, [50287]),
        ("\t" * 2, [50294]),
        ("x    y\t\t\tz", [87, 50284, 88, 50293, 89]),
        (" " * 33, [50257, 50286]),
        (" " * 32, [50257, 220]),
        ("a b\n", [64, 275, 198]),
        ("<|endoftext|>", [50256]),
    ],
)
def test_auto_tokenizer_gives_codegens_ids(
    full_transformers: PreTrainedTokenizerBase, text: str, ids: list[int]
) -> None:
    assert full_transformers(text)["input_ids"] == ids
    assert full_transformers.decode(ids) == text


def test_auto_tokenizer_loads_the_released_settings(
    full_transformers: PreTrainedTokenizerBase,
) -> None:
    tokenizer = full_transformers
    assert type(tokenizer).__name__ == "CodeGenTokenizer"
    assert len(tokenizer) == 50_295 == TokenizerConfig().num_ids
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id) == (50_256,) * 3
    assert tokenizer.pad_token is None
    assert tokenizer.model_max_length == 2048
    assert tokenizer.decode([87, 50284, 50256], skip_special_tokens=True) == "x    ", (
        "white space is not special"
    )


@pytest.mark.parametrize("num_merges", [0, 1, 4000])
def test_a_vocabulary_with_fewer_merges_keeps_its_ids(
    ranks: Path, full_folder: Path, tmp_path: Path, num_merges: int
) -> None:
    config = TokenizerConfig(num_merges=num_merges)
    statistics = build_tokenizer(ranks, config, tmp_path)
    full = model(full_folder)
    small = model(tmp_path)
    eot = 256 + num_merges
    assert small["merges"] == full["merges"][:num_merges]
    assert small["vocab"] == {token: id_ for token, id_ in full["vocab"].items() if id_ < eot} | {
        "<|endoftext|>": eot
    }
    added = json.loads((tmp_path / TOKENIZER_JSON).read_text(encoding="utf-8"))["added_tokens"]
    assert [token["id"] for token in added] == list(range(eot, eot + 39)), "39 consecutive ids"
    assert [token["special"] for token in added] == [True] + [False] * 38
    assert statistics["eot_id"] == config.eot_id == eot
    assert statistics["num_ids"] == config.num_ids == eot + 39
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == config.num_ids
    text = "def f(x):\n\t\treturn x   # h\u00e9llo\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_building_twice_gives_the_same_files(
    ranks: Path, small_folder: Path, tmp_path: Path
) -> None:
    build_tokenizer(ranks, TokenizerConfig(num_merges=600), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (small_folder / path.name).read_bytes()


def _damage(lines: list[bytes], kind: str) -> list[bytes]:
    return {
        "not base64": [*lines[:300], b"!!! 300", *lines[301:]],
        "not a number": [*lines[:300], b"aGk= x", *lines[301:]],
        "out of order": [*lines[:300], lines[301], lines[300], *lines[302:]],
        "cut short": lines[:500],
        "no bytes": [*lines[:255], lines[0].split()[0] + b" 255", *lines[256:]],
        "no merge": [*lines[:300], b"cXF6eno= 300", *lines[301:]],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("not base64", r"gpt2\.tiktoken:301: b'!!! 300'"),
        ("not a number", r"gpt2\.tiktoken:301: b'aGk= x'"),
        ("out of order", r"gpt2\.tiktoken:301: "),
        ("cut short", "holds 500 tokens"),
        ("no bytes", "lacks some of the 256 bytes"),
        ("no merge", r"gpt2\.tiktoken:301: b'qqzzz' is not a merge"),
    ],
)
def test_a_damaged_table_is_an_error(ranks: Path, tmp_path: Path, kind: str, message: str) -> None:
    damaged = tmp_path / "gpt2.tiktoken"
    damaged.write_bytes(b"\n".join(_damage(ranks.read_bytes().splitlines(), kind)))
    with pytest.raises(DataError, match=message):
        build_tokenizer(damaged, TokenizerConfig(num_merges=600), tmp_path)
    assert list(tmp_path.iterdir()) == [damaged], "no partial output"


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        build_tokenizer(tmp_path / "gpt2.tiktoken", TokenizerConfig(), tmp_path)


def test_more_than_fifty_thousand_merges_are_an_error() -> None:
    with pytest.raises(ConfigError, match="num_merges is 50001"):
        TokenizerConfig.parse({"num_merges": 50_001})
