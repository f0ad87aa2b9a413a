"""Execution settings for reading a corpus that is not on this machine."""

from __future__ import annotations

from pydantic import Field

from components.core.config import Config

RANGE_BYTES = 2**16
"""Default size of a fetched range. Half a millisecond at 1 Gbit/s, far less than the latency of a
request, so smaller ranges would not arrive sooner (assumption)."""


class StreamingCacheConfig(Config):
    """Folder and size of the cache for streamed shards. Not part of a recipe."""

    cache_folder: str
    """On this machine. All ranks and corpora may share it; it may be removed at any time."""
    cache_bytes: int = Field(ge=1)
    """Upper bound for the size of the cache."""
    range_bytes: int | None = Field(default=None, ge=1)
    """Fetch ranges of this size, rounded down to whole sequences (minimum: 1). None: whole shards
    if the split fits into the cache, else ranges of `RANGE_BYTES`."""
