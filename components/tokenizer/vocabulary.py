"""Build the tokenizer: a Hugging Face folder made from GPT-2's table of ranks.

The table lists every token by rank, but `tokenizer.json` wants merges. A token's merge is what byte-pair encoding with all
lower ranks makes of its bytes: exactly two parts. So the merges are recovered from the table alone, and a cut after the
first n merges is simply the table's first 256 + n lines. The folder loads with `transformers.AutoTokenizer`.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from pydantic import JsonValue
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from components.core.errors import DataError
from components.core.files import write_atomic, write_json
from components.core.fingerprint import sha256_file
from components.tokenizer.config import (
    END_OF_TEXT,
    NUM_BYTES,
    SPACE_RUNS,
    TAB_RUNS,
    TokenizerConfig,
)

CODE_VERSION = 1
"""Raised when the same recipe would give another tokenizer."""

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"

_LONGEST_INPUT = 2048
"""`model_max_length` of the released tokenizers."""


def build_tokenizer(ranks: Path, config: TokenizerConfig, folder: Path) -> dict[str, JsonValue]:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`.

    Args:
        ranks: GPT-2's vocabulary in the tiktoken format, one `base64(token) rank` a line (`data/vocabulary/gpt2.tiktoken`).
        config: where to cut it.
        folder: an existing folder.

    Returns:
        Statistics: `num_merges`, `num_ids`, `eot_id` and the SHA-256 of the table, `ranks_sha256`.

    Raises:
        DataError: the table is absent, unreadable, too short, or no table of byte-pair encoding.
    """
    tokens = _read_ranks(ranks, NUM_BYTES + config.num_merges)
    tokenizer = _tokenizer(tokens, _merges(tokens, ranks), config)
    write_atomic(folder / TOKENIZER_JSON, tokenizer.to_str(pretty=False))
    write_json(folder / TOKENIZER_CONFIG_JSON, _transformers_settings())
    return {
        "num_merges": config.num_merges,
        "num_ids": config.num_ids,
        "eot_id": config.eot_id,
        "ranks_sha256": sha256_file(ranks),
    }


def byte_characters() -> list[str]:
    """The character by which GPT-2 writes each byte value, 0 to 255, in its vocabulary.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, are written as U+0100 onwards.
    Source: `bytes_to_unicode` in the released GPT-2 code (encoder.py).
    """
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    return [chr(value) if value in printable else chr(next(others)) for value in range(NUM_BYTES)]


def white_space_tokens() -> list[str]:
    """CodeGen's 38 runs of white space, in the order of their ids."""
    return [" " * length for length in SPACE_RUNS] + ["\t" * length for length in TAB_RUNS]


def _read_ranks(path: Path, num_tokens: int) -> list[bytes]:
    """The first `num_tokens` tokens of the table; their ranks are their positions."""
    if not path.is_file():
        raise DataError(
            f"{path} does not exist",
            expected="GPT-2's vocabulary",
            fix="fetch it with `codegen data pull`",
        )
    tokens: list[bytes] = []
    for number, line in enumerate(path.read_bytes().splitlines()[:num_tokens], start=1):
        try:
            token, rank = line.split()
            tokens.append(base64.b64decode(token, validate=True))
            in_order = int(rank) == number - 1
        except (ValueError, binascii.Error):
            in_order = False
        if not in_order:
            raise _bad_table(
                f"{path}:{number}: {line[:40]!r}",
                f"'base64(token) {number - 1}', as tiktoken writes it",
            )
    if len(tokens) < num_tokens:
        raise _bad_table(f"{path} holds {len(tokens):,} tokens", f"at least {num_tokens:,}")
    if {token for token in tokens if len(token) == 1} != {
        bytes([value]) for value in range(NUM_BYTES)
    }:
        raise _bad_table(
            f"{path} does not name each of the 256 bytes", "all of them, before the merges"
        )
    return tokens


def _bad_table(got: str, expected: str) -> DataError:
    return DataError(
        got, expected=expected, fix="fetch the vocabulary again with `codegen data pull`"
    )


def _merges(tokens: list[bytes], path: Path) -> list[tuple[bytes, bytes]]:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens[NUM_BYTES:], start=NUM_BYTES):
        parts = _apply_merges(token, ranks, below=rank)
        if len(parts) != 2:
            raise _bad_table(
                f"{path}:{rank + 1}: {token!r} is no merge of two earlier tokens",
                "a byte-pair encoding",
            )
        merges.append((parts[0], parts[1]))
    return merges


def _apply_merges(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """Byte-pair encoding of one token with the merges of rank lower than `below`: the lowest rank first, leftmost first."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 1:
        best, at = min(
            (ranks.get(parts[i] + parts[i + 1], below), i) for i in range(len(parts) - 1)
        )
        if best >= below:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _tokenizer(
    tokens: list[bytes], merges: list[tuple[bytes, bytes]], config: TokenizerConfig
) -> Tokenizer:
    characters = byte_characters()

    def written(token: bytes) -> str:
        return "".join(characters[value] for value in token)

    vocabulary = {written(token): rank for rank, token in enumerate(tokens)}
    vocabulary[END_OF_TEXT] = config.eot_id
    pairs = [(written(left), written(right)) for left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    # Ordinary tokens: found before byte-pair encoding, the longest first, and kept by skip_special_tokens.
    tokenizer.add_tokens([AddedToken(run, special=False) for run in white_space_tokens()])
    return tokenizer


def _transformers_settings() -> dict[str, JsonValue]:
    """What the released `tokenizer_config.json` says."""
    return {
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "errors": "replace",
        "model_max_length": _LONGEST_INPUT,
        "tokenizer_class": "CodeGenTokenizer",
        "unk_token": END_OF_TEXT,
    }
