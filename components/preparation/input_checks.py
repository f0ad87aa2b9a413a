"""Checks of the inputs and intermediate results of a preparation.

The tolerated share of quarantined records changes no byte of a corpus, so it is not part of the
recipe hash: raising it after a failed run repeats no work. It is checked when a corpus is prepared
and again when it is reused. The validation package checks the content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import ConfigError, DataError
from components.data.sources.config import QuarantineConfig
from components.data.sources.quarantine import (
    QuarantinedRecord,
    check_quarantine_limit,
    require_readable_records,
)
from components.dataset.shards import TRAIN, Split
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder


def load_encoder(folder: Path, config: TokenizerConfig) -> Encoder:
    """Load a tokenizer; raises ConfigError if it does not match its configuration."""
    encoder = Encoder(folder)
    if (encoder.num_ids, encoder.eot_id) != (config.num_ids, config.eot_id):
        raise ConfigError(
            f"{folder} has a tokenizer with {encoder.num_ids:,} ids and separator {encoder.eot_id}",
            expected=f"{config.num_ids:,} ids and separator {config.eot_id} "
            f"({config.num_merges:,} merges)",
            fix="prepare with the tokenizer that was built from the same recipe",
        )
    return encoder


def check_readable_records(corpus: str, tokenized: Sequence[Mapping[str, Any]]) -> None:
    """Raise RecordError, with an example, if the tokenize stage read no document."""
    quarantined, skipped = Counter[str](), Counter[str]()
    for result in tokenized:
        quarantined.update(result["quarantined"])
        skipped.update(result["skipped"])
    num_documents = sum(result.get("documents", 0) for result in tokenized)
    examples = _examples(tokenized)
    require_readable_records(corpus, num_documents, quarantined, skipped, examples)


def check_quarantine(tokenized: Sequence[Mapping[str, Any]], quarantine: QuarantineConfig) -> None:
    """Raise RecordError, with examples, if the tokenize stage met too many quarantined records."""
    num_quarantined = sum(sum(result["quarantined"].values()) for result in tokenized)
    num_skipped = sum(sum(result["skipped"].values()) for result in tokenized)
    num_documents = sum(result.get("documents", 0) for result in tokenized)
    num_records = num_quarantined + num_skipped + num_documents
    check_quarantine_limit(num_quarantined, num_records, _examples(tokenized), quarantine)


def _examples(tokenized: Sequence[Mapping[str, Any]]) -> list[QuarantinedRecord]:
    return [
        QuarantinedRecord(**example)
        for result in tokenized
        for example in result["quarantined_examples"]
    ]


def check_quarantine_of_reused_corpus(
    statistics: Mapping[str, Any], quarantine: QuarantineConfig
) -> None:
    """Raise RecordError if a reused corpus has too many quarantined records for the current limit.

    Args:
        statistics: of the packed corpus.
        quarantine: the limit, which may be lower than when the corpus was prepared.
    """
    num_quarantined = sum(statistics["quarantined"].values())
    num_skipped = sum(statistics["skipped"].values())
    num_documents = sum(counts["raw_documents"] for counts in statistics["languages"].values())
    check_quarantine_limit(
        num_quarantined, num_quarantined + num_skipped + num_documents, [], quarantine
    )


def require_documents(corpus: str, languages: Mapping[str, Any]) -> None:
    """Raise DataError if a language has no accepted document; `languages` has its counts."""
    for language, counts in languages.items():
        if not counts["documents"]:
            rejected = {name: number for name, number in counts["rejected"].items() if number}
            reasons = "".join(f"; {name}: {number:,}" for name, number in rejected.items())
            raise DataError(
                f"{corpus} has no accepted {language} document ({sum(rejected.values()):,} were "
                f"rejected{reasons})",
                expected=f"accepted documents in each of {', '.join(languages)}",
                fix=f"change the rules or the sources of data.corpora.{corpus}; for a corpus of "
                "the preset, fetch the raw corpora with `codegen data pull`",
            )


def require_sequences(corpus: str, splits: Mapping[str, Split], context_length: int) -> None:
    """Raise DataError if a split has no full sequence."""
    for name, split in splits.items():
        if not split.num_sequences:
            fix = "use more data, or a shorter context_length"
            raise DataError(
                f"{name} of the {corpus} corpus has too few tokens for one sequence",
                expected=f"at least {context_length:,} tokens in each split",
                fix=fix if name == TRAIN else f"{fix}, or a larger held_out_fraction",
            )
