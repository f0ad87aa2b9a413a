"""Estimates of the prepared corpora of a recipe (`codegen data estimate`).

An estimate needs the raw corpora and GPT-2's vocabulary but no preparation. It builds the tokenizer
as `prepare` does, which then reuses it. The method is in `components.preparation.estimate`.
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
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import (
    load_benchmark_texts,
    load_preset,
    load_vocabulary,
    ranks_file,
    tokenizer_spec,
)

if TYPE_CHECKING:  # Imports numpy and Arrow.
    from components.preparation.estimate import Estimate, Interval

_SAMPLE_NOTE = (
    "Samples are read from the beginning of files, because compressed files can only be read from "
    "their start; changes towards the end are not seen. Only duplicates with both copies in the "
    "sample are counted, so the corpus may have more duplicates and fewer tokens. A range holds "
    "90 % of the results if unread files resemble the sampled files."
)
_CROSS_CORPUS_NOTE = (
    "Duplicates of documents in earlier corpora are not counted, although the recipe rejects them."
)


def estimate_corpora(
    recipe: Recipe, execution: Execution, corpus: str | None, sample_mb: int
) -> Iterator[tuple[str, Estimate]]:
    """Yield the estimate of one corpus, or of all corpora if `corpus` is None.

    Raises:
        ConfigError: there is no such corpus, it has no sources, or the sample is empty.
        DataError: `data/` is absent or has another preset, a source cannot be read, or all
            documents are rejected.
    """
    if corpus is not None and corpus not in recipe.data.corpora:
        raise ConfigError(
            f"there is no corpus {corpus!r}",
            expected=f"one of {', '.join(recipe.data.corpora)}",
            fix="choose one of these, or omit it for all corpora",
        )
    if sample_mb < 1:
        raise ConfigError(
            f"--sample-mb is {sample_mb}",
            expected="at least 1, in MB of text per corpus",
            fix="omit it, or increase it",
        )
    from components.data.raw_corpus import corpus_sources
    from components.preparation.estimate import estimate_corpus

    recipe.require_any_corpus()
    corpora = recipe.corpora if corpus is None else (corpus,)
    recipe.require_corpora(corpora)
    if set(corpora) & set(recipe.preset_corpora):
        load_preset(recipe, execution)
    tokenizer = _build_tokenizer(recipe, execution, load_vocabulary(execution))
    tokenizer_folder = execution.open_store().fetch_verified(tokenizer)
    benchmark_texts = load_benchmark_texts(recipe, execution)
    for name in corpora:
        with TemporaryDirectory(prefix="estimate-", dir=execution.workspace_path) as folder:
            estimate = estimate_corpus(
                Path(folder),
                sources=corpus_sources(recipe.data, name, execution.project_path),
                corpus=name,
                data=recipe.data,
                tokenizer_folder=tokenizer_folder,
                tokenizer=recipe.tokenizer,
                context_length=recipe.model.context_length,
                seed=recipe.seed,
                execution=execution.data,
                benchmarks=benchmark_texts,
                sample_bytes=sample_mb * 1_000_000,
            )
        yield name, estimate


def _build_tokenizer(recipe: Recipe, execution: Execution, vocabulary: Artifact) -> Artifact:
    from components.tokenizer.vocabulary import build_tokenizer

    ranks = ranks_file(vocabulary)
    result = execution.open_store().get_or_build(
        **tokenizer_spec(recipe, vocabulary)._asdict(),
        build=lambda folder: build_tokenizer(ranks, recipe.tokenizer, folder),
    )
    return result.artifact


def format_estimate(
    corpus: str, estimate: Estimate, recipe: Recipe, execution: Execution
) -> list[str]:
    """Return the lines of an estimate for the command line."""
    documents, context_length = estimate.num_documents, recipe.model.context_length
    rates = [
        f"{reason} {count / max(1, documents.value):.2%}"
        for reason, count in estimate.rejected.items()
    ]
    rejected = sum(estimate.rejected.values()) / max(1, documents.value)
    reasons = f": {', '.join(rates)}" if rates else ""
    sample = "all of it was read, so only the time is an estimate"
    if not estimate.is_complete:
        num_files = _count(estimate.num_sampled_files, "file")
        sample = f"read {decimal(estimate.sample_bytes)} of text from the beginning of {num_files}"
    duration = timedelta(seconds=max(1, round(estimate.duration_s)))
    num_workers = _count(estimate.num_workers, "worker")
    return [
        f"{corpus}: {_count(estimate.num_files, 'file')}, {decimal(estimate.stored_bytes)} stored; "
        f"{sample}",
        f"  documents  {documents.value:,}{_range(documents, estimate)}",
        f"  raw text   {decimal(estimate.raw_bytes)}",
        f"  rejected   {rejected:.2%} of the documents{reasons}",
        *_dropped_text(corpus, estimate, recipe),
        *_quarantined_records(estimate, recipe),
        f"  tokens     {estimate.num_tokens.value:,}{_range(estimate.num_tokens, estimate)}",
        f"  sequences  {estimate.num_train_sequences:,} of {context_length:,} tokens for training, "
        f"{estimate.num_held_out_sequences:,} held out",
        f"  disk       {decimal(estimate.shard_bytes)} of shards, "
        f"peak {decimal(estimate.work_bytes)}{_disk_warning(estimate, execution)}",
        f"  time       {duration} at {estimate.bytes_per_s / 1e6:,.1f} MB/s with {num_workers}, as "
        "measured now, plus validation",
        f"  training   {_epochs(corpus, estimate, recipe)}",
    ]


def estimate_notes(recipe: Recipe, is_whole: bool) -> list[str]:
    """Return notes that explain the estimates."""
    notes = []
    if not is_whole:
        notes.append(_SAMPLE_NOTE)
    if recipe.data.dedup_across_corpora:
        notes.append(_CROSS_CORPUS_NOTE)
    return notes


def _range(interval: Interval, estimate: Estimate) -> str:
    if interval.low < interval.high:
        return f" ({interval.low:,} to {interval.high:,})"
    return "" if estimate.is_complete else " (no range: it needs two files)"


def _dropped_text(corpus: str, estimate: Estimate, recipe: Recipe) -> list[str]:
    """Return a line for each step that would stop the validation of the prepared corpus.

    The limit applies to each language; if the corpus exceeds it, a language does.
    """
    from components.data.filters.quality import STEPS

    limits = recipe.data.corpora[corpus].max_dropped_share.model_dump()
    num_bytes = estimate.raw_bytes
    lines = []
    for step in STEPS:
        rejected = {reason: estimate.rejected_bytes.get(reason, 0) for reason in step.reasons}
        share = sum(rejected.values()) / max(1, num_bytes)
        if share > limits.get(step.setting, 1):
            reasons = [
                f"{reason} {size / num_bytes:.1%}" for reason, size in rejected.items() if size
            ]
            lines.append(
                f"  lost text  {share:.1%} by data.corpora.{corpus}.{step.setting} "
                f"({', '.join(reasons)}); validation stops above {limits[step.setting]:.1%} "
                f"(data.corpora.{corpus}.max_dropped_share.{step.setting})"
            )
        num_bytes -= sum(rejected.values())
    return lines


def _quarantined_records(estimate: Estimate, recipe: Recipe) -> list[str]:
    if not estimate.num_quarantined:
        return []
    fraction = estimate.num_quarantined / (estimate.num_quarantined + estimate.num_documents.value)
    max_fraction = recipe.data.quarantine.max_quarantined_fraction
    line = f"  quarantined {estimate.num_quarantined:,} records, {fraction:.2%}"
    if fraction > max_fraction:
        line += f"; preparation stops above {max_fraction:.2%}"
    return [line]


def _disk_warning(estimate: Estimate, execution: Execution) -> str:
    free_bytes = shutil.disk_usage(execution.workspace_path).free
    if free_bytes >= estimate.work_bytes:
        return ""
    return f"; only {decimal(free_bytes)} are free at {execution.workspace_path}"


def _epochs(corpus: str, estimate: Estimate, recipe: Recipe) -> str:
    stages = [
        stage
        for name, stage in recipe.training.stages.items()
        if recipe.training.corpus_of(name) == corpus
    ]
    num_tokens = sum(stage.steps * stage.global_batch_tokens for stage in stages)
    epochs = num_tokens / max(1, estimate.num_train_tokens)
    share = f"{epochs:,.1f} epochs" if epochs >= 1 else f"{epochs:.1%} of them"
    return (
        f"the stage {corpus} reads {num_tokens:,} of {estimate.num_train_tokens:,} training "
        "tokens: "
        f"{share}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
