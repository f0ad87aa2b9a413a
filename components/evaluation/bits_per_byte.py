"""Bits per byte: how well a model predicts text, comparable between tokenizers because it is counted per byte.

The exact definition: over all predicted tokens, the sum of `-log2 p(token | tokens before it)`, divided by the sum of the
tokens' lengths in UTF-8 bytes. p is the softmax over all rows of the head, the padding rows included, as in training. The
end-of-text is predicted like any token and its bits count, but it stands for no byte of text. In packed windows the first
token of each is not predicted, so neither its bits nor its bytes count; documents in a window are not masked from each
other, as in training.

Shapes: B sequences, T tokens of a sequence, N predicted tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from components.core.errors import EvaluationError
from components.core.progress import track
from components.dataset.config import StreamingCacheConfig
from components.dataset.reader import PackedSplit
from components.dataset.shards import HELD_OUT_PREFIX, Index
from components.model.loss import token_losses
from components.model.transformer import CodeGen
from components.tokenizer.encoder import Encoder

_BATCH_TOKENS = 4096
"""Tokens scored at once; more are no faster on a CPU and take more memory."""


class Score(NamedTuple):
    """What predicting some tokens cost."""

    nats: float = 0.0
    num_bytes: int = 0
    num_tokens: int = 0

    def plus(self, other: Score) -> Score:
        """The cost of predicting both."""
        return Score(
            self.nats + other.nats,
            self.num_bytes + other.num_bytes,
            self.num_tokens + other.num_tokens,
        )

    def as_record(self) -> dict[str, float | int]:
        """`bits_per_byte`, `num_bytes` and `num_tokens`.

        Raises:
            EvaluationError: no byte was predicted, or the model's probabilities are not numbers.
        """
        if self.num_bytes == 0 or not math.isfinite(self.nats):
            raise EvaluationError(
                f"{self.num_bytes:,} bytes of text cost {self.nats} nats",
                expected="some bytes, and a finite cost",
                fix="check that the held-out split has text, and that the loss of the training did not diverge",
            )
        bits_per_byte = self.nats / math.log(2) / self.num_bytes
        return {
            "bits_per_byte": bits_per_byte,
            "num_bytes": self.num_bytes,
            "num_tokens": self.num_tokens,
        }


def evaluate_held_out(
    model: CodeGen,
    encoder: Encoder,
    prepared: Mapping[str, str | Path],
    max_sequences: int,
    streaming: StreamingCacheConfig | None = None,
) -> dict[str, dict[str, float | int]]:
    """Bits per byte on every held-out split of some prepared corpora.

    Args:
        model, encoder: of one checkpoint.
        prepared: the folder of each prepared corpus, or its URI, by the corpus' name.
        max_sequences: per split; where there are more, as many as this, evenly spaced.
        streaming: the cache for what is given by a URI.

    Returns:
        `{"nl/English": {"bits_per_byte", "num_bytes", "num_tokens"}, "multi/C": ...}`.

    Raises:
        ArtifactError: a corpus is damaged.
        EvaluationError: a corpus was prepared with another tokenizer or for a longer context.
    """
    splits = {}
    for corpus, folder in prepared.items():
        index = PackedSplit(folder, streaming=streaming).index
        _require_fit(index, model, encoder)
        for name in sorted(index.splits):
            if name.startswith(HELD_OUT_PREFIX):
                splits[f"{corpus}/{name.removeprefix(HELD_OUT_PREFIX)}"] = PackedSplit(
                    folder, name, streaming=streaming
                )
    results = {}
    with track("score held-out text", len(splits), "splits") as advance:
        for name, split in splits.items():
            score = score_sequences(
                model, split, split.evenly_spaced(max_sequences), encoder.token_num_bytes
            )
            results[name] = score.as_record()
            advance(1, name)
    return results


def score_sequences(
    model: CodeGen,
    split: PackedSplit,
    indices: npt.NDArray[np.int64],
    token_num_bytes: npt.NDArray[np.int64],
) -> Score:
    """The cost of all but the first token of these sequences of a split."""
    batch_size = max(1, _BATCH_TOKENS // split.context_length)
    scores = (
        _score(model, split.batch(indices[start : start + batch_size]), 1, token_num_bytes)
        for start in range(0, len(indices), batch_size)
    )
    return _total(scores)


def bits_per_byte_of_texts(
    model: CodeGen, encoder: Encoder, prompts: Sequence[str], completions: Sequence[str]
) -> dict[str, float | int]:
    """Bits per byte of completions, each given its prompt, which costs nothing and counts no bytes.

    Prompt and completion are encoded apart, as they are when a completion is drawn. Where both together are longer than the
    context, the earliest tokens are left out, and a completion is scored in windows that leave each token at least half
    a context of tokens before it, as far as there are that many.

    Returns:
        `bits_per_byte`, `num_bytes` and `num_tokens` over all completions together.

    Raises:
        EvaluationError: the completions have no bytes, or the model's probabilities are not numbers.
    """
    scores = []
    with track("score reference solutions", len(prompts), "texts") as advance:
        for prompt, completion in zip(prompts, completions, strict=True):
            encoded = (encoder.encode(prompt), encoder.encode(completion))
            scores.append(_score_completion(model, *encoded, encoder.token_num_bytes))
            advance(1)
    return _total(scores).as_record()


def _score_completion(
    model: CodeGen, prompt: list[int], completion: list[int], token_num_bytes: npt.NDArray[np.int64]
) -> Score:
    tokens, context_length = np.array(prompt + completion), model.config.context_length
    total, start = Score(), max(1, len(prompt))
    while start < len(tokens):
        end = min(len(tokens), max(context_length, start + context_length // 2))
        first = max(0, end - context_length)
        total = total.plus(_score(model, tokens[None, first:end], start - first, token_num_bytes))
        start = end
    return total


@torch.inference_mode()
def _score(
    model: CodeGen,
    tokens_BT: npt.NDArray[np.integer],
    start: int,
    token_num_bytes: npt.NDArray[np.int64],
) -> Score:
    """The cost of the tokens from `start` (at least 1) on, given those before."""
    tokens = torch.from_numpy(tokens_BT.astype(np.int64))
    hidden_ND = model.hidden(tokens[:, :-1])[:, start - 1 :].flatten(0, 1)
    losses_N = token_losses(
        hidden_ND, model.head.weight, model.head.bias, tokens[:, start:].flatten()
    )
    predicted = tokens_BT[:, start:]
    return Score(
        float(losses_N.double().sum()), int(token_num_bytes[predicted].sum()), predicted.size
    )


def _total(scores: Iterable[Score]) -> Score:
    total = Score()
    for score in scores:
        total = total.plus(score)
    return total


def _require_fit(index: Index, model: CodeGen, encoder: Encoder) -> None:
    most_tokens = model.config.context_length
    if (index.num_ids, index.eot_id) != (
        encoder.num_ids,
        encoder.eot_id,
    ) or index.context_length > most_tokens:
        raise EvaluationError(
            f"corpus {index.corpus} has {index.num_ids:,} token ids, end-of-text {index.eot_id:,} and sequences of "
            f"{index.context_length:,} tokens",
            expected=f"the checkpoint's {encoder.num_ids:,}, {encoder.eot_id:,} and at most {most_tokens:,}",
            fix="evaluate on corpora that were prepared with the checkpoint's tokenizer and context",
        )
