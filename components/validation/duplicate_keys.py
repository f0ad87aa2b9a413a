"""Find values that occur more than once in a stream larger than memory, exactly.

A value is represented by 16 bytes of its hash. The stream is read in as many passes as needed for
the hashes of a pass to fit in memory; each pass sorts the hashes of one range. Unequal keys prove
unequal values; equal keys of unequal values would be a collision of 128 bits of SHA-256 or BLAKE2b.

Memory: 16 bytes per row for at most `ROWS_PER_PASS` rows (0.3 GB), and per duplicate key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from components.data.filters.ngrams import bytes_and_offsets

Keys = npt.NDArray[np.bytes_]
"""[N], 16 bytes each. NumPy ignores trailing zeros, but compares exactly if lengths are equal."""
KeyStream = Callable[[], Iterable[Keys]]
"""Starts to read the keys from the beginning at each call."""

KEY_BYTES = 16
ROWS_PER_PASS = 2**24
"""Keys sorted in a pass (assumption: 0.3 GB are available where corpora are prepared)."""

NO_KEYS = np.zeros(0, dtype=f"S{KEY_BYTES}")
_HEX_VALUES = np.zeros(256, dtype=np.uint8)
_HEX_VALUES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)


def find_duplicates(stream: KeyStream, num_rows: int, rows_per_pass: int = ROWS_PER_PASS) -> Keys:
    """Return the keys that occur more than once, unique and ascending.

    `num_rows` is the expected number of keys.
    """
    num_passes = max(1, -(-num_rows // rows_per_pass))
    bounds = [2**32 * number // num_passes for number in range(num_passes + 1)]
    # Hashes are uniform, so 2 % more than the mean is rarely too small.
    capacity = num_rows // num_passes + num_rows // num_passes // 50 + 1000
    duplicates = [
        _duplicates_between(stream, first, stop, capacity) for first, stop in pairwise(bounds)
    ]
    return np.concatenate([NO_KEYS, *duplicates])


def _duplicates_between(stream: KeyStream, first: int, stop: int, capacity: int) -> Keys:
    """Return the duplicate keys whose first four bytes are in the range from `first` to `stop`."""
    buffer = np.empty(capacity, dtype=NO_KEYS.dtype)
    num = 0
    for keys in stream():
        prefixes = np.frombuffer(keys.tobytes(), dtype=">u4")[:: KEY_BYTES // 4]
        selected = keys[(prefixes >= first) & (prefixes < stop)]
        end = num + len(selected)
        if end > len(buffer):
            buffer = np.concatenate([buffer, np.empty(end, dtype=buffer.dtype)])
        buffer[num:end] = selected
        num = end
    ascending = buffer[:num]
    ascending.sort()
    return np.unique(ascending[1:][ascending[1:] == ascending[:-1]])


def is_in(keys: Keys, ascending: Keys) -> npt.NDArray[np.bool_]:
    """Return whether each key is among the `ascending` keys, [N]."""
    if not len(ascending):
        return np.zeros(len(keys), dtype=bool)
    indices = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    matches: npt.NDArray[np.bool_] = ascending[indices] == keys
    return matches


def keys_of_digests(digests: pa.LargeStringArray) -> Keys:
    """Return the first 16 bytes of SHA-256 digests: 64 lower-case hexadecimal digits, no nulls."""
    if not len(digests):
        return NO_KEYS
    data, _ = bytes_and_offsets(digests)
    digits = _HEX_VALUES[data.reshape(len(digests), 64)[:, : 2 * KEY_BYTES]]
    key_bytes = np.ascontiguousarray(digits[:, 0::2] << 4 | digits[:, 1::2])
    return key_bytes.view(f"S{KEY_BYTES}").ravel()


def keys_of_paths(sources: Iterable[str | None], paths: Iterable[str | None]) -> Keys:
    """Return keys of the sources and paths of documents. Measured: 2 s per million."""
    hashes = []
    for source, path in zip(sources, paths, strict=True):
        # The length separates source and path.
        name = f"{len(source or '')}:{source}{path}".encode()
        hashes.append(hashlib.blake2b(name, digest_size=KEY_BYTES).digest())
    return np.frombuffer(b"".join(hashes), dtype=f"S{KEY_BYTES}")
