"""Bits per byte: how well a model predicts text.

Counted per byte, so models with different tokenizers compare.

Definition: the sum of `-log2 p(token | tokens before it)` over all predicted tokens, divided by the
sum of the tokens' lengths in UTF-8 bytes. p is the softmax over all rows of the head, including
padding rows, as in training. The end-of-text token is predicted and its bits count, but it has no
bytes. In packed sequences the first token is not predicted, so neither its bits nor its bytes
count; documents in a sequence are not masked from each other, as in training.

The evaluation covers all held-out splits and HumanEval's canonical solutions.

Shapes: B sequences, T tokens of a sequence, N predicted tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from components.core.errors import EvaluationError
from components.core.files import write_json
from components.core.fingerprint import fingerprint
from components.core.progress import track
from components.dataset.config import StreamingCacheConfig
from components.dataset.reader import PackedSplit
from components.dataset.shards import HELD_OUT_PREFIX, Index
from components.evaluation.benchmarks.humaneval import load_humaneval
from components.evaluation.config import HUMANEVAL_SHA256
from components.evaluation.text_scorer import TextScorer, TokenBatch, open_scorer
from components.model.config import Dtype
from components.tokenizer.encoder import Encoder

CODE_VERSION = 1

CANONICAL_SOLUTIONS = "humaneval/canonical"
"""HumanEval's 164 canonical solutions, each given its prompt."""
_BATCH_TOKENS = 4096
"""Tokens scored at once; more are not faster on a CPU and take more memory."""


class TextScore(NamedTuple):
    """Negative log likelihood of some tokens, with their number and size."""

    nats: float = 0.0
    num_bytes: int = 0
    num_tokens: int = 0

    def plus(self, other: TextScore) -> TextScore:
        """Return the score of both texts."""
        return TextScore(
            self.nats + other.nats,
            self.num_bytes + other.num_bytes,
            self.num_tokens + other.num_tokens,
        )

    def as_record(self) -> dict[str, float | int]:
        """Return `bits_per_byte`, `num_bytes` and `num_tokens`.

        Raises:
            EvaluationError: no byte was predicted, or the likelihood is not finite.
        """
        if self.num_bytes == 0 or not math.isfinite(self.nats):
            raise EvaluationError(
                f"{self.num_bytes:,} bytes of text with a log likelihood of {-self.nats} nats",
                expected="at least one byte, and a finite log likelihood",
                fix="check that the held-out split has text, and that the training loss did not "
                "diverge",
            )
        return {
            "bits_per_byte": self.nats / math.log(2) / self.num_bytes,
            "num_bytes": self.num_bytes,
            "num_tokens": self.num_tokens,
        }


def run_bits_per_byte(
    folder: Path,
    *,
    checkpoint: Path,
    prepared: Mapping[str, str | Path],
    max_sequences: int,
    devices: Sequence[str] = ("cpu",),
    precision: Dtype = Dtype.fp32,
    streaming: StreamingCacheConfig | None = None,
) -> dict[str, JsonValue]:
    """Write `results.json` with the bits per byte of every split, and return statistics.

    Args:
        folder: of the artifact.
        checkpoint: a folder in Hugging Face format with its tokenizer.
        prepared: the folder or URI of each prepared corpus, by the corpus' name.
        max_sequences: most sequences per held-out split.
        devices: PyTorch devices that share the sequences; see `scoring_devices`.
        precision: of weights and products.
        streaming: the cache for URIs.

    Returns:
        Statistics: `protocol`, and bits per byte by corpus and language,
            `{"mono": {"Python": 2.1}, ...}`.

    Raises:
        ArtifactError, DataError, EvaluationError: an input is damaged, or does not fit the others.
    """
    started = time.monotonic()
    encoder = Encoder(checkpoint)
    problems = load_humaneval()
    prompts = [problem.prompt for problem in problems]
    solutions = [problem.canonical_solution for problem in problems]
    with open_scorer(checkpoint, devices, precision) as scorer:
        splits = evaluate_held_out(scorer, encoder, prepared, max_sequences, streaming)
        splits[CANONICAL_SOLUTIONS] = bits_per_byte_of_texts(scorer, encoder, prompts, solutions)
    settings: dict[str, JsonValue] = {
        "code_version": CODE_VERSION,
        "max_sequences": max_sequences,
        "precision": precision,
        "problems_sha256": HUMANEVAL_SHA256,
    }
    write_json(folder / "results.json", {"protocol_settings": settings, "splits": splits})
    timings = {"evaluation_s": time.monotonic() - started, "devices": list(devices)}
    write_json(folder / "observed" / "timings.json", timings)
    by_corpus: dict[str, dict[str, JsonValue]] = {}
    for name, record in splits.items():
        corpus, _, language = name.partition("/")
        by_corpus.setdefault(corpus, {})[language] = record["bits_per_byte"]
    return {"protocol": fingerprint(settings), **by_corpus}


