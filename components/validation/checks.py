"""Hold tables against suites, with Great Expectations, and leave Data Docs behind.

Design decision: each run has an ephemeral Great Expectations context of its own and renders into a folder of its own. A
file context keeps its settings and stores in shared files that are rewritten in place: a run that is killed there, or two
that meet, leave a context that no later run can load. What is worth keeping are the pages and the outcomes, and those are
published in one move by `data_docs`. Great Expectations also keeps the current context in a global of the process, so runs
in one process take turns.
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
from components.validation.data_docs import STYLES, Page, add_page_headers, normalize_urls, publish
from components.validation.outcome import (
    MAX_OFFENDERS,
    CountContext,
    RuleResult,
    expectation_error,
    failure,
    num_judged,
    outcome_of,
)
from components.validation.quarantine_page import QuarantineSummary, write_quarantine
from components.validation.suite_files import SuiteFile, Suites, broken_suite
from components.validation.suites import load_suite

logger = logging.getLogger(__name__)

_gx_lock = threading.Lock()

_ONLY_WARNS = (
    'validation.drift is "warn": a rule of this suite that is broken is shown, and stops nothing.'
)


@dataclass(frozen=True, kw_only=True)
class TableCheck:
    """One table to hold against one suite."""

    suite: str
    """Name of its file, without its ending."""
    subject: str
    """What is checked, e.g. the corpus; the run's name in Data Docs is made from it."""
    unit: str
    """What a row is, in the plural."""
    table: pd.DataFrame
    key: tuple[str, ...]
    """Columns by which a person finds a row."""
    parameters: Mapping[str, JsonValue]
    """Values for the `$PARAMETER`s and the descriptions of the suite."""
    evidence: CountContext | None = None
    """What the numbers of the table count, where they count things."""
    warn_only: bool = False
    """Whether rules that are broken are shown and stop nothing, whatever severity the suite gives them."""
    notes: tuple[str, ...] = ()
    """Sentences for the head of its page."""

    @property
    def name(self) -> str:
        """How Data Docs call it."""
        return f"{self.suite}-{self.subject}".replace(" ", "-")


def run_checks(
    folder: Path,
    what: str,
    checks: Sequence[TableCheck],
    *,
    docs: Path,
    suites: Suites,
    not_judged: Sequence[RuleResult] = (),
    quarantined: Mapping[str, QuarantineSummary] | None = None,
) -> dict[str, JsonValue]:
    """Hold every table against its suite, all rows of it, and publish what came out.

    Args:
        folder: the artifact's folder; gets `results.json` and, under `observed/`, a copy of the pages.
        what: what is checked, in words; names the run.
        checks: what to hold against which suite.
        docs: folder of all Data Docs; its `index.html` lists the runs.
        suites: the rules.
        not_judged: suites that could not be applied, and why; shown beside the rest.
        quarantined: records that were set aside, by the subject of the checks from which they are missing; they get a page.

    Returns:
        `num_expectations` and `num_passed`, of the rules that have to hold; `num_warnings` and `warnings`, a sentence for
        each other rule that does not.

    Raises:
        ValidationFailed: a rule is broken that has to hold. Data Docs are published all the same; the error says where.
        ConfigError: a suite cannot be understood.
    """
    site = folder / OBSERVED_DIR / "data-docs"
    started = datetime.now(UTC)
    with _gx_lock:
        context = _context(site)
        outcomes = [_run(context, check, suites[check.suite], started) for check in checks]
        context.build_data_docs()
    normalize_urls(site)
    aside = {subject: one for subject, one in (quarantined or {}).items() if one.num}
    if aside:
        write_quarantine(site, aside)
    nums = {subject: one.num for subject, one in aside.items()}
    pages = [
        _page(check, suites[check.suite], own, nums.get(check.subject, 0))
        for check, own in zip(checks, outcomes, strict=True)
    ]
    add_page_headers(site, pages)
    notes = [f"{one.subject}: {one.suite}: {one.observed}" for one in not_judged]
    run = publish(site, docs, what, started, pages, notes=notes, num_quarantined=sum(nums.values()))
    flat = [*(outcome for own in outcomes for outcome in own), *not_judged]
    write_json(folder / "results.json", [outcome.record() for outcome in flat])
    if stopping := [
        page
        for page, own in zip(pages, outcomes, strict=True)
        if any(one.is_blocking for one in own)
    ]:
        raise failure(what, flat, run / stopping[0].path(run))
    return _say(what, flat, run)


def _say(what: str, outcomes: Sequence[RuleResult], run: Path) -> dict[str, JsonValue]:
    """Log what came out of checks that stop nothing; returns their statistics."""
    num = num_judged(outcomes)
    logger.info("%s: all %d rules that have to hold do (%s)", what, num, run / "index.html")
    for outcome in outcomes:
        if outcome.is_broken:
            logger.warning("%s: %s", what, outcome.sentence())
        if outcome.success is None:
            logger.info("%s: %s: %s: %s", what, outcome.subject, outcome.suite, outcome.observed)
    warnings: list[JsonValue] = [outcome.sentence() for outcome in outcomes if outcome.is_broken]
    return {
        "num_expectations": num,
        "num_passed": num,
        "num_warnings": len(warnings),
        "warnings": warnings,
    }


def _page(
    check: TableCheck, suite: SuiteFile, outcomes: Sequence[RuleResult], num_quarantined: int
) -> Page:
    broken = [outcome for outcome in outcomes if outcome.is_broken]
    return Page(
        check.name,
        check.subject,
        f"{check.subject}: {check.suite}",
        suite=suite.path,
        sha256=suite.sha256,
        num_rules=len(outcomes),
        num_broken=len(broken),
        is_warning=not any(outcome.is_blocking for outcome in broken),
        named=tuple(
            (outcome.sentence(), outcome.offenders)
            for outcome in broken
            if check.evidence and outcome.offenders
        ),
        notes=(*check.notes, *((_ONLY_WARNS,) if check.warn_only else ())),
        table=check.table,
        num_quarantined=num_quarantined,
    )


def _context(site: Path) -> EphemeralDataContext:
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
    """The table with its strings escaped: Great Expectations writes values into pages as they are."""
    strings = table[[name for name in table if not pd.api.types.is_numeric_dtype(table[name])]]
    return table.assign(
        **strings.map(lambda value: html.escape(value) if isinstance(value, str) else value)
    )


def _run(
    context: EphemeralDataContext, check: TableCheck, file: SuiteFile, started: datetime
) -> list[RuleResult]:
    """The outcomes of one check, in the order of its suite."""
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
    done = definition.run(
        batch_parameters={"dataframe": _escape_html(check.table)},
        expectation_parameters={name: parameters[name] for name in suite.suite_parameter_options},
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": list(check.key),
            "partial_unexpected_count": MAX_OFFENDERS,
            "return_unexpected_index_query": False,
        },
        run_id=RunIdentifier(run_name=check.name, run_time=started),
    )
    results = {result.expectation_config.id: result for result in done.results}
    for rule in suite.expectations:
        if trouble := expectation_error(results[rule.id]):
            problem = f"has a rule ({rule.description}) that cannot be judged: {trouble}"
            raise broken_suite(
                file.path,
                problem,
                f"a rule that can be held against the columns {', '.join(check.table)}",
            )
    return [
        outcome_of(
            results[rule.id],
            suite=check.suite,
            subject=check.subject,
            unit=check.unit,
            key=check.key,
            evidence=check.evidence,
        )
        for rule in suite.expectations
    ]
