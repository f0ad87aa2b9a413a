"""What must hold while a corpus is prepared: each check is named for what it requires, and says what to do where it fails.

Design decision: how many bad records are tolerated decides whether a corpus may be used, and not one byte of it, so it is no
part of what the corpus is known by: raising it after hours costs none of the work. Therefore it is checked where a corpus is
made, and again where it is reused. What is not covered: the content, which is the validation room's question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import ConfigError, DataError
from components.data.config import LANGUAGES, Corpus
from components.data.sources.config import QuarantineConfig
from components.data.sources.partition_reader import QuarantinedRecord, check_bad_record_limit
from components.dataset.shards import TRAIN, Split
from components.tokenizer.config import TokenizerConfig
from components.tokenizer.encoder import Encoder


def require_encoder(folder: Path, config: TokenizerConfig) -> Encoder:
    """The tokenizer in a folder, known to be the one described.

    Raises:
        ConfigError: it is another one.
        DataError: there is none.
    """
    encoder = Encoder(folder)
    if (encoder.num_ids, encoder.eot_id) != (config.num_ids, config.eot_id):
        raise ConfigError(
            f"the tokenizer in {folder} has {encoder.num_ids:,} ids and ends texts with {encoder.eot_id}",
            expected=f"{config.num_ids:,} ids and {config.eot_id}, for {config.num_merges:,} merges",
            fix="prepare with the tokenizer that was built from the same recipe",
        )
    return encoder


def require_records(scattered: Sequence[Mapping[str, Any]], quarantine: QuarantineConfig) -> None:
    """Check how many records could not be read, by what the first round says of each partition.

    Raises:
        RecordError: more than tolerated; quotes some.
    """
    num_bad, num_skipped = (
        sum(sum(one[kind].values()) for one in scattered) for kind in ("bad", "skipped")
    )
    num_read = num_bad + num_skipped + sum(one.get("documents", 0) for one in scattered)
    examples = [
        QuarantinedRecord(**example) for one in scattered for example in one["bad_examples"]
    ]
    check_bad_record_limit(num_bad, num_read, examples, quarantine)


def check_bad_records_of_reused_corpus(
    statistics: Mapping[str, Any], quarantine: QuarantineConfig
) -> None:
    """The same of a corpus that is reused: it may have been prepared where more was tolerated.

    Args:
        statistics: of the prepared corpus.
        quarantine: what is tolerated now.

    Raises:
        RecordError: more records than that could not be read.
    """
    num_bad, num_skipped = (sum(statistics[kind].values()) for kind in ("bad", "skipped"))
    num_documents = sum(one["raw_documents"] for one in statistics["languages"].values())
    check_bad_record_limit(num_bad, num_bad + num_skipped + num_documents, [], quarantine)


def require_documents(corpus: Corpus, languages: Mapping[str, Any]) -> None:
    """Check that every language has documents to learn from.

    Raises:
        DataError: one has none.
    """
    for language in LANGUAGES[corpus]:
        counts = languages[language]
        if not counts["documents"]:
            raise DataError(
                f"{corpus} holds no {language} document to learn from ({sum(counts['rejected'].values()):,} were rejected)",
                expected=f"documents in each of {', '.join(LANGUAGES[corpus])} that pass the filters",
                fix="fetch the raw corpora with `codegen data pull`, or loosen the filters of the recipe",
            )


def require_sequences(corpus: Corpus, splits: Mapping[str, Split], context_length: int) -> None:
    """Check that every split has a sequence.

    Raises:
        DataError: one has too little text.
    """
    for name, split in splits.items():
        if not split.num_sequences:
            raise DataError(
                f"{name} of the {corpus} corpus has too little text for one sequence",
                expected=f"at least {context_length:,} tokens in each split",
                fix="use more data, a shorter context_length"
                + ("" if name == TRAIN else " or a larger held_out_fraction"),
            )
