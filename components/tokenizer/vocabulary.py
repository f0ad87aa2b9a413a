"""Builds the tokenizer: a Hugging Face folder from GPT-2's table of token ranks.

The table lists every token by rank, `tokenizer.json` needs merges. Byte-pair encoding of a token's
bytes with all lower ranks leaves exactly two parts: the token's merge. So the merges follow from
the table, and a tokenizer with n merges uses its first 256 + n lines. `transformers.AutoTokenizer`
loads the folder.
"""

from __future__ import annotations

import base64
import binascii
from itertools import pairwise
from pathlib import Path

from pydantic import JsonValue
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from components.core.errors import DataError
from components.core.files import read_json, write_atomic, write_json
from components.core.fingerprint import sha256_file
from components.tokenizer.config import (
    END_OF_TEXT,
    NUM_BYTES,
    SPACE_RUNS,
    TAB_RUNS,
    TokenizerConfig,
)

CODE_VERSION = 1
"""Raise it when the same recipe would give a different tokenizer."""

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG_JSON = "tokenizer_config.json"

_OWN_FILES = ("gpt2.tiktoken", "vocab.json")
_MODEL_MAX_LENGTH = 2048
"""`model_max_length` of the released tokenizers."""


def build_tokenizer(ranks: Path, config: TokenizerConfig, folder: Path) -> dict[str, JsonValue]:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`.

    Args:
        ranks: GPT-2's vocabulary in the tiktoken format, `base64(token) rank` per line.
        config: number of merges.
        folder: an existing folder.

    Returns:
        Statistics: `num_merges`, `num_ids`, `eot_id` and the SHA-256 of the table, `ranks_sha256`.

    Raises:
        DataError: the table is missing, unreadable, too short, or not a byte-pair encoding.
    """
    tokens = _read_ranks(ranks, NUM_BYTES + config.num_merges)
    tokenizer = _build(tokens, _merges(tokens, ranks), config)
    write_atomic(folder / TOKENIZER_JSON, tokenizer.to_str(pretty=False))
    write_json(folder / TOKENIZER_CONFIG_JSON, _transformers_settings())
    return {
        "num_merges": config.num_merges,
        "num_ids": config.num_ids,
        "eot_id": config.eot_id,
        "ranks_sha256": sha256_file(ranks),
    }


def read_own_ranks(path: Path) -> bytes:
    """GPT-2's byte-pair ranks in tiktoken's format, from a file of the user.

    Args:
        path: `gpt2.tiktoken`; or `vocab.json` of GPT-2 or of a released CodeGen model, whose ids
            below that of `<|endoftext|>` are the ranks; or a folder with one of them.

    Raises:
        DataError: there is no such file, or it has another format.
    """
    files = [path / name for name in _OWN_FILES] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(
            f"the vocabulary {path} does not exist, or is a folder without one",
            expected=f"{' or '.join(_OWN_FILES)}, or a folder with one of them",
            fix="correct CODEGEN_VOCABULARY, or unset it to fetch the vocabulary",
        )
    if file.suffix != ".json":
        return file.read_bytes()
    byte_of = {character: value for value, character in enumerate(byte_characters())}
    try:
        ids = {str(token): int(rank) for token, rank in read_json(file).items()}
        num_ranks = ids.get(END_OF_TEXT, len(ids))
        tokens = sorted((rank, token) for token, rank in ids.items() if rank < num_ranks)
        lines = [
            f"{base64.b64encode(bytes(byte_of[character] for character in token)).decode()} {rank}"
            for rank, token in tokens
        ]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(
            f"{file} is not a vocabulary: {error}",
            expected="a JSON object of tokens and ids, as GPT-2's vocab.json",
            fix="correct CODEGEN_VOCABULARY, or unset it to fetch the vocabulary",
        ) from error
    return "".join(f"{line}\n" for line in lines).encode()


def byte_characters() -> list[str]:
    """The character for each byte value, 0 to 255, in GPT-2's vocabulary.

    Printable Latin-1 characters are written as themselves, the other bytes, in order, as U+0100
    onwards. Source: `bytes_to_unicode` in the released GPT-2 code (encoder.py).
    """
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    substitutes = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    return [
        chr(value) if value in printable else chr(next(substitutes)) for value in range(NUM_BYTES)
    ]


def white_space_tokens() -> list[str]:
    """CodeGen's 38 runs of white space, in id order."""
    return [" " * length for length in SPACE_RUNS] + ["\t" * length for length in TAB_RUNS]


def _read_ranks(path: Path, num_tokens: int) -> list[bytes]:
    """The first `num_tokens` tokens of the table; a token's rank is its index."""
    if not path.is_file():
        raise DataError(
            f"{path} does not exist",
            expected="GPT-2's vocabulary",
            fix="run `codegen prepare`, which fetches it",
        )
    tokens: list[bytes] = []
    for number, line in enumerate(path.read_bytes().splitlines()[:num_tokens], start=1):
        try:
            token, rank = line.split()
            tokens.append(base64.b64decode(token, validate=True))
            is_valid = int(rank) == number - 1
        except (ValueError, binascii.Error):
            is_valid = False
        if not is_valid:
            raise _bad_table(
                f"{path}:{number}: {line[:40]!r}",
                f"'base64(token) {number - 1}', as tiktoken writes it",
            )
    if len(tokens) < num_tokens:
        raise _bad_table(f"{path} holds {len(tokens):,} tokens", f"at least {num_tokens:,}")
    single_bytes = {token for token in tokens if len(token) == 1}
    if len(single_bytes) < NUM_BYTES:
        raise _bad_table(f"{path} lacks some of the 256 bytes", "a token for every byte")
    return tokens


def _bad_table(got: str, expected: str) -> DataError:
    return DataError(
        got, expected=expected, fix="use a vocabulary with as many merges, or fewer num_merges"
    )


def _merges(tokens: list[bytes], path: Path) -> list[tuple[bytes, bytes]]:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens[NUM_BYTES:], start=NUM_BYTES):
        parts = _apply_merges(token, ranks, below=rank)
        if len(parts) != 2:
            raise _bad_table(
                f"{path}:{rank + 1}: {token!r} is not a merge of two earlier tokens",
                "a byte-pair encoding",
            )
        merges.append((parts[0], parts[1]))
    return merges


def _apply_merges(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """Byte-pair encode a token with the merges below a rank: lowest rank first, then leftmost."""
    parts = [bytes([value]) for value in token]
    while len(parts) > 1:
        candidates = [ranks.get(left + right, below) for left, right in pairwise(parts)]
        best = min(candidates)
        if best >= below:
            break
        index = candidates.index(best)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def _build(
    tokens: list[bytes], merges: list[tuple[bytes, bytes]], config: TokenizerConfig
) -> Tokenizer:
    characters = byte_characters()

    def to_text(token: bytes) -> str:
        return "".join(characters[value] for value in token)

    vocabulary = {to_text(token): rank for rank, token in enumerate(tokens)}
    vocabulary[END_OF_TEXT] = config.eot_id
    pairs = [(to_text(left), to_text(right)) for left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    # Ordinary tokens: matched before byte-pair encoding, longest first; skip_special_tokens keeps
    # them.
    tokenizer.add_tokens([AddedToken(run, special=False) for run in white_space_tokens()])
    return tokenizer


def _transformers_settings() -> dict[str, JsonValue]:
    """The content of the released `tokenizer_config.json`."""
    return {
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "errors": "replace",
        "model_max_length": _MODEL_MAX_LENGTH,
        "tokenizer_class": "CodeGenTokenizer",
        "unk_token": END_OF_TEXT,
    }
