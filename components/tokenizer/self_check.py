"""Proof, in every run, that the fast encoder gives the ids of the reference: on what is known to be hard, and on a sample.

Every process that encodes proves the strings below before it begins. The sample is chosen by content, so it is the same
however the corpus is cut, and what is compared are the very ids that go into the shards (`scatter`). The first difference
stops the run.
"""

from __future__ import annotations

from components.tokenizer.config import END_OF_TEXT
from components.tokenizer.encoder import Encoder

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
    "e\u0301 \u00e9 \u1e9e \u01c5 \u00bd \u0661\u0662 \u4e16\u754c \U0001f469\u200d\U0001f4bb \U00020bb7",
    "\x01\x1b[0m\x7f\ufffd\ufffe\U0010ffff",
    "a" * 1000,
    "=" * 1000,
)
"""White space, contractions, digits, characters of every width, control characters and very long words."""


def verify_edge_cases(encoder: Encoder) -> None:
    """Compare the encoder with the reference on `HARD_TEXTS`.

    Raises:
        DataError: one of them is encoded differently.
    """
    encoded = encoder.encode_batch(EDGE_CASE_TEXTS)
    encoder.verify_against_reference(
        EDGE_CASE_TEXTS,
        [encoded[i] for i in range(len(encoded))],
        [repr(text[:40]) for text in EDGE_CASE_TEXTS],
    )
