"""Check tables with Great Expectations and publish the results.

A lock in the project's folder serializes the validations of a workspace. A second lock serializes
those of a process, because Great Expectations stores the current context in a global.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.checkpoint import UpdateDataDocsAction
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context import EphemeralDataContext
from great_expectations.expectations.metadata_types import FailureSeverity
from pydantic import JsonValue

from components.core.files import wrap_disk_full, write_json
from components.core.locks import exclusive_lock
from components.validation.gx_project import open_validation, publish_validation, table_batch
from components.validation.profile import QuarantineSummary
from components.validation.rule_results import (
    MAX_OFFENDERS,
    CountContext,
    RuleResult,
    count_critical,
    expectation_error,
    to_rule_result,
    validation_error,
)
from components.validation.run_pages import INDEX, SuitePage, publish_run, unused_run_folder
from components.validation.suite_files import SuiteFile, Suites, invalid_suite
from components.validation.suites import load_suite

logger = logging.getLogger(__name__)

_gx_lock = threading.Lock()

_WARN_ONLY_NOTE = 'Broken rules of this suite do not stop the run (validation.drift is "warn").'


@dataclass(frozen=True, kw_only=True)
class TableCheck:
    """A table to check with a suite."""

    suite: str
    """The name of its file without suffix."""
    subject: str
    """The validated data, e.g. the corpus."""
    unit: str
    """The rows, in the plural."""
    table: pd.DataFrame
    """Its first column identifies a row for users."""
    parameters: Mapping[str, JsonValue]
    """Values for the `$PARAMETER`s and the descriptions of the suite."""
    context: CountContext | None = None
    """For a table of counts: the things that it counts."""
    warn_only: bool = False
    """Whether broken rules never stop the run, whatever their severity."""
    notes: tuple[str, ...] = ()
    """Sentences for the top of the page."""

    @property
    def name(self) -> str:
        """The name in Great Expectations."""
        return f"{self.suite}-{self.subject}".replace(" ", "-")

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes, and the effect of `warn_only`."""
        return (*self.notes, _WARN_ONLY_NOTE) if self.warn_only else self.notes


def run_checks(
    folder: Path,
    title: str,
    checks: Sequence[TableCheck],
    *,
    gx_root: Path,
    suites: Suites,
    skipped: Sequence[RuleResult] = (),
    quarantined: Mapping[str, QuarantineSummary] | None = None,
) -> dict[str, JsonValue]:
    """Check all rows of each table with its suite, and publish the results.

    Args:
        folder: the artifact's folder; gets `results.json`.
        title: names the data, and the run.
        checks: the tables and their suites.
        gx_root: folder of the Great Expectations project; its `index.html` lists the runs.
        suites: the rules.
        skipped: suites that were not evaluated, with the reason.
        quarantined: quarantined records by the subject of the checks, for a page of their own.

    Returns:
        `num_expectations` and `num_passed` of critical rules; `num_warnings` and `warnings`, a
        sentence for each other rule that is broken.

    Raises:
        ValidationFailedError: a critical rule is broken; the results are published nevertheless.
        ConfigError: a suite is invalid, or the project's configuration.
    """
    gx_root = gx_root.absolute()
    started = datetime.now(UTC)
    with (
        exclusive_lock(gx_root / ".lock", f"validation of the {title}"),
        _gx_lock,
        wrap_disk_full("publishing a validation"),
    ):
        run = unused_run_folder(gx_root, title, started)
        context = open_validation(gx_root, {check.name: check.table for check in checks})
        checkpoints = _add_checkpoints(context, checks, suites)
        run_id = RunIdentifier(run_name=run.name, run_time=started)
        results = [
            _run_check(checkpoints[check.suite], check, suites[check.suite], run_id)
            for check in checks
        ]
        gx_pages = publish_validation(context, gx_root)
        pages = [
            SuitePage(
                name=check.name,
                subject=check.subject,
                title=f"{check.subject}: {check.suite}",
                suite=suites[check.suite].path,
                sha256=suites[check.suite].sha256,
                results=check_results,
                notes=check.all_notes,
                table=check.table,
                gx_page=gx_pages[check.name],
            )
            for check, check_results in zip(checks, results, strict=True)
        ]
        publish_run(
            run,
            title,
            started,
            pages,
            notes=[f"{result.subject}: {result.suite}: {result.observed}" for result in skipped],
            quarantined={name: item for name, item in (quarantined or {}).items() if item.num},
        )
    all_results = [result for check_results in results for result in check_results]
    all_results += skipped
    write_json(folder / "results.json", [result.record() for result in all_results])
    if any(result.is_blocking for result in all_results):
        raise validation_error(title, all_results, run / INDEX)
    return _log_results(title, all_results, run / INDEX)


