"""The results report as a page: headline, summary, the order of the sections, and the next
commands."""

from __future__ import annotations

import shlex

from components.core.artifact import Artifact
from components.core.network import redact_credentials
from components.core.store import Store
from components.report.bits_per_byte_section import (
    PYTHON,
    bits_per_byte,
    bits_section,
    python_claim,
)
from components.report.corpus import corpus_section
from components.report.formatting import count, duration, join_words, percent
from components.report.humaneval_section import custom_section, humaneval_section
from components.report.mtpb_section import mtpb_section
from components.report.page import Card, Cards, KeyValueList, Page, Section, Statement, section
from components.report.provenance_section import (
    commit_cell,
    lineage_section,
    provenance_section,
    steps_section,
)
from components.report.results import (
    BENCHMARKS,
    RegisteredVersion,
    RunResults,
    last_attempt_seconds,
    num_attempts,
    stage_title,
    total_seconds,
)
from components.report.samples_page import samples_section
from components.report.table import Cell, Tone
from components.report.training import training_section


def results_page(results: RunResults, store: Store) -> Page:
    """The report of a run, read from its artifacts.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return Page(
        title=f"Results of {results.recipe}",
        subtitle=_subtitle(results),
        headline=_headline(results),
        sections=(
            _summary_section(results, store),
            lineage_section(results),
            corpus_section(results, store),
            training_section(results, store),
            bits_section(results, store),
            *program_sections(results, store),
            steps_section(results, store),
            provenance_section(results),
            _next_section(results),
        ),
    )


def program_sections(results: RunResults, store: Store) -> tuple[Section, ...]:
    """The sections on generated programs: the benchmarks and samples. A benchmark with a protocol
    of its own is added here."""
    custom = [name for name in results.benchmarks if name not in BENCHMARKS]
    return (
        humaneval_section(results, store),
        mtpb_section(results, store),
        *(custom_section(results, store, name) for name in custom),
        samples_section(results, store),
    )


def _subtitle(results: RunResults) -> str:
    """When this run started, how long it took, its commit and its host."""
    commit = commit_cell(results.provenance)
    parts = (
        f"run started {results.started_at}",
        f"took {duration(results.total_s)}",
        f"commit {commit.text} {commit.subtext}".strip(),
        str(results.provenance.get("host", "")),
    )
    return " \u00b7 ".join(part for part in parts if part)


def _headline(results: RunResults) -> Statement:
    """The version that was promoted last, or why none was."""
    promoted = [version for version in results.registered if version.promoted]
    if promoted:
        *earlier, last = promoted
        alias = f" and is now @{last.alias}" if last.alias else ""
        also = ""
        if earlier:
            names = join_words([version.name for version in earlier])
            also = f"; so {'was' if len(earlier) == 1 else 'were'} {names}"
        return Statement(True, f"{last.name} version {last.version} was promoted{alias}{also}.")
    if champions := [version for version in results.registered if version.alias]:
        last = champions[-1]
        return Statement(
            True,
            f"{last.name} version {last.version} is already @{last.alias}: this run built the same "
            "model.",
        )
    if results.registered:
        all_reasons = [reason for version in results.registered for reason in version.reasons]
        reasons = "; ".join(dict.fromkeys(all_reasons)) or "the registry gave no reason"
        return Statement(False, f"No version was promoted: {reasons}.")
    return Statement(None, "No version was registered in this run.")


def _summary_section(results: RunResults, store: Store) -> Section:
    """A card per stage, the claim about Python, and the run in numbers."""
    values = bits_per_byte(results, store)
    cards = [_card(results, stage, values.get(stage, {}).get(PYTHON)) for stage in results.stages]
    unmatched_versions = [
        version for version in results.registered if results.stage_of(version) is None
    ]
    cards += [_version_card(version) for version in unmatched_versions]
    claim = python_claim(values, results.stages) if values else None
    return section(
        "summary",
        "Summary",
        "",
        Cards(tuple(cards)) if cards else None,
        claim,
        _run_numbers(results),
    )


def _card(results: RunResults, stage: str, python: float | None) -> Card:
    statistics = results.checkpoints[stage].statistics
    version = next(
        (version for version in results.registered if results.stage_of(version) == stage), None
    )
    lines = [f"{python:.3f} bits per byte of held-out Python"] if python else []
    tokens, steps = statistics.get("tokens"), statistics.get("steps")
    if isinstance(tokens, int) and isinstance(steps, int):
        lines.append(f"{count(tokens)} tokens in {steps:,} steps")
    lines += version.reasons if version else ()
    state, tone = _state(version)
    return Card(stage=stage, title=stage_title(stage), state=state, tone=tone, lines=tuple(lines))


def _version_card(version: RegisteredVersion) -> Card:
    state, tone = _state(version)
    return Card(stage="", title=version.name, state=state, tone=tone, lines=version.reasons)


def _state(version: RegisteredVersion | None) -> tuple[str, Tone]:
    if version is None:
        return "not registered", "quiet"
    name = f"version {version.version}"
    if version.promoted:
        alias = f" \u00b7 @{version.alias}" if version.alias else ""
        return f"{name} \u00b7 promoted{alias}", "good"
    if version.alias:
        return f"{name} \u00b7 already @{version.alias}", "good"
    return f"{name} \u00b7 not promoted", "bad"


def _run_numbers(results: RunResults) -> KeyValueList:
    tokens = sum(_checkpoint_counts(results, "tokens"))
    sizes = _checkpoint_counts(results, "num_parameters")
    steps = list(results.steps())
    num_reused = sum(artifact.label in results.reused for artifact in steps)
    items = (
        ("run time", Cell(duration(results.total_s))),
        ("training time", _training_share(results)),
        ("trained tokens", Cell(count(tokens), title=f"{tokens:,}")),
        ("parameters", Cell(count(sizes[0]), title=f"{sizes[0]:,}") if sizes else Cell("unknown")),
        ("reused steps", Cell(f"{num_reused} of {len(steps)}")),
    )
    return KeyValueList(items=items)


def _checkpoint_counts(results: RunResults, name: str) -> list[int]:
    """The values of a statistic of the checkpoints that have it."""
    values = [checkpoint.statistics.get(name) for checkpoint in results.checkpoints.values()]
    return [value for value in values if isinstance(value, int)]


def _training_share(results: RunResults) -> Cell:
    """The share of this run's time that its training took, without earlier attempts."""
    new: dict[str, Artifact] = {
        stage: checkpoint
        for stage, checkpoint in results.checkpoints.items()
        if checkpoint.label not in results.reused
    }
    if not new:
        return Cell("none, all reused" if results.checkpoints else "none")
    seconds = total_seconds(last_attempt_seconds(checkpoint) for checkpoint in new.values())
    resumed = [
        stage_title(stage) for stage, checkpoint in new.items() if num_attempts(checkpoint) > 1
    ]
    subtext = f"{join_words(resumed)} resumed; only the steps of this run count" if resumed else ""
    if seconds is None or results.total_s <= 0:
        return Cell("unknown", subtext=subtext)
    return Cell(percent(seconds / results.total_s), subtext=subtext)


