"""Data: pulled, validated, tokenised, packed, validated again. Runs alone, or as the first part of the pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.errors import FetchError
from components.core.files import read_json
from components.core.fingerprint import fingerprint
from components.data.config import CORPORA, Corpus
from components.data.sources.config import Source
from flows.desk import Desk, desk
from flows.execution import Execution
from flows.recipes import Recipe

if TYPE_CHECKING:  # They would import DVC and numpy.
    from components.data.decontamination import BenchmarkText
    from components.data.pull import Pulled
    from components.registry.runs import TrackedRun


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
        benchmarks = here.task("find the benchmarks", lambda _: _benchmarks(here))
        prepared: dict[str, Artifact] = {}
        for corpus in CORPORA:
            prepared[corpus] = _prepare(here, corpus, raw[corpus], tokenizer, benchmarks, dict(prepared))
        validated["prepared"] = _validate_prepared(here, prepared)
        return Corpora(raw=raw, tokenizer=tokenizer, prepared=prepared, validations=validated)


def pull(recipe: Recipe, execution: Execution) -> Pulled:
    """Make `data/` hold the recipe's preset."""
    from components.data.archives import PackageIndex
    from components.data.pins import Pins
    from components.data.pull import pull as pull_data

    return pull_data(
        execution.project_path,
        recipe.data.preset,
        cache=execution.workspace_path / "cache",
        pins=Pins.parse(read_json(Path(execution.pins))) if execution.pins else None,
        archives=Path(execution.archives) if execution.archives else None,
        index=PackageIndex.from_pip(os.environ),
    )


def _raw(here: Desk) -> dict[str, Artifact]:
    from components.data.raw import raw_artifacts

    pulled = here.task("pull the corpora", lambda _: pull(here.recipe, here.execution), retry_if=_is_network)
    here.say("pull the corpora", "reused" if pulled.was_current else "")
    here.console.print(f"  {pulled.summary}", soft_wrap=True, markup=False)
    raw = here.task("check data/ against data.dvc", lambda _: raw_artifacts(here.execution.project_path))
    for corpus, sources in (here.recipe.data.sources or {}).items():
        raw[corpus] = here.task(f"list the sources of {corpus}", partial(_listed, corpus, sources))
    return raw


def _listed(corpus: Corpus, sources: Sequence[Source], _: TrackedRun) -> Artifact:
    from components.data.raw import listed_artifact

    return listed_artifact(corpus, sources)


def _is_network(error: object) -> bool:
    """A connection may come back (requests' errors are OSErrors); a wrong hash will not."""
    return isinstance(error, FetchError) and isinstance(error.__cause__, OSError)


def _validate_raw(here: Desk, raw: dict[str, Artifact]) -> Artifact:
    from components.validation.partitions import profile_sources
    from components.validation.raw import read_profiles, validate_raw
    from components.validation.suites import CODE_VERSION, identity

    recipe = here.recipe
    corpora: dict[str, Artifact] = {corpus: raw[corpus] for corpus in CORPORA}
    declared = recipe.data.sources or {}
    earlier = _earlier_validation(here, "raw", corpora)

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        found = {
            corpus: profile_sources(corpus, sources, recipe.validation, recipe.data, here.execution.data)
            for corpus, sources in declared.items()
        }
        return validate_raw(
            folder,
            corpora={corpus: Path(one.address) for corpus, one in corpora.items() if corpus not in declared},
            profiles={corpus: one.profile for corpus, one in found.items()},
            quarantined=[record for one in found.values() for record in one.quarantined],
            previous=read_profiles(here.store.open(earlier)) if earlier else None,
            config=recipe.validation,
            docs=here.execution.workspace_path / "gx",
        )

    parents: dict[str, Artifact] = {**corpora, **({"previous": earlier} if earlier else {})}
    return here.make(
        "validate the raw corpora",
        "validation",
        "raw",
        config=identity(recipe.validation, "raw"),
        parents=parents,
        code_version=CODE_VERSION,
        build=build,
    )


