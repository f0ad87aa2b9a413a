"""Apply the tokenizer of a folder: text to ids and back.

gigatoken does the work; Hugging Face tokenizers is the reference that it is proved against, because gigatoken is young and
an error in the ids would silently spoil a model. Documents are data: `<|endoftext|>` written in one is encoded as the plain
characters, never as the separator. Both libraries are told so in their own way (the token is not registered with gigatoken,
and the reference encodes special tokens as text). Chat templates, padding and truncation are not covered.
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
from components.tokenizer.config import END_OF_TEXT
from components.tokenizer.vocabulary import TOKENIZER_JSON

Ids = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class RaggedIds:
    """The ids of several texts, back to back."""

    ids: Ids
    offsets: npt.NDArray[np.int64]
    """Text i is `ids[offsets[i] : offsets[i + 1]]`; one entry more than there are texts."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Ids:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The number of tokens of each text."""
        return np.diff(self.offsets)


class Encoder:
    """The tokenizer that `vocabulary.build_tokenizer` wrote."""

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer.

        Raises:
            DataError: the folder holds no tokenizer of ours.
        """
        path = folder / TOKENIZER_JSON
        if not path.is_file():
            raise DataError(
                f"{path} does not exist",
                expected="a tokenizer artifact",
                fix="build it with the prepare flow",
            )
        self._document = path.read_text(encoding="utf-8")
        self._description = json.loads(self._document)
        vocabulary = self._description["model"]["vocab"]
        self.eot_id = int(vocabulary[END_OF_TEXT])
        self.num_ids = len(
            vocabulary.keys() | {token["content"] for token in self._description["added_tokens"]}
        )

    # Both take a few tenths of a second to load, and not every process encodes.

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
        """The ids of one text."""
        return [int(id_) for id_ in self._fast.encode(text)]

    def encode_batch(self, texts: Sequence[str], *, parallel: bool = True) -> RaggedIds:
        """The ids of many texts, encoded by as many threads as there are cores, or by one."""
        layout = self._fast.encode_batch(list(texts), parallel=parallel).layout
        return RaggedIds(layout.content.data.astype(np.uint16), layout.offsets.data)

    def encode_reference(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts as Hugging Face tokenizers gives them: the slow truth."""
        return [
            encoding.ids
            for encoding in self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def verify_against_reference(
        self, texts: Sequence[str], encoded: Sequence[Ids], names: Sequence[str]
    ) -> None:
        """Compare ids that `encode_batch` gave with those of the reference.

        Args:
            texts: what was encoded.
            encoded: the ids of each text.
            names: what to call each text in an error.

        Raises:
            DataError: the ids of a text differ; names the text and the first token that differs.
        """
        for name, ids, expected in zip(names, encoded, self.encode_reference(texts), strict=True):
            got = ids.tolist()
            if got != expected:
                at = _first_difference(got, expected)
                raise DataError(
                    f"gigatoken {version('gigatoken')} encodes {name} differently from token {at:,} on: {got[at : at + 5]}",
                    expected=f"{expected[at : at + 5]}, as Hugging Face tokenizers {tokenizers.__version__} encodes it",
                    fix="install the versions of constraints.txt; if they are, keep the document and report it to gigatoken",
                )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; `<|endoftext|>` is written out, bytes that are no UTF-8 become U+FFFD."""
        return str(self._reference.decode(list(ids), skip_special_tokens=False))

    @cached_property
    def token_num_bytes(self) -> npt.NDArray[np.int64]:
        """How many bytes of text each id stands for, [num_ids]; 0 for `<|endoftext|>`, which is no text."""
        lengths = np.zeros(self.num_ids, dtype=np.int64)
        for token, id_ in self._reference.get_vocab(with_added_tokens=True).items():
            # The vocabulary writes one character for each byte, and the added runs of white space are ASCII.
            lengths[id_] = len(token)
        lengths[self.eot_id] = 0
        return lengths


def _first_difference(one: list[int], other: list[int]) -> int:
    same_length = min(len(one), len(other))
    return next((at for at in range(same_length) if one[at] != other[at]), same_length)
