"""Proof, in every run, that the fast encoder gives the ids of the reference, on a sample of what is really written.

The sample is the first documents of each language in training order, which is a random order, plus strings that are known to
be hard for byte-pair encoders. It compares the very ids that go into the shards, and the first difference stops the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from components.tokenizer.config import END_OF_TEXT
from components.tokenizer.encoder import Encoder, Ragged

SAMPLE_BYTES = 150_000
"""Text of each language that is encoded twice, at least (assumption: enough to meet each kind of token many times). The
reference encodes 1 to 2 MB/s on two cores (measured), so this costs about 0.1 s for each language."""

HARD_TEXTS = (
    END_OF_TEXT,
    f"a{END_OF_TEXT}{END_OF_TEXT} b",
    *(f"x{' ' * length}y{chr(9) * length}z" for length in (1, 2, 3, 9, 10, 31, 32, 33, 62, 63, 100)),
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


class Proof:
    """Compares a sample, and counts what was compared."""

    def __init__(self, encoder: Encoder) -> None:
        """Begins with the hard texts.

        Raises:
            DataError: one of them is encoded differently.
        """
        self._encoder = encoder
        self._sampled_bytes: Counter[str] = Counter()
        self.num_documents = self.num_tokens = 0
        encoded = encoder.encode_batch(HARD_TEXTS)
        encoder.prove(HARD_TEXTS, [encoded[i] for i in range(len(encoded))], [repr(text[:40]) for text in HARD_TEXTS])

    def check(self, languages: Sequence[str], names: Sequence[str], texts: Sequence[str], encoded: Ragged) -> None:
        """Compare those of the next documents that belong to the sample: the first of each language, until they are enough.

        Raises:
            DataError: a document is encoded differently; names it.
        """
        chosen = []
        for index, language in enumerate(languages):
            if self._sampled_bytes[language] < SAMPLE_BYTES:
                self._sampled_bytes[language] += len(texts[index].encode())
                chosen.append(index)
        self._encoder.prove([texts[i] for i in chosen], [encoded[i] for i in chosen], [names[i] for i in chosen])
        self.num_documents += len(chosen)
        self.num_tokens += sum(len(encoded[i]) for i in chosen)