def _next_section(results: RunResults) -> Section:
    """Commands to continue with."""
    items = [
        ("codegen ui", "start the Prefect UI and the MLflow UI on loopback"),
        ("codegen artifacts", "list all artifacts in the store"),
    ]
    last_stage = results.stages[-1] if results.checkpoints else ""
    if checkpoint := results.checkpoints.get(last_stage):
        lineage = "show the inputs of this checkpoint, down to the raw corpora"
        difference = "show which setting differs from the most similar checkpoint"
        items.append((f"codegen lineage {checkpoint.label}", lineage))
        items.append((f"codegen why {checkpoint.label}", difference))
    for version in results.registered:
        if version.alias and results.stage_of(version) == last_stage:
            command = _load_command(version.name, version.alias, results.tracking_uri)
            items.append((command, "load the champion as a Transformers pipeline"))
    commands = KeyValueList(
        items=tuple((command, Cell(purpose)) for command, purpose in items), commands=True
    )
    note = "If you repeat the command of this run, all steps are reused within seconds."
    return section("next", "Next steps", note, commands)


def _load_command(name: str, alias: str, tracking_uri: str) -> str:
    """A command that works in every folder; without the URI MLflow would create an empty database
    there."""
    code = f'import mlflow; print(mlflow.transformers.load_model("models:/{name}@{alias}")("def "))'
    return f"MLFLOW_TRACKING_URI={shlex.quote(redact_credentials(tracking_uri))} python -c '{code}'"
