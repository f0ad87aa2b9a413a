"""Size of the vocabulary, and CodeGen's constants.

A recipe sets the number of merges only. A tokenizer with fewer merges keeps GPT-2's ids for the
tokens it keeps, so a small model can have a small LM head.
"""

from __future__ import annotations

from pydantic import Field

from components.core.config import Config

MAX_MERGES = 50_000
"""All merges of GPT-2 (docs/paper.md, section 1)."""
NUM_BYTES = 256
"""Tokens before the first merge: a token for each byte value."""
SPACE_RUNS = tuple(range(31, 1, -1))
"""Lengths of the space runs that CodeGen adds, in id order (docs/paper.md, section 1)."""
TAB_RUNS = tuple(range(9, 1, -1))
"""Lengths of the tab runs that CodeGen adds, in id order (docs/paper.md, section 1)."""
END_OF_TEXT = "<|endoftext|>"
"""GPT-2's token for the end of a document."""


class TokenizerConfig(Config):
    """GPT-2's byte-level BPE, limited to its first merges, with CodeGen's white-space tokens."""

    num_merges: int = Field(default=MAX_MERGES, ge=0, le=MAX_MERGES)
    """How many of GPT-2's 50,000 merges are used; with all of them every id is CodeGen's."""

    @property
    def eot_id(self) -> int:
        """The id of `<|endoftext|>`: 50256 for CodeGen."""
        return NUM_BYTES + self.num_merges

    @property
    def num_ids(self) -> int:
        """Number of ids, from 0: 50,295 for CodeGen. At most 65,536, so an id fits 16 bits."""
        return self.eot_id + 1 + len(SPACE_RUNS) + len(TAB_RUNS)
