"""An Arrow column of texts as bytes, for passes of numpy over all of its texts at once.

What is not covered: nulls. A text of a corpus is never null, and the bytes under a null would count as text.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


def bytes_and_offsets(texts: pa.LargeStringArray) -> tuple[Bytes, Counts]:
    """The UTF-8 bytes of all texts, and where each begins: text i is bytes `offsets[i]` to `offsets[i + 1]`."""
    _, offset_buffer, data_buffer = texts.buffers()
    if not len(texts) or data_buffer is None:
        return np.zeros(0, dtype=np.uint8), np.zeros(len(texts) + 1, dtype=np.int64)
    offsets = np.frombuffer(offset_buffer, dtype=np.int64)[
        texts.offset : texts.offset + len(texts) + 1
    ]
    data = np.frombuffer(data_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0]
