"""`codegen data estimate`: what a recipe's corpora will come to, before the work starts.

Needs the raw corpora and GPT-2's vocabulary, and no finished preparation; the tokenizer is the store's, or is built as
`prepare` builds it and reused there. What is not covered: how the figures are found (`components.preparation.estimate`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.filesize import decimal

from components.core.artifact import Artifact
from components.core.errors import ConfigError
from components.data.config import CORPORA, Corpus
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import benchmarks, require_preset, tokenizer_identity

if TYPE_CHECKING:  # It would import numpy and Arrow.
    from components.preparation.estimate import Estimate, Interval


def estimate(
    recipe: Recipe, execution: Execution, corpus: str | None, sample_mb: int
) -> Iterator[tuple[Corpus, Estimate]]:
    """The estimate of one corpus of a recipe, or of all of them, one after the other.

    Raises:
        ConfigError: there is no such corpus, or the sample is nothing.
        DataError: `data/` is absent or of another preset, a source cannot be read, or nothing of it is kept.
    """
    if corpus is not None and corpus not in CORPORA:
        raise ConfigError(
            f"there is no corpus {corpus!r}",
            expected=f"one of {', '.join(CORPORA)}",
            fix="choose one of these, or none for all",
        )
    if sample_mb < 1:
        raise ConfigError(
            f"--sample-mb is {sample_mb}",
            expected="at least 1, in MB of text for each corpus",
            fix="leave it out, or give a larger one",
        )
    from components.data.raw_corpus import corpus_sources, load_raw_artifacts
    from components.preparation.estimate import estimate_corpus

    chosen = [one for one in CORPORA if corpus in (None, one)]
    raw = load_raw_artifacts(execution.project_path)
    if set(chosen) - set(recipe.data.sources or {}):
        require_preset(recipe, raw)
    store = execution.open_store()
    tokenizer = _tokenizer(recipe, execution, raw["vocabulary"])
    avoided = benchmarks(recipe, execution).texts
    for one in chosen:
        with TemporaryDirectory(prefix="estimate-", dir=execution.workspace_path) as folder:
            yield (
                one,
                estimate_corpus(
                    Path(folder),
                    sources=corpus_sources(recipe.data, one, execution.project_path),
                    corpus=one,
                    data=recipe.data,
                    tokenizer_folder=store.fetch_verified(tokenizer),
                    tokenizer=recipe.tokenizer,
                    context_length=recipe.model.context_length,
                    seed=recipe.seed,
                    execution=execution.data,
                    benchmarks=avoided,
                    sample_bytes=sample_mb * 1_000_000,
                ),
            )


def format_estimate(
    corpus: Corpus, found: Estimate, recipe: Recipe, execution: Execution
) -> list[str]:
    """The lines that say it."""
    documents, context = found.num_documents.value, recipe.model.context_length
    rejects = [
        f"{reason} {number / max(1, documents):.2%}" for reason, number in found.rejected.items()
    ]
    rejected = sum(found.rejected.values()) / max(1, documents)
    speed = f"{found.bytes_per_s / 1e6:,.1f} MB/s with {_counted(found.num_workers, 'worker')}"
    return [
        f"{corpus}: {_counted(found.num_files, 'file')}, {decimal(found.stored_bytes)} as stored; {_sampled(found)}",
        f"  documents  {documents:,}{_range(found.num_documents, found)}",
        f"  raw text   {decimal(found.raw_bytes)}",
        f"  rejected   {rejected:.2%} of the documents{': ' if rejects else ''}{', '.join(rejects)}",
        *_unreadable(found, recipe),
        f"  tokens     {found.num_tokens.value:,}{_range(found.num_tokens, found)}",
        f"  sequences  {found.num_train_sequences:,} of {context:,} tokens to train on, {found.num_held_out_sequences:,} held out",
        f"  disk       {decimal(found.shard_bytes)} of shards, {decimal(found.work_bytes)} at most while working"
        f"{_room(found, execution)}",
        f"  time       {_time(found.duration_s)} at {speed}, as measured here just now; validation comes on top",
        f"  training   {_consumed(corpus, found, recipe)}",
    ]


def notes(recipe: Recipe, is_whole: bool) -> list[str]:
    """What has to be known to read the lines."""
    across = recipe.data.dedup_across_corpora
    return [
        *([] if is_whole else [_OF_SAMPLES]),
        *(
            ["Documents of earlier corpora are not looked for, though the recipe leaves them out."]
            if across
            else []
        ),
    ]


_OF_SAMPLES = (
    "Samples are the beginnings of files, since a compressed file can only be read from its start: what changes towards the "
    "end of files is not seen. Of duplicates those are counted whose copies are both in the sample: there may be more of "
    "them, and so fewer tokens. A range holds nine tenths of the results when what was not read is taken to be like files "
    "drawn anew."
)


def _tokenizer(recipe: Recipe, execution: Execution, vocabulary: Artifact) -> Artifact:
    from components.tokenizer.vocabulary import build_tokenizer

    ranks = Path(vocabulary.address) / "gpt2.tiktoken"
    built = execution.open_store().get_or_build(
        **tokenizer_identity(recipe, vocabulary)._asdict(),
        build=lambda folder: build_tokenizer(ranks, recipe.tokenizer, folder),
    )
    return built.artifact


def _sampled(found: Estimate) -> str:
    if found.is_complete:
        return "all of it was read: these are the figures, but for the time"
    return f"read {decimal(found.sample_bytes)} of text from the beginnings of {_counted(found.num_sampled_files, 'file')}"


def _range(figure: Interval, found: Estimate) -> str:
    if figure.low < figure.high:
        return f" ({figure.low:,} to {figure.high:,})"
    return "" if found.is_complete else " (no range: it takes two files)"


def _unreadable(found: Estimate, recipe: Recipe) -> list[str]:
    if not found.num_bad:
        return []
    share, most = (
        found.num_bad / (found.num_bad + found.num_documents.value),
        recipe.data.quarantine.max_bad_fraction,
    )
    stops = f"; preparation stops above {most:.2%}" if share > most else ""
    return [f"  unreadable {found.num_bad:,} records, {share:.2%}{stops}"]


def _room(found: Estimate, execution: Execution) -> str:
    free = shutil.disk_usage(execution.workspace_path).free
    return (
        f"; only {decimal(free)} are free at {execution.workspace_path}"
        if free < found.work_bytes
        else ""
    )


def _consumed(corpus: Corpus, found: Estimate, recipe: Recipe) -> str:
    stage = getattr(recipe.training.stages, corpus)
    reads = stage.steps * stage.global_batch_tokens
    times = reads / max(1, found.num_train_tokens)
    often = f"each of them {times:,.1f} times" if times >= 1 else f"{times:.1%} of them"
    return f"the stage {corpus} reads {reads:,} tokens, of {found.num_train_tokens:,} to train on: {often}"


def _time(duration_s: float) -> str:
    return str(timedelta(seconds=max(1, round(duration_s))))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
