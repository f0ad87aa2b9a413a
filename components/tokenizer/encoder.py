"""Applies a tokenizer artifact: text to ids and back.

gigatoken encodes. Hugging Face tokenizers is the reference: gigatoken is young, and wrong ids would
silently spoil a model, so every process that encodes compares both on `EDGE_CASE_TEXTS` first, and
preparation compares a sample of the corpus in every run.

`<|endoftext|>` inside a text is encoded as plain characters, never as the separator: the token is
not registered with gigatoken, and the reference encodes special tokens as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import gigatoken
import numpy as np
import numpy.typing as npt
import tokenizers

from components.core.errors import DataError
from components.core.files import parse_json
from components.tokenizer.config import END_OF_TEXT
from components.tokenizer.vocabulary import TOKENIZER_JSON

Ids = npt.NDArray[np.uint16]

EDGE_CASE_TEXTS = (
    END_OF_TEXT,
    f"a{END_OF_TEXT}{END_OF_TEXT} b",
    *(
        f"x{' ' * length}y{chr(9) * length}z"
        for length in (1, 2, 3, 9, 10, 31, 32, 33, 62, 63, 100)
    ),
    "\n \n  \n\t\n \t \r\n\r\n  \r",
    "don't we'll they've I'm she'd 'S 'Re ''s",
    "0 1 12 123 1234567890 3.14e-10 0xDEADBEEF",
    "\u00a0\u2003\u3000\u2028\u2029\u0085\u200b\ufeff|",
    "e\u0301 \u00e9 \u1e9e \u01c5 \u00bd \u0661\u0662 \u4e16\u754c \U0001f469\u200d\U0001f4bb "
    "\U00020bb7",
    "\x01\x1b[0m\x7f\ufffd\ufffe\U0010ffff",
    "a" * 1000,
    "=" * 1000,
)
"""White space, contractions, digits, characters of 1 to 4 bytes, control characters, long words."""


@dataclass(frozen=True)
class RaggedIds:
    """The ids of several texts in a flat array."""

    ids: Ids
    offsets: npt.NDArray[np.int64]
    """Text i is `ids[offsets[i] : offsets[i + 1]]`; has an entry more than there are texts."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Ids:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


class Encoder:
    """The tokenizer in a folder that `vocabulary.build_tokenizer` wrote."""

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer.

        Raises:
            DataError: the folder holds no tokenizer.
        """
        path = folder / TOKENIZER_JSON
        if not path.is_file():
            raise DataError(
                f"{path} does not exist",
                expected="a tokenizer artifact",
                fix="build it with `codegen prepare`",
            )
        try:
            self._document = path.read_text(encoding="utf-8")
            self._description = parse_json(self._document)
            vocabulary = self._description["model"]["vocab"]
            added_tokens = {token["content"] for token in self._description["added_tokens"]}
            self.eot_id = int(vocabulary[END_OF_TEXT])
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{path} has no vocabulary with {END_OF_TEXT} ({error!r:.300})",
                expected="a byte-pair tokenizer of CodeGen",
                fix="restore the folder or download it again",
            ) from error
        self.num_ids = len(vocabulary.keys() | added_tokens)

    # Building either tokenizer takes tenths of a second (measured), and not every process needs it.

    @cached_property
    def _reference(self) -> tokenizers.Tokenizer:
        reference = tokenizers.Tokenizer.from_str(self._document)
        reference.encode_special_tokens = True
        return reference

    @cached_property
    def _fast(self) -> gigatoken.Tokenizer:
        plain = [token for token in self._description["added_tokens"] if not token["special"]]
        return gigatoken.Tokenizer.from_json(
            json.dumps(self._description | {"added_tokens": plain})
        )

    def encode(self, text: str) -> list[int]:
        """Encode a text."""
        return [int(id_) for id_ in self._fast.encode(text)]

    def encode_batch(self, texts: Sequence[str], *, parallel: bool = True) -> RaggedIds:
        """Encode many texts, on all cores if `parallel`."""
        layout = self._fast.encode_batch(list(texts), parallel=parallel).layout
        return RaggedIds(layout.content.data.astype(np.uint16), layout.offsets.data)

    def encode_reference(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts with Hugging Face tokenizers, the slow reference."""
        encodings = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def verify_against_reference(
        self, texts: Sequence[str], encoded: Sequence[Ids], names: Sequence[str]
    ) -> None:
        """Compare ids that `encode_batch` returned with the reference.

        Args:
            texts: the encoded texts.
            encoded: the ids of each text.
            names: the name of each text in an error.

        Raises:
            DataError: the ids of a text differ; names the text and the first differing token.
        """
        for name, ids, expected in zip(names, encoded, self.encode_reference(texts), strict=True):
            actual = ids.tolist()
            if actual == expected:
                continue
            first = _first_difference(actual, expected)
            raise DataError(
                f"gigatoken {version('gigatoken')} encodes {name} differently from token {first:,} "
                f"on: {actual[first : first + 5]}",
                expected=f"{expected[first : first + 5]}, as Hugging Face tokenizers "
                f"{tokenizers.__version__} encodes it",
                fix="install the tested versions (`make install`); if they are installed, report "
                "the document to gigatoken",
            )

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; `<|endoftext|>` is written out, bytes that are not UTF-8 become U+FFFD."""
        return str(self._reference.decode(list(ids), skip_special_tokens=False))

    @cached_property
    def token_num_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of text that each id represents, [num_ids]; 0 for `<|endoftext|>`."""
        lengths = np.zeros(self.num_ids, dtype=np.int64)
        for token, id_ in self._reference.get_vocab(with_added_tokens=True).items():
            # The vocabulary writes one character per byte; the added white-space runs are ASCII.
            lengths[id_] = len(token)
        lengths[self.eot_id] = 0
        return lengths


def verify_edge_cases(encoder: Encoder) -> None:
    """Compare the encoder with the reference on `EDGE_CASE_TEXTS`.

    Raises:
        DataError: a text is encoded differently.
    """
    encoded = encoder.encode_batch(EDGE_CASE_TEXTS)
    encoder.verify_against_reference(
        EDGE_CASE_TEXTS,
        [encoded[index] for index in range(len(encoded))],
        [repr(text[:40]) for text in EDGE_CASE_TEXTS],
    )


def _first_difference(actual: list[int], expected: list[int]) -> int:
    for index, (actual_id, expected_id) in enumerate(zip(actual, expected, strict=False)):
        if actual_id != expected_id:
            return index
    return min(len(actual), len(expected))
