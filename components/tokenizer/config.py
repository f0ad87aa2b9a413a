"""How large the vocabulary is, which is the part of a recipe that this room owns; and where streamed shards are kept.

Design decision: a recipe says one number. Everything else about the vocabulary is CodeGen's and a constant of `vocabulary`.
A cut keeps GPT-2's ids for what it keeps, so a small model can have a small LM head and still tokenise as CodeGen does.
"""

from __future__ import annotations

from pydantic import Field

from components.core.config import Config

RANGE_BYTES = 2**16
"""Of a range, where shards are not fetched whole: half a millisecond at 1 Gbit/s, far less than the latency of a request,
so that smaller ones would come no sooner (assumption)."""
MAX_MERGES = 50_000
"""All of GPT-2's (docs/paper.md, section 1)."""
NUM_BYTES = 256
"""Tokens below every merge: one for each byte value."""
SPACE_RUNS = tuple(range(31, 1, -1))
"""Lengths of the runs of spaces that CodeGen adds, in the order of their ids (docs/paper.md, section 1)."""
TAB_RUNS = tuple(range(9, 1, -1))
"""Lengths of the runs of tabs that CodeGen adds, in the order of their ids (docs/paper.md, section 1)."""
END_OF_TEXT = "<|endoftext|>"
"""What GPT-2 calls the token that ends every document."""


class TokenizerConfig(Config):
    """GPT-2's byte-level BPE, cut after its first merges, with CodeGen's white-space tokens."""

    num_merges: int = Field(default=MAX_MERGES, ge=0, le=MAX_MERGES)
    """How many of GPT-2's 50,000 merges are kept; with all of them every id is CodeGen's."""

    @property
    def eot_id(self) -> int:
        """The id of `<|endoftext|>`: 50256 for CodeGen."""
        return NUM_BYTES + self.num_merges

    @property
    def num_ids(self) -> int:
        """Ids in use, 0 to `num_ids` - 1: 50,295 for CodeGen. At most 65,536, so that an id fits 16 bits."""
        return self.eot_id + 1 + len(SPACE_RUNS) + len(TAB_RUNS)


class StreamingCacheConfig(Config):
    """Where fetched shards are kept and how much of them: a place, never a part of a recipe."""

    cache_folder: str
    """On this machine; may be shared by all ranks and corpora, and removed at any time."""
    cache_bytes: int = Field(ge=1)
    """The cache never holds more."""
    range_bytes: int | None = Field(default=None, ge=1)
    """Fetch ranges of this size, rounded down to whole sequences but at least one; None: whole shards where the split fits
    into the cache, else `RANGE_BYTES`."""
