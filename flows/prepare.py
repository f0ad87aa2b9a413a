"""Data flow: pull, validate, tokenize, pack and validate again."""

from __future__ import annotations

from prefect import flow

from components.core.artifact import Artifact
from components.core.config import Config
from flows.runtime.context import open_flow_context
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import RecipeCorpora, find_prepared
from flows.steps.epochs import check_expected_epochs, check_sampled_epochs
from flows.steps.prepare_corpora import (
    build_tokenizer_step,
    check_same_tokenizer,
    load_benchmarks,
    prepare_corpus_step,
    pull_raw_corpora,
    write_dataset_card,
)
from flows.steps.report import publish_corpora
from flows.steps.validate import load_suites, validate_raw_corpora, validate_shards


class PreparedData(Config):
    """The inputs of training and evaluation."""

    raw: dict[str, Artifact]
    """By corpus; also the vocabulary."""
    tokenizer: Artifact
    prepared: dict[str, Artifact]
    """By corpus, in the order of the stages."""
    validations: dict[str, Artifact]
    """Of `raw` and `prepared`."""


@flow(name="prepare", flow_run_name="prepare {recipe.name}")
def prepare(
    recipe: Recipe,
    execution: Execution,
    parent_run: str | None = None,
    init_checkpoint: Artifact | None = None,
    stages: list[str] | None = None,
) -> PreparedData:
    """Return raw corpora, tokenizer and packed corpora; invalid data stop the flow.

    Args:
        recipe: the corpora to prepare.
        execution: where and how fast.
        parent_run: id of the parent MLflow run.
        init_checkpoint: the model that training starts from; its tokenizer is compared with the
            recipe's before corpora are packed.
        stages: stages that will be trained on the corpora, whose epochs are checked.

    Raises:
        ConfigError: no corpus, or not that of a stage, has sources, or a stage would read its
            corpus too often.
    """
    recipe.require_any_corpus()
    if stages is not None:
        recipe.require_corpora(map(recipe.training.corpus_of, stages))
    with open_flow_context(recipe, execution, "prepare", parent_run) as context:
        suites = context.task("load suites", lambda _: load_suites(context))
        benchmark_texts = load_benchmarks(context)
        raw = pull_raw_corpora(context)
        context.run.log_inputs((raw[corpus] for corpus in recipe.corpora), context="raw")
        expected_epochs = check_expected_epochs(context, stages)
        raw_validation = validate_raw_corpora(context, raw, suites)
        tokenizer = build_tokenizer_step(context, raw["vocabulary"])
        if init_checkpoint:
            check_same_tokenizer(context, init_checkpoint, tokenizer)
        existing = find_prepared(recipe, raw, tokenizer, context.store)
        check_sampled_epochs(context, expected_epochs, existing)
        prepared: dict[str, Artifact] = {}
        for corpus in recipe.corpora:
            prepared[corpus] = prepare_corpus_step(
                context, corpus, raw[corpus], tokenizer, benchmark_texts, dict(prepared)
            )
        validations = {
            "raw": raw_validation,
            "prepared": validate_shards(context, prepared, suites),
        }
        write_dataset_card(context, RecipeCorpora(raw, tokenizer, prepared))
        publish_corpora(context, raw, prepared, tuple(validations.values()))
    return PreparedData(raw=raw, tokenizer=tokenizer, prepared=prepared, validations=validations)


@flow(name="refresh-data", flow_run_name="refresh data of {recipe.name}")
def refresh_data(recipe: Recipe, execution: Execution) -> PreparedData:
    """Pull, validate and pack the corpora; unchanged corpora are reused.

    Args:
        recipe: what to build.
        execution: where and how fast to run.
    """
    return prepare.fn(recipe, execution)
