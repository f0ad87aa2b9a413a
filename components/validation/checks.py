"""Check tables with Great Expectations and publish Data Docs.

Each run has an ephemeral Great Expectations context and a folder of pages. A file context would
rewrite shared files in place, which interrupted or concurrent runs could damage. A lock serializes
the runs of a process, because Great Expectations stores the current context in a global.
"""

from __future__ import annotations

import html
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import great_expectations as gx
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context import EphemeralDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.metadata_types import FailureSeverity
from pydantic import JsonValue

from components.core.artifact import OBSERVED_DIR
from components.core.files import write_json
from components.validation.data_docs import (
    STYLES,
    SuitePage,
    add_page_headers,
    publish_site,
    remove_images,
    write_quarantine_page,
)
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
        """The name in Data Docs."""
        return f"{self.suite}-{self.subject}".replace(" ", "-")


def run_checks(
    folder: Path,
    title: str,
    checks: Sequence[TableCheck],
    *,
    docs: Path,
    suites: Suites,
    skipped: Sequence[RuleResult] = (),
    quarantined: Mapping[str, QuarantineSummary] | None = None,
) -> dict[str, JsonValue]:
    """Check all rows of each table with its suite, and publish the results.

    Args:
        folder: the artifact's folder; gets `results.json` and a copy of the pages in `observed/`.
        title: names the data, and the run.
        checks: the tables and their suites.
        docs: folder of all Data Docs; its `index.html` lists the runs.
        suites: the rules.
        skipped: suites that were not evaluated, with the reason.
        quarantined: quarantined records by the subject of the checks, for a page of their own.

    Returns:
        `num_expectations` and `num_passed` of critical rules; `num_warnings` and `warnings`, a
        sentence for each other rule that is broken.

    Raises:
        ValidationFailedError: a critical rule is broken; Data Docs are published nevertheless.
        ConfigError: a suite is invalid.
    """
    site = folder / OBSERVED_DIR / "data-docs"
    started = datetime.now(UTC)
    with _gx_lock:
        context = _create_context(site)
        results = [_run_check(context, check, suites[check.suite], started) for check in checks]
        context.build_data_docs()
    remove_images(site)
    quarantined = {name: item for name, item in (quarantined or {}).items() if item.num}
    if quarantined:
        write_quarantine_page(site, quarantined)
    pages = []
    for check, check_results in zip(checks, results, strict=True):
        summary = quarantined.get(check.subject)
        num_quarantined = summary.num if summary else 0
        pages.append(_create_page(check, suites[check.suite], check_results, num_quarantined))
    add_page_headers(site, pages)
    run = publish_site(
        site,
        docs,
        title,
        started,
        pages,
        notes=[f"{result.subject}: {result.suite}: {result.observed}" for result in skipped],
        num_quarantined=sum(item.num for item in quarantined.values()),
    )
    all_results = [result for check_results in results for result in check_results]
    all_results += skipped
    write_json(folder / "results.json", [result.record() for result in all_results])
    for page, check_results in zip(pages, results, strict=True):
        if any(result.is_blocking for result in check_results):
            raise validation_error(title, all_results, run / page.path(run))
    return _log_results(title, all_results, run)


def _log_results(title: str, results: Sequence[RuleResult], run: Path) -> dict[str, JsonValue]:
    """Log results without blocking rules, and return their statistics."""
    num_critical = count_critical(results)
    logger.info("%s: all %d critical rules hold (%s)", title, num_critical, run / "index.html")
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


def _create_page(
    check: TableCheck, suite: SuiteFile, results: Sequence[RuleResult], num_quarantined: int
) -> SuitePage:
    broken = [result for result in results if result.is_broken]
    offenders = []
    if check.context:
        offenders = [(result.summary(), result.offenders) for result in broken if result.offenders]
    return SuitePage(
        name=check.name,
        subject=check.subject,
        title=f"{check.subject}: {check.suite}",
        suite=suite.path,
        sha256=suite.sha256,
        num_rules=len(results),
        num_broken=len(broken),
        is_warning=not any(result.is_blocking for result in broken),
        offenders=tuple(offenders),
        notes=(*check.notes, _WARN_ONLY_NOTE) if check.warn_only else check.notes,
        table=check.table,
        num_quarantined=num_quarantined,
    )


def _create_context(site: Path) -> EphemeralDataContext:
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
        plugins_directory=str(STYLES),
        data_docs_sites={
            "local": {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(site.resolve()),
                },
            }
        },
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _escape_html(table: pd.DataFrame) -> pd.DataFrame:
    """Escape the strings of a table; Great Expectations writes values into pages unescaped."""
    strings = table[[name for name in table if not pd.api.types.is_numeric_dtype(table[name])]]
    return table.assign(
        **strings.map(lambda value: html.escape(value) if isinstance(value, str) else value)
    )


def _run_check(
    context: EphemeralDataContext, check: TableCheck, file: SuiteFile, started: datetime
) -> list[RuleResult]:
    """Return the results of a check, in the order of its suite."""
    key = check.table.columns[0]
    parameters = dict(check.parameters)
    suite = load_suite(file, check.name, parameters, list(check.table))
    if check.warn_only:
        for rule in suite.expectations:
            rule.severity = FailureSeverity.WARNING
    suite = context.suites.add(suite)
    source = context.data_sources.add_or_update_pandas("tables")
    batch = source.add_dataframe_asset(check.name).add_batch_definition_whole_dataframe("all rows")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=check.name, data=batch, suite=suite)
    )
    validation = definition.run(
        batch_parameters={"dataframe": _escape_html(check.table)},
        expectation_parameters={name: parameters[name] for name in suite.suite_parameter_options},
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": [key],
            "partial_unexpected_count": MAX_OFFENDERS,
            "return_unexpected_index_query": False,
        },
        run_id=RunIdentifier(run_name=check.name, run_time=started),
    )
    by_id = {result.expectation_config.id: result for result in validation.results}
    results = []
    for rule in suite.expectations:
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
                key=key,
                context=check.context,
            )
        )
    return results
