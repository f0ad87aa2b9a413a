"""Rates of decontamination, redaction and near-duplicate signatures in batches of 500 documents.

    python tests/benchmarks/cleaning.py [--runs 3]

Needs `data/` (`codegen data pull`). Prints the median and range of MB/s of processor time, on one
core, for the mono corpus.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.raw_corpora import read_corpus

from components.data.filters.decontamination import (
    BenchmarkText,
    DecontaminationConfig,
    Decontaminator,
)
from components.data.filters.minhash import NearDuplicateConfig, compute_signatures
from components.data.filters.redaction import RedactionConfig, redact
from components.evaluation.benchmarks.humaneval import load_humaneval

BATCH_DOCUMENTS = 500
"""Documents in a batch of the preparation, about 5 MB."""


def steps() -> dict[str, Callable[[pa.LargeStringArray], object]]:
    """Return the measured functions by name."""
    problems = [
        BenchmarkText(
            benchmark="humaneval",
            problem=problem.task_id,
            text=problem.prompt + problem.canonical_solution,
        )
        for problem in load_humaneval()
    ]
    decontaminator = Decontaminator(problems, DecontaminationConfig())
    redaction, near = RedactionConfig(enabled=True), NearDuplicateConfig(enabled=True)
    return {
        "decontamination": decontaminator.find,
        "redaction": lambda texts: redact(texts, redaction),
        "signatures": lambda texts: compute_signatures(texts, near),
    }


def main() -> None:
    """Print the rate of each function."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    texts = read_corpus(Path("data/mono"))["text"].combine_chunks().cast(pa.large_string())
    batches = [
        texts[start : start + BATCH_DOCUMENTS] for start in range(0, len(texts), BATCH_DOCUMENTS)
    ]
    size = sum(len(text.as_buffer()) for text in texts)
    for name, step in steps().items():
        step(batches[0])  # Redaction compiles its rules at its first call.
        rates = []
        for _ in range(runs):
            started = time.process_time()
            for batch in batches:
                step(batch)
            rates.append(size / 1e6 / (time.process_time() - started))
        print(
            f"{name:<16} {statistics.median(rates):7.1f} MB/s  ({min(rates):.1f} .. "
            f"{max(rates):.1f})"
        )


if __name__ == "__main__":
    main()