def _earlier_validation(here: Desk, name: str, judged: Mapping[str, Artifact]) -> Artifact | None:
    """The newest validation of other data than these, to compare them with; none where that is switched off.

    The first validation of these very data has to be found again, so what came after it does not count.
    """
    if here.recipe.validation.drift == "off":
        return None
    digests = {one.digest for one in judged.values()}
    earlier = None
    for one in here.store.all():
        if (one.kind, one.name) == ("validation", name):
            if {parent.digest for parent in one.parents if parent.role != "previous"} == digests:
                break
            earlier = one
    return earlier


def _tokenizer(here: Desk, vocabulary: Artifact) -> Artifact:
    from components.tokenizer.vocabulary import CODE_VERSION, build_tokenizer

    return here.make(
        "build the tokenizer",
        "tokenizer",
        f"gpt2-{here.recipe.tokenizer.num_merges}",
        config=here.recipe.tokenizer,
        parents={"vocabulary": vocabulary},
        code_version=CODE_VERSION,
        build=lambda folder, _: build_tokenizer(Path(vocabulary.address) / "gpt2.tiktoken", here.recipe.tokenizer, folder),
    )


def _benchmarks(here: Desk) -> list[BenchmarkText]:
    """What must not be learnt: HumanEval, and MTPB where its file can be had; without it that is said."""
    from components.data.decontamination import BenchmarkText
    from components.evaluation.problems import find_mtpb, load_humaneval, load_mtpb

    if not here.recipe.data.decontamination.enabled:
        return []
    texts = [
        BenchmarkText(benchmark="humaneval", problem=one.task_id, text=one.prompt + one.canonical_solution)
        for one in load_humaneval()
    ]
    found = find_mtpb(here.execution.mtpb_file, here.execution.workspace_path / "cache")
    if not found.path:
        here.warn(f"documents are not searched for MTPB's problems: {found.missing}")
        return texts
    return texts + [
        BenchmarkText(benchmark="mtpb", problem=str(one.number), text="\n".join(one.prompts))
        for one in load_mtpb(found.path)
    ]


def _prepare(
    here: Desk,
    corpus: Corpus,
    raw: Artifact,
    tokenizer: Artifact,
    benchmarks: list[BenchmarkText],
    earlier: dict[str, Artifact],
) -> Artifact:
    from components.data.raw import sources_of
    from components.tokenizer.prepare import CODE_VERSION, prepare_corpus

    recipe = here.recipe
    others = earlier if recipe.data.dedup_across_corpora else {}
    config: dict[str, JsonValue] = {
        "data": recipe.data.model_dump(mode="json"),
        "benchmarks": fingerprint(benchmarks),
        "context_length": recipe.model.context_length,
        "seed": recipe.seed,
    }
    return here.make(
        f"prepare {corpus}",
        "prepared-corpus",
        corpus,
        config=config,
        parents={"raw": raw, "tokenizer": tokenizer, **others},
        code_version=CODE_VERSION,
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
            benchmarks=benchmarks,
            others=[here.store.open(one) for one in others.values()],
        ),
    )


def _validate_prepared(here: Desk, prepared: dict[str, Artifact]) -> Artifact:
    from components.validation.prepared import read_figures, validate_prepared
    from components.validation.suites import CODE_VERSION, identity

    earlier = _earlier_validation(here, "prepared", prepared)
    parents: dict[str, Artifact] = {**prepared, **({"previous": earlier} if earlier else {})}
    return here.make(
        "validate the prepared shards",
        "validation",
        "prepared",
        config=identity(here.recipe.validation, "prepared"),
        parents=parents,
        code_version=CODE_VERSION,
        build=lambda folder, _: validate_prepared(
            folder,
            prepared={corpus: here.store.open(one) for corpus, one in prepared.items()},
            previous=read_figures(here.store.open(earlier)) if earlier else None,
            config=here.recipe.validation,
            docs=here.execution.workspace_path / "gx",
        ),
    )
