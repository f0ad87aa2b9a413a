"""The steps that judge corpora: the raw ones before they are prepared, the prepared ones before they are trained on.

Design decision: a validation is an artifact like any other. It is decided by the rules, the data, and the validation of the
version before, with which they are compared. What is not covered: the rules themselves (`components.validation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.errors import ValidationFailedError
from components.core.files import read_json
from components.data.config import CORPORA
from flows.runtime.context import FlowContext, TrackedBuild
from flows.runtime.prefect_artifacts import publish_validation_results
from flows.settings.recipes import Recipe

if TYPE_CHECKING:  # They would import numpy, Great Expectations and MLflow.
    from components.data.sources.partition_reader import QuarantinedRecord
    from components.registry.runs import TrackedRun
    from components.validation.profile_partitions import ProfileResult
    from components.validation.suite_files import Suites

_ORIGINS = "origins"
"""Among the statistics of a validation: what `_origins` says."""
_RULES = "results.json"
"""In the folder of a validation: every rule, and what was found."""
_READ = "read"
"""Among those of the raw corpora: of each that is declared, how many records cannot be read, and how many there are."""


def suites_of(here: FlowContext) -> Suites:
    """The rules, read and checked before anything is made."""
    from components.validation.suites import read_suites

    return read_suites(here.recipe.validation, here.execution.project_path)


def validate_raw_corpora(here: FlowContext, raw: dict[str, Artifact], suites: Suites) -> Artifact:
    """The validation of the raw corpora.

    Raises:
        ValidationFailed: a rule does not hold.
        RecordError: more records of a declared corpus are bad than tolerated; they are on the page of the quarantine.
    """
    from components.data.raw_corpus import require_same_bytes
    from components.data.sources.partition_reader import QuarantinedRecord
    from components.validation.raw import read_profiles, validate_raw
    from components.validation.suite_files import validation_identity
    from components.validation.suites import CODE_VERSION

    recipe = here.recipe
    corpora: dict[str, Artifact] = {corpus: raw[corpus] for corpus in CORPORA}
    earlier = _earlier_validation(here, "raw", corpora)
    examples: dict[str, list[QuarantinedRecord]] = {}

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        found = _profile_declared(here, folder)
        for corpus, one in found.items():
            examples[corpus] = [
                QuarantinedRecord(*(bad[name] for name in QuarantinedRecord._fields))
                for bad in one.quarantined.examples
            ]
        statistics = validate_raw(
            folder,
            suites=suites,
            corpora={
                corpus: Path(one.address) for corpus, one in corpora.items() if corpus not in found
            },
            profiles={corpus: one.profile for corpus, one in found.items()},
            quarantined={corpus: one.quarantined for corpus, one in found.items()},
            previous=read_profiles(here.store.fetch_verified(earlier)) if earlier else None,
            previous_version=_version(earlier),
            config=recipe.validation,
            docs=here.execution.workspace_path / "gx",
        )
        for raw_corpus in corpora.values():
            require_same_bytes(raw_corpus)
        read: dict[str, JsonValue] = {
            corpus: [one.quarantined.num, one.num_read] for corpus, one in found.items()
        }
        return {**statistics, _ORIGINS: _origins(recipe), _READ: read}

    parents: dict[str, Artifact] = {**corpora, **({"previous": earlier} if earlier else {})}
    validated = here.get_or_build(
        "validate the raw corpora",
        "validation",
        "raw",
        config={**validation_identity(recipe.validation, "raw", suites), **_reading(recipe)},
        parents=parents,
        code_version=CODE_VERSION,
        build=_with_rules(here, "raw corpora", build),
    )
    _show(here, "raw corpora", validated)
    _require_readable(here, validated, examples)
    return validated


def _profile_declared(here: FlowContext, folder: Path) -> dict[str, ProfileResult]:
    from components.validation.profile_partitions import profile_sources

    recipe, place = here.recipe, here.execution.data
    return {
        corpus: profile_sources(
            corpus, sources, recipe.validation, recipe.data, place, folder / "under-way"
        )
        for corpus, sources in (recipe.data.sources or {}).items()
    }


def _reading(recipe: Recipe) -> dict[str, Any]:
    """How declared sources are read, which decides what their records are; where they lie does not."""
    data = recipe.data
    if not data.sources:
        return {}
    # Where they are does not count, so every source has the same URI.
    sources = {
        corpus: [one.replace(uri="-") for one in several]
        for corpus, several in data.sources.items()
    }
    quarantine = data.quarantine.reset("max_bad_fraction")
    return {"reading": {**sources, "extensions": data.extensions, "quarantine": quarantine}}


def _require_readable(
    here: FlowContext, validated: Artifact, examples: Mapping[str, list[QuarantinedRecord]]
) -> None:
    """That no more records are bad than tolerated: preparation would find it too, but in twenty times as long."""
    from components.data.sources.partition_reader import check_bad_record_limit

    read: Any = validated.statistics.get(_READ, {})
    for corpus, (num_bad, num_read) in read.items():
        check_bad_record_limit(
            num_bad, num_read, examples.get(corpus, []), here.recipe.data.quarantine
        )


def _earlier_validation(
    here: FlowContext, name: str, judged: Mapping[str, Artifact]
) -> Artifact | None:
    """The newest validation of another version of these data, to compare them with; none where that is switched off.

    Versions of one corpus come from the same preset, or are declared: nobody would compare the corpora of two presets that
    share a workspace. The first validation of these very data has to be found again, so what came after it does not count.
    """
    if here.recipe.validation.drift == "off":
        return None
    digests = {one.digest for one in judged.values()}
    earlier = None
    for one in here.store.list_artifacts():
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
    return (
        f"what {validation.label} judged, {validation.provenance.get('created_at')}"
        if validation
        else ""
    )


def validate_shards(here: FlowContext, prepared: dict[str, Artifact], suites: Suites) -> Artifact:
    """The validation of the prepared corpora.

    Raises:
        ValidationFailed: a rule does not hold.
    """
    from components.validation.prepared import read_metrics, validate_prepared
    from components.validation.suite_files import validation_identity
    from components.validation.suites import CODE_VERSION

    earlier = _earlier_validation(here, "prepared", prepared)
    parents: dict[str, Artifact] = {**prepared, **({"previous": earlier} if earlier else {})}

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        statistics = validate_prepared(
            folder,
            prepared={corpus: here.store.fetch_verified(one) for corpus, one in prepared.items()},
            suites=suites,
            previous=read_metrics(here.store.fetch_verified(earlier)) if earlier else None,
            previous_version=_version(earlier),
            config=here.recipe.validation,
            docs=here.execution.workspace_path / "gx",
        )
        return {**statistics, _ORIGINS: _origins(here.recipe)}

    validated = here.get_or_build(
        "validate the prepared shards",
        "validation",
        "prepared",
        config=validation_identity(here.recipe.validation, "prepared", suites),
        parents=parents,
        code_version=CODE_VERSION,
        build=_with_rules(here, "prepared shards", build),
    )
    _show(here, "prepared shards", validated)
    return validated


def _show(here: FlowContext, what: str, validated: Artifact) -> None:
    run_id = here.run.tracking.find_producer_run(validated, here.run.experiment_id)
    publish_validation_results(
        here, what, read_json(here.store.fetch_verified(validated) / _RULES), run_id
    )


def _with_rules(here: FlowContext, what: str, build: TrackedBuild) -> TrackedBuild:
    """A build whose rules MLflow keeps as a table, and which are shown also where one of them ends it: its folder, with
    what was found, does not stay then."""

    def built(folder: Path, run: TrackedRun) -> Mapping[str, JsonValue]:
        try:
            statistics = build(folder, run)
        except ValidationFailedError:
            if (folder / _RULES).is_file():  # Else it could not even be read.
                rules = read_json(folder / _RULES)
                run.log_table("rules.json", rules)
                publish_validation_results(here, what, rules, run.id)
            raise
        run.log_table("rules.json", read_json(folder / _RULES))
        return statistics

    return built
