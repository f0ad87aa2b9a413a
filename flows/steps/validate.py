"""Validation tasks: raw corpora before preparation, prepared corpora before training.

A validation is an artifact. Its inputs are the rules, the corpora, and the previous validation,
which drift rules compare with. The rules are in `components.validation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from components.core.artifact import Artifact
from components.core.errors import ValidationFailedError
from components.core.files import read_json
from flows.runtime.context import FlowContext, TrackedBuild
from flows.settings.recipes import Recipe
from flows.steps.report import publish_validation_results

if TYPE_CHECKING:  # Imports numpy, Great Expectations and MLflow.
    from components.data.sources.quarantine import QuarantinedRecord
    from components.registry.tracking import TrackedRun
    from components.validation.profile_partitions import ProfileResult
    from components.validation.suite_files import Suites

_ORIGINS = "origins"
"""Key in the statistics of a validation: the origin of each corpus, see `_origins`."""
_READ = "read"
"""Key in the statistics of a raw validation: quarantined and total records per declared corpus."""
_RESULTS_FILE = "results.json"
"""File of a validation: the result of every rule."""


def load_suites(context: FlowContext) -> Suites:
    """Read and check the validation suites of the recipe."""
    from components.validation.suites import read_suites

    return read_suites(context.recipe.validation, context.execution.project_path)


def validate_raw_corpora(
    context: FlowContext, raw: dict[str, Artifact], suites: Suites
) -> Artifact:
    """Return the validation of the raw corpora.

    Raises:
        ValidationFailedError: a rule failed.
        RecordError: a declared corpus has more quarantined records than the recipe tolerates.
    """
    from components.data.raw_corpus import require_same_bytes
    from components.validation.raw import read_profiles, validate_raw
    from components.validation.suite_files import validation_identity
    from components.validation.suites import CODE_VERSION

    recipe = context.recipe
    corpora: dict[str, Artifact] = {corpus: raw[corpus] for corpus in context.recipe.corpora}
    previous = _previous_validation(context, "raw", corpora)
    examples: dict[str, list[QuarantinedRecord]] = {}

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        profiles = _profile_declared_corpora(context, folder)
        for corpus, profile in profiles.items():
            examples[corpus] = profile.quarantined.records()
        statistics = validate_raw(
            folder,
            suites=suites,
            corpora={
                corpus: Path(artifact.address)
                for corpus, artifact in corpora.items()
                if corpus not in profiles
            },
            profiles={corpus: profile.profile for corpus, profile in profiles.items()},
            quarantined={corpus: profile.quarantined for corpus, profile in profiles.items()},
            previous=read_profiles(context.store.fetch_verified(previous)) if previous else None,
            previous_version=_version_name(previous),
            config=recipe.validation,
            data=recipe.data,
            gx_root=context.execution.workspace_path / "gx",
        )
        for artifact in corpora.values():
            require_same_bytes(artifact, context.execution.project_path)
        read: dict[str, JsonValue] = {
            corpus: [profile.quarantined.num, profile.num_read]
            for corpus, profile in profiles.items()
        }
        return {**statistics, _ORIGINS: _origins(recipe), _READ: read}

    validation = context.get_or_build(
        "validate raw corpora",
        "validation",
        "raw",
        config={
            **validation_identity(recipe.validation, "raw", suites),
            **_reading_config(recipe),
            "languages": _languages(recipe),
        },
        parents=_with_previous(corpora, previous),
        code_version=CODE_VERSION,
        build=_logging_rules(context, "raw corpora", build),
    )
    _publish(context, "raw corpora", validation)
    _check_quarantine(context, validation, examples)
    return validation


def validate_shards(
    context: FlowContext, prepared: dict[str, Artifact], suites: Suites
) -> Artifact:
    """Return the validation of the prepared corpora.

    Raises:
        ValidationFailedError: a rule failed.
    """
    from components.validation.prepared import read_metrics, validate_prepared
    from components.validation.suite_files import validation_identity
    from components.validation.suites import CODE_VERSION

    config = context.recipe.validation
    previous = _previous_validation(context, "prepared", prepared)

    def build(folder: Path, _: TrackedRun) -> dict[str, JsonValue]:
        statistics = validate_prepared(
            folder,
            prepared={
                corpus: context.store.fetch_verified(artifact)
                for corpus, artifact in prepared.items()
            },
            suites=suites,
            previous=read_metrics(context.store.fetch_verified(previous)) if previous else None,
            previous_version=_version_name(previous),
            config=config,
            data=context.recipe.data,
            gx_root=context.execution.workspace_path / "gx",
        )
        return {**statistics, _ORIGINS: _origins(context.recipe)}

    validation = context.get_or_build(
        "validate prepared corpora",
        "validation",
        "prepared",
        config={
            **validation_identity(config, "prepared", suites),
            "languages": _languages(context.recipe),
            "max_dropped_share": {
                name: corpus.max_dropped_share
                for name, corpus in context.recipe.data.corpora.items()
            },
        },
        parents=_with_previous(prepared, previous),
        code_version=CODE_VERSION,
        build=_logging_rules(context, "prepared shards", build),
    )
    _publish(context, "prepared shards", validation)
    return validation


def _languages(recipe: Recipe) -> dict[str, JsonValue]:
    """Return the languages that each corpus must have."""
    return {name: list(recipe.data.corpora[name].languages) for name in recipe.corpora}


def _profile_declared_corpora(context: FlowContext, folder: Path) -> dict[str, ProfileResult]:
    """Profile the corpora whose sources the recipe declares."""
    from components.validation.profile_partitions import profile_sources

    recipe = context.recipe
    progress_folder = folder / "under-way"
    return {
        corpus: profile_sources(
            corpus, sources, recipe.validation, recipe.data, context.execution.data, progress_folder
        )
        for corpus, sources in recipe.data.declared_sources.items()
    }


def _reading_config(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that decide the records of declared sources, without their locations."""
    data = recipe.data
    if not data.declared_sources:
        return {}
    without_uris = {
        corpus: [source.replace(uri="-") for source in sources]
        for corpus, sources in data.declared_sources.items()
    }
    quarantine = data.quarantine.reset("max_quarantined_fraction")
    return {"reading": {**without_uris, "extensions": data.extensions, "quarantine": quarantine}}


