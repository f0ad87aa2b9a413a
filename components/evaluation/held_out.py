"""The evaluation "bits per byte" of a checkpoint: on all held-out splits and on HumanEval's canonical solutions.

Covers filling the artifact's folder; the measure itself is `bits_per_byte`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from components.core.files import write_json
from components.core.fingerprint import fingerprint
from components.dataset.config import StreamingCacheConfig
from components.evaluation.benchmarks.problems import HUMANEVAL_SHA256, load_humaneval
from components.tokenizer.encoder import Encoder

CODE_VERSION = 1

CANONICAL = "humaneval/canonical"
"""HumanEval's 164 reference solutions, each given its prompt."""


def run_bits_per_byte(
    folder: Path,
    *,
    checkpoint: Path,
    prepared: Mapping[str, str | Path],
    max_sequences: int,
    streaming: StreamingCacheConfig | None = None,
) -> dict[str, JsonValue]:
    """Write `results.json`, `{"splits": {"nl/English": {"bits_per_byte", "num_bytes", "num_tokens"}, ...}}`.

    Args:
        folder: the artifact's.
        checkpoint: a folder in Hugging Face's format with its tokenizer.
        prepared: the folder of each prepared corpus, or its URI, by the corpus' name.
        max_sequences: sequences per held-out split at most.
        streaming: the cache for what is given by a URI.

    Returns:
        Statistics: `protocol`, and bits per byte under corpus and language, `{"mono": {"Python": 2.1}, ...}`.

    Raises:
        ArtifactError, DataError, EvaluationError: an input is damaged, or does not fit the others.
    """
    # PyTorch with them, which whoever reuses an evaluation does without.
    from components.evaluation.bits_per_byte import bits_per_byte_of_texts, evaluate_held_out
    from components.model.huggingface import load_checkpoint

    started = time.monotonic()
    model, encoder = load_checkpoint(checkpoint).eval(), Encoder(checkpoint)
    splits = evaluate_held_out(model, encoder, prepared, max_sequences, streaming)
    problems = load_humaneval()
    prompts, solutions = zip(
        *((problem.prompt, problem.canonical_solution) for problem in problems), strict=True
    )
    splits[CANONICAL] = bits_per_byte_of_texts(model, encoder, prompts, solutions)
    settings = {
        "code_version": CODE_VERSION,
        "max_sequences": max_sequences,
        "problems_sha256": HUMANEVAL_SHA256,
    }
    write_json(folder / "results.json", {"protocol_settings": settings, "splits": splits})
    write_json(folder / "observed" / "timings.json", {"evaluation_s": time.monotonic() - started})
    return {"protocol": fingerprint(settings), **_by_corpus(splits)}


def _by_corpus(splits: Mapping[str, Mapping[str, float | int]]) -> dict[str, JsonValue]:
    nested: dict[str, dict[str, JsonValue]] = {}
    for name, record in splits.items():
        corpus, _, language = name.partition("/")
        nested.setdefault(corpus, {})[language] = record["bits_per_byte"]
    return dict(nested)
