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
from pydantic import JsonValue

from components.core.artifact import OBSERVED
from components.core.files import write_json
from components.validation.data_docs import STYLES, Page, publish, settle
from components.validation.outcome import Outcome, failure, outcome_of
from components.validation.suites import SUITES, load_suite

logger = logging.getLogger(__name__)

_MAX_VALUES_ON_A_PAGE = 20
"""Offending values that Data Docs list for a rule (Great Expectations' own default)."""
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Check:
    """One table to hold against one suite."""

    suite: str
    """Name of the file in `suites/`, without its ending."""
    subject: str
    """What is checked, e.g. the corpus; the run's name in Data Docs is made from it."""
    unit: str
    """What a row is, in the plural."""
    table: pd.DataFrame
    key: tuple[str, ...]
    """Columns by which a person finds a row."""
    parameters: Mapping[str, JsonValue]
    """Values for the `$PARAMETER`s and the descriptions of the suite."""

    @property
    def name(self) -> str:
        """How Data Docs call it."""
        return f"{self.suite}-{self.subject}".replace(" ", "-")


def run_checks(folder: Path, what: str, checks: Sequence[Check], *, docs: Path) -> dict[str, JsonValue]:
    """Hold every table against its suite, all rows of it, and publish what came out.

    Args:
        folder: the artifact's folder; gets `results.json` and, under `observed/`, a copy of the pages.
        what: what is checked, in words; names the run.
        docs: folder of all Data Docs; its `index.html` lists the runs.

    Returns:
        `num_expectations` and `num_passed`.

    Raises:
        ValidationFailed: a rule is broken. Data Docs are published all the same, and the error says where.
        ConfigError: a suite cannot be understood.
    """
    site = folder / OBSERVED / "data-docs"
    started = datetime.now(UTC)
    with _one_at_a_time:
        context = _context(site)
        outcomes = [_run(context, check, started) for check in checks]
        context.build_data_docs()
    settle(site)
    pages = [_page(check, own) for check, own in zip(checks, outcomes, strict=True)]
    run = publish(site, docs, what, started, pages)
    flat = [outcome for own in outcomes for outcome in own]
    write_json(folder / "results.json", [outcome.record() for outcome in flat])
    if broken := [page for page in pages if page.num_broken]:
        raise failure(what, flat, run / broken[0].path(run))
    logger.info("%s: all %d rules hold (%s)", what, len(flat), run / "index.html")
    return {"num_expectations": len(flat), "num_passed": sum(outcome.success for outcome in flat)}


def _page(check: Check, outcomes: Sequence[Outcome]) -> Page:
    num_broken = sum(not outcome.success for outcome in outcomes)
    return Page(check.name, f"{check.subject}: {check.suite}", num_rules=len(outcomes), num_broken=num_broken)


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
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site.resolve())},
            }
        },
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its strings escaped: Great Expectations writes values into pages as they are."""
    strings = table[[name for name in table if not pd.api.types.is_numeric_dtype(table[name])]]
    return table.assign(**strings.map(lambda value: html.escape(value) if isinstance(value, str) else value))


def _run(context: EphemeralDataContext, check: Check, started: datetime) -> list[Outcome]:
    """The outcomes of one check, in the order of its suite."""
    parameters = dict(check.parameters)
    suite = context.suites.add(load_suite(SUITES / f"{check.suite}.json", check.name, parameters))
    source = context.data_sources.add_or_update_pandas("tables")
    batch = source.add_dataframe_asset(check.name).add_batch_definition_whole_dataframe("all rows")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=check.name, data=batch, suite=suite))
    done = definition.run(
        batch_parameters={"dataframe": _harmless(check.table)},
        expectation_parameters={name: parameters[name] for name in suite.suite_parameter_options},
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": list(check.key),
            "partial_unexpected_count": _MAX_VALUES_ON_A_PAGE,
            "return_unexpected_index_query": False,
        },
        run_id=RunIdentifier(run_name=check.name, run_time=started),
    )
    results = {result.expectation_config.id: result for result in done.results}
    return [
        outcome_of(results[rule.id], suite=check.suite, subject=check.subject, unit=check.unit, key=check.key)
        for rule in suite.expectations
    ]
