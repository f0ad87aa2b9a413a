"""Find what occurs more than once in a stream that does not fit memory, exactly.

Design decision: a thing is known by 16 bytes of its hash, and the stream is read as often as it takes for the hashes of one
reading to fit: each reading sorts those of one range. If no two keys are equal, no two things are: uniqueness is proven. Two
equal keys of different things would need a collision of 128 bits of SHA-256 or BLAKE2b.

Memory: 16 bytes a row, 16 MB per million, for up to `ROWS_AT_ONCE` rows, and so about 0.3 GB whatever there is to read;
and 16 bytes for each key that repeats, of which good data have few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keys = npt.NDArray[np.bytes_]
"""[N], 16 bytes each. All keys are full, so comparing them compares their bytes, trailing zeros included."""
KeyStream = Callable[[], Iterable[Keys]]
"""Begins to read the keys anew each time it is called."""

KEY_BYTES = 16
ROWS_AT_ONCE = 2**24
"""Keys sorted in one reading (assumption: 0.3 GB can be had wherever a corpus is prepared)."""

NO_KEYS = np.zeros(0, dtype=f"S{KEY_BYTES}")
_NO_DIGIT = 0xFF
_DIGITS = np.full(256, _NO_DIGIT, dtype=np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)


def find_duplicates(stream: KeyStream, num_rows: int, rows_at_once: int = ROWS_AT_ONCE) -> Keys:
    """The keys that occur more than once, each once, in ascending order; some `num_rows` keys are expected."""
    num_readings = max(1, -(-num_rows // rows_at_once))
    edges = [2**32 * number // num_readings for number in range(num_readings + 1)]
    # Hashes spread evenly, so with some room to spare the array need not grow.
    room = num_rows // num_readings + num_rows // num_readings // 50 + 1000
    return np.concatenate(
        [NO_KEYS, *(_repeated_between(stream, *edge, room) for edge in pairwise(edges))]
    )


def _repeated_between(stream: KeyStream, first: int, last: int, room: int) -> Keys:
    """The repeated keys whose first four bytes are a number from `first` to below `last`."""
    gathered, num = np.empty(room, dtype=NO_KEYS.dtype), 0
    for keys in stream():
        starts = np.frombuffer(keys.tobytes(), dtype=">u4")[:: KEY_BYTES // 4]
        mine = keys[(starts >= first) & (starts < last)]
        if num + len(mine) > len(gathered):
            gathered = np.concatenate([gathered, np.empty(num + len(mine), dtype=gathered.dtype)])
        gathered[num : num + len(mine)] = mine
        num += len(mine)
    ascending = gathered[:num]
    ascending.sort()
    return np.unique(ascending[1:][ascending[1:] == ascending[:-1]])


def is_in(keys: Keys, ascending: Keys) -> npt.NDArray[np.bool_]:
    """Which of the keys are among some that ascend, [N]."""
    if not len(ascending):
        return np.zeros(len(keys), dtype=bool)
    places = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[places] == keys
    return found


def keys_of_digests(digests: pa.LargeStringArray) -> Keys:
    """The first 16 bytes of SHA-256 digests, each given as 64 hexadecimal digits in lower case; none may be null."""
    if not len(digests):
        return NO_KEYS
    offsets = np.frombuffer(digests.buffers()[1], dtype=np.int64)[
        digests.offset : digests.offset + len(digests) + 1
    ]
    text = np.frombuffer(digests.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]].reshape(
        len(digests), 64
    )
    digits = _DIGITS[text[:, : 2 * KEY_BYTES]]
    return (
        np.ascontiguousarray(digits[:, 0::2] << 4 | digits[:, 1::2]).view(f"S{KEY_BYTES}").ravel()
    )


def keys_of_names(sources: Iterable[str | None], paths: Iterable[str | None]) -> Keys:
    """Keys of documents' sources and paths together. Measured: 2 s per million."""
    # The length keeps apart what would read the same when joined.
    joined = (
        f"{len(source or '')}:{source}{path}".encode()
        for source, path in zip(sources, paths, strict=True)
    )
    hashed = b"".join(hashlib.blake2b(name, digest_size=KEY_BYTES).digest() for name in joined)
    return np.frombuffer(hashed, dtype=f"S{KEY_BYTES}")