def _log_results(title: str, results: Sequence[RuleResult], page: Path) -> dict[str, JsonValue]:
    """Log results without blocking rules, and return their statistics."""
    num_critical = count_critical(results)
    logger.info("%s: all %d critical rules hold (%s)", title, num_critical, page)
    warnings: list[JsonValue] = []
    for result in results:
        if result.is_broken:
            warnings.append(result.summary())
            logger.warning("%s: %s", title, result.summary())
        if result.success is None:
            logger.info("%s: %s: %s: %s", title, result.subject, result.suite, result.observed)
    return {
        "num_expectations": num_critical,
        "num_passed": num_critical,
        "num_warnings": len(warnings),
        "warnings": warnings,
    }


def _add_checkpoints(
    context: EphemeralDataContext, checks: Sequence[TableCheck], suites: Suites
) -> dict[str, gx.Checkpoint]:
    """Add the suites of the checks, and a checkpoint for each suite file; return them by suite."""
    definitions: dict[str, list[gx.ValidationDefinition]] = {}
    keys = {}
    for check in checks:
        file = suites[check.suite]
        suite = load_suite(file, check.name, check.parameters, list(check.table))
        source = f"Suite `{file.path}`, SHA-256 `{file.sha256}`."
        notes = [suite.notes] if isinstance(suite.notes, str) else suite.notes or []
        suite.notes = [*notes, source, *check.all_notes]
        if check.warn_only:
            for rule in suite.expectations:
                rule.severity = FailureSeverity.WARNING
        definition = gx.ValidationDefinition(
            name=check.name, data=table_batch(context, check.name), suite=context.suites.add(suite)
        )
        definitions.setdefault(check.suite, []).append(
            context.validation_definitions.add(definition)
        )
        keys[check.suite] = check.table.columns[0]
    checkpoints = {}
    for name, suite_definitions in definitions.items():
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=suite_definitions,
            actions=[UpdateDataDocsAction(name="update Data Docs")],
            result_format=_result_format(keys[name]),
        )
        checkpoints[name] = context.checkpoints.add(checkpoint)
    return checkpoints


def _result_format(key: str) -> dict[str, Any]:
    """Return the format of results in which the column `key` identifies a row."""
    return {
        "result_format": "COMPLETE",
        "unexpected_index_column_names": [key],
        "partial_unexpected_count": MAX_OFFENDERS,
        "return_unexpected_index_query": False,
    }


def _run_check(
    checkpoint: gx.Checkpoint, check: TableCheck, file: SuiteFile, run_id: RunIdentifier
) -> list[RuleResult]:
    """Return the results of a check, in the order of its suite."""
    definition = next(item for item in checkpoint.validation_definitions if item.name == check.name)
    # `Checkpoint.run` would also build Data Docs, once for every result.
    validation = definition.run(
        checkpoint_id=checkpoint.id, result_format=checkpoint.result_format, run_id=run_id
    )
    by_id = {result.expectation_config.id: result for result in validation.results}
    results = []
    for rule in definition.suite.expectations:
        if error := expectation_error(by_id[rule.id]):
            raise invalid_suite(
                file.path,
                f"has a rule ({rule.description}) that cannot be evaluated: {error}",
                f"a rule for the columns {', '.join(check.table)}",
            )
        results.append(
            to_rule_result(
                by_id[rule.id],
                suite=check.suite,
                subject=check.subject,
                unit=check.unit,
                key=check.table.columns[0],
                context=check.context,
            )
        )
    return results