def evaluate_held_out(
    scorer: TextScorer,
    encoder: Encoder,
    prepared: Mapping[str, str | Path],
    max_sequences: int,
    streaming: StreamingCacheConfig | None = None,
) -> dict[str, dict[str, float | int]]:
    """Return bits per byte on every held-out split of the prepared corpora.

    Args:
        scorer, encoder: of the same checkpoint.
        prepared: the folder or URI of each prepared corpus, by the corpus' name.
        max_sequences: per split; a longer split is sampled at equal distances.
        streaming: the cache for URIs.

    Returns:
        `{"nl/English": {"bits_per_byte", "num_bytes", "num_tokens"}, "multi/C": ...}`.

    Raises:
        ArtifactError: a corpus is damaged.
        EvaluationError: a corpus was prepared with another tokenizer or for a longer context.
    """
    splits = {}
    for corpus, folder in prepared.items():
        index = PackedSplit(folder, streaming=streaming).index
        _require_compatible(index, scorer.context_length, encoder)
        for name in sorted(index.splits):
            if name.startswith(HELD_OUT_PREFIX):
                language = name.removeprefix(HELD_OUT_PREFIX)
                splits[f"{corpus}/{language}"] = PackedSplit(folder, name, streaming=streaming)
    results = {}
    with track("score held-out text", len(splits), "splits") as advance:
        for name, split in splits.items():
            batches = _batches(split, split.evenly_spaced(max_sequences))
            results[name] = _total(_scores(scorer, batches, encoder)).as_record()
            advance(1, name)
    return results


def _batches(split: PackedSplit, indices: npt.NDArray[np.int64]) -> list[TokenBatch]:
    """Return these sequences of a split, to be scored from their second token on."""
    batch_size = max(1, _BATCH_TOKENS // split.context_length)
    return [
        TokenBatch(split.batch(indices[start : start + batch_size]), 1)
        for start in range(0, len(indices), batch_size)
    ]


def bits_per_byte_of_texts(
    scorer: TextScorer, encoder: Encoder, prompts: Sequence[str], completions: Sequence[str]
) -> dict[str, float | int]:
    """Return bits per byte of completions given their prompts; prompts are not scored.

    Prompt and completion are encoded separately, as in generation. If both exceed the context, the
    earliest tokens are dropped, and a completion is scored in windows that give each token at least
    half a context of previous tokens, if there are as many.

    Returns:
        `bits_per_byte`, `num_bytes` and `num_tokens` over all completions together.

    Raises:
        EvaluationError: the completions have no bytes, or the likelihood is not finite.
    """
    windows_by_text = [
        _windows(encoder.encode(prompt), encoder.encode(completion), scorer.context_length)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    scores = _scores(scorer, list(chain.from_iterable(windows_by_text)), encoder)
    totals = []
    with track("score reference solutions", len(prompts), "texts") as advance:
        for windows in windows_by_text:
            totals.append(_total(islice(scores, len(windows))))
            advance(1)
    return _total(totals).as_record()


def _windows(prompt: list[int], completion: list[int], context_length: int) -> list[TokenBatch]:
    tokens = np.array(prompt + completion)
    windows = []
    start = max(1, len(prompt))
    while start < len(tokens):
        end = min(len(tokens), max(context_length, start + context_length // 2))
        first = max(0, end - context_length)
        windows.append(TokenBatch(tokens[None, first:end], start - first))
        start = end
    return windows


def _scores(scorer: TextScorer, batches: list[TokenBatch], encoder: Encoder) -> Iterator[TextScore]:
    """Yield the score of each batch, in order."""
    for batch, nats in zip(batches, scorer.nats(batches), strict=True):
        predicted = batch.tokens[:, batch.start :]
        yield TextScore(nats, int(encoder.token_num_bytes[predicted].sum()), predicted.size)


def _total(scores: Iterable[TextScore]) -> TextScore:
    total = TextScore()
    for score in scores:
        total = total.plus(score)
    return total


def _require_compatible(index: Index, max_tokens: int, encoder: Encoder) -> None:
    same_tokens = (index.num_ids, index.eot_id) == (encoder.num_ids, encoder.eot_id)
    if not same_tokens or index.context_length > max_tokens:
        raise EvaluationError(
            f"corpus {index.corpus} has {index.num_ids:,} token ids, end-of-text {index.eot_id:,} "
            f"and sequences of {index.context_length:,} tokens",
            expected=f"the checkpoint's {encoder.num_ids:,}, {encoder.eot_id:,} and at most "
            f"{max_tokens:,}",
            fix="evaluate on corpora that were prepared with the checkpoint's tokenizer and "
            "context",
        )