def _check_quarantine(
    context: FlowContext, validation: Artifact, examples: Mapping[str, list[QuarantinedRecord]]
) -> None:
    """Check the number of quarantined records, which preparation would take 20 times as long to
    find."""
    from components.data.sources.quarantine import check_quarantine_limit

    quarantine = context.recipe.data.quarantine
    read: Any = validation.statistics.get(_READ, {})
    for corpus, (num_quarantined, num_read) in read.items():
        check_quarantine_limit(num_quarantined, num_read, examples.get(corpus, []), quarantine)


def _previous_validation(
    context: FlowContext, name: str, corpora: Mapping[str, Artifact]
) -> Artifact | None:
    """Return the validation to compare with; None if the recipe disables drift rules.

    This is the newest validation of other versions of the corpora with the same origins, published
    before the first validation of these versions, so that the latter is found again and reused.
    """
    if context.recipe.validation.drift == "off":
        return None
    digests = {corpus.digest for corpus in corpora.values()}
    previous = None
    for artifact in context.store.list_artifacts():
        if (artifact.kind, artifact.name) != ("validation", name):
            continue
        inputs = {parent.digest for parent in artifact.parents if parent.role != "previous"}
        if inputs == digests:
            break
        if artifact.statistics.get(_ORIGINS) == _origins(context.recipe):
            previous = artifact
    return previous


def _with_previous(
    corpora: Mapping[str, Artifact], previous: Artifact | None
) -> dict[str, Artifact]:
    return {**corpora, "previous": previous} if previous else dict(corpora)


def _origins(recipe: Recipe) -> dict[str, JsonValue]:
    """Return the origin of each corpus: `declared`, or the name of the preset."""
    declared = recipe.data.declared_sources
    return {name: "declared" if name in declared else recipe.data.preset for name in recipe.corpora}


def _version_name(validation: Artifact | None) -> str:
    """Return the name of the previous version in Data Docs."""
    if validation is None:
        return ""
    return f"the version of {validation.label}, {validation.provenance.get('created_at')}"


def _publish(context: FlowContext, subject: str, validation: Artifact) -> None:
    run_id = context.run.tracking.find_producer_run(validation, context.run.experiment_id)
    rules = read_json(context.store.fetch_verified(validation) / _RESULTS_FILE)
    publish_validation_results(context, subject, rules, run_id)


def _logging_rules(context: FlowContext, subject: str, build: TrackedBuild) -> TrackedBuild:
    """Return a build that logs rule results to MLflow.

    If a rule fails, the folder of the build is deleted, so its results are published first.
    """

    def logged_build(folder: Path, run: TrackedRun) -> Mapping[str, JsonValue]:
        path = folder / _RESULTS_FILE
        try:
            statistics = build(folder, run)
        except ValidationFailedError:
            if path.is_file():  # Absent if the corpora could not be read.
                rules = read_json(path)
                run.log_table("rules.json", rules)
                publish_validation_results(context, subject, rules, run.id)
            raise
        run.log_table("rules.json", read_json(path))
        return statistics

    return logged_build
