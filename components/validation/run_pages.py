"""Pages about the validations of a workspace, which need neither a script nor a network.

    index.html                                   all runs, newest first, with their pages
    runs/raw-corpora-20261123T042241Z/           a run, never changed again:
        index.html                               rules, offenders and validated tables
        quarantine.html                          quarantined records, if there are any

They link to the unchanged pages of Great Expectations, which cannot show the documents that break a
rule: it validates counts. The pages of a run are published by a rename, so an interrupted run
leaves no incomplete page; the caller holds a lock. Quarantined records are hostile input: the
templates escape every value.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from components.core.files import read_json, wrap_disk_full, write_atomic, write_json
from components.core.templates import html_environment
from components.validation.profile import QuarantineSummary
from components.validation.rule_results import RuleResult

INDEX = "index.html"
_QUARANTINE = "quarantine.html"
_RUN_FILE = "run.json"
_MAX_ROWS = 50
"""Rows of a table on a page (assumption: all but the shards of a large corpus)."""
_MAX_EXCERPT_CHARS = 2000
"""Characters of a quarantined record on a page (assumption: a screen)."""


@dataclass(frozen=True, kw_only=True)
class SuitePage:
    """A table and the results of its suite, a section of a page."""

    name: str
    """The name of table and suite in Great Expectations."""
    subject: str
    title: str
    suite: Path
    """The suite file."""
    sha256: str
    """Of the suite file."""
    results: Sequence[RuleResult]
    notes: Sequence[str]
    table: pd.DataFrame
    gx_page: str
    """The page of Great Expectations, relative to its project."""

    @property
    def record(self) -> dict[str, Any]:
        """The entry in the lists of pages."""
        return {
            "name": self.name,
            "title": self.title,
            "suite": str(self.suite),
            "sha256": self.sha256,
            "num_rules": len(self.results),
            "num_broken": sum(result.is_broken for result in self.results),
            "is_warning": not any(result.is_blocking for result in self.results),
        }

    @property
    def rows(self) -> list[list[str]]:
        """The table with its header as text, transposed if it has more columns than rows."""
        table = self.table.head(_MAX_ROWS)
        rows = [list(table.columns), *table.itertuples(index=False)]
        if len(table.columns) > len(table):
            rows = list(zip(*rows, strict=True))
        return [[_cell(value) for value in row] for row in rows]


def unused_run_folder(root: Path, title: str, started: datetime) -> Path:
    """Return the path of a new run in a project; the caller holds the lock of the project."""
    name = f"{title.replace(' ', '-')}-{started:%Y%m%dT%H%M%SZ}"
    path = root / "runs" / name
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{name}-{number}")
    return path


def publish_run(
    run: Path,
    title: str,
    started: datetime,
    pages: Sequence[SuitePage],
    *,
    notes: Sequence[str],
    quarantined: Mapping[str, QuarantineSummary],
) -> None:
    """Write the pages of a run, and list it in the index of the project.

    Args:
        run: the new folder, see `unused_run_folder`.
        title: names the validated data.
        started: start of the run.
        pages: the sections of the page.
        notes: sentences to list.
        quarantined: quarantined records by the subject of the pages.

    Raises:
        DiskFullError: the disk is full; nothing is listed then.
    """
    root = run.parent.parent
    record = {
        "title": title,
        "started": started.isoformat(timespec="seconds"),
        "pages": [page.record for page in pages],
        "notes": list(notes),
        "num_quarantined": sum(summary.num for summary in quarantined.values()),
    }
    partial = root / ".partial"
    with wrap_disk_full("publishing the pages of a validation"):
        # Left by an interrupted run: no other process writes it while this one holds the lock.
        shutil.rmtree(partial, ignore_errors=True)
        _write_page(
            partial / INDEX,
            "run",
            run=record,
            pages=pages,
            quarantined=quarantined,
            max_rows=_MAX_ROWS,
        )
        if quarantined:
            _write_page(
                partial / _QUARANTINE,
                "quarantine",
                corpora=quarantined,
                max_chars=_MAX_EXCERPT_CHARS,
            )
        write_json(partial / _RUN_FILE, record)
        run.parent.mkdir(exist_ok=True)
        partial.rename(run)
        runs = [(read_json(path), path.parent.name) for path in run.parent.glob(f"*/{_RUN_FILE}")]
        runs.sort(key=lambda item: (item[0]["started"], item[1]), reverse=True)
        _write_page(root / INDEX, "runs", runs=runs)


def _write_page(path: Path, template: str, **values: Any) -> None:
    page = html_environment("components.validation").get_template(f"{template}.html.j2")
    write_atomic(path, page.render(values))


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
