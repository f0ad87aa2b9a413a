"""Which document each token of a packed sequence belongs to, for document masking.

Design decision: nothing is stored for it. The end-of-text id is only ever a separator (a document that contains the
characters `<|endoftext|>` is encoded as plain characters, see `encoder`), so the separators in a sequence say it all. What
a model does with the numbers (attend within a document only, restart positions) is the model's affair.

Shapes: B sequences, T tokens of a sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def document_numbers(
    sequences_BT: npt.NDArray[np.integer[Any]], eot_id: int
) -> npt.NDArray[np.int32]:
    """The number of each token's document, counted from 0 in each sequence, [B, T].

    A separator belongs to the document that it ends. Documents 0 and the last one may be parts of longer ones: what came
    before the sequence and what comes after it is not in it. Documents without a token between two separators count, too.

    Raises:
        ValueError: `sequences_BT` has not two dimensions.
    """
    if sequences_BT.ndim != 2:
        raise ValueError(f"sequences of shape [B, T] are numbered, got {list(sequences_BT.shape)}")
    ends_BT = sequences_BT == eot_id
    # The separators before a token are those up to it, less itself.
    numbers_BT: npt.NDArray[np.int32] = np.cumsum(ends_BT, axis=1, dtype=np.int32) - ends_BT
    return numbers_BT
