"""Data Docs: where the pages of Great Expectations go, and how they are found again.

    docs/index.html                       all runs, newest first, with a link to each of their pages
    docs/raw-corpora-20261123T042241Z/    the Data Docs of one run, never changed again
    docs/raw-corpora-20261123T042241Z/quarantine.html    the records that were set aside, if there are any

Design decision: a run's pages are published by one rename, under a lock that dies with its process, so a killed run leaves
no half a site and two runs cannot mix theirs. A run that failed keeps its pages when a later one succeeds.

Great Expectations' pages take fonts, icons and scripts from content delivery networks. Without a network they would show
neither success nor failure, so `styles/` adds what is needed to read them, and `docs/index.html` needs no script.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from components.core.files import read_json, wrap_disk_full, write_atomic, write_json
from components.validation.quarantine_page import QUARANTINE_PAGE

STYLES = Path(__file__).parent / "styles"
"""What Great Expectations calls a plug-in folder: it takes `custom_data_docs/styles/*.css` from there."""

_RUN = "run.json"
_MAX_ROWS = 50
"""Rows of a table that are shown whole (assumption: all but the shards of a large corpus)."""
_DIGITS = 12
"""Of a digest, in a list; a page has all of them."""
_CONTENT = re.compile(r'<div class="container-fluid')
"""Where the content of a page of Great Expectations begins, below its bar."""
_REMOTE_LOGO = re.compile(
    r"<img\s[^>]*great-expectations-web-assets[^>]*>|url\([^)]*great-expectations-web-assets[^)]*\)"
)
"""A picture fetched from the makers' server, with the id of the context in its address: a counter of visits."""
_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Data Docs</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
h2 {{ font-size: 1.1rem; margin-bottom: 0 }} ul {{ list-style: none; margin: 0; padding: 0 }}</style>
<h1>Data Docs</h1>
<p>What was expected of the data and what was found, the latest run first.</p>
{runs}
</html>
"""


@dataclass(frozen=True)
class Page:
    """One page of a run: a table held against a suite."""

    name: str
    """The name of the table and of the suite in Great Expectations."""
    subject: str
    title: str
    suite: Path
    """The suite's file."""
    sha256: str
    """Of that file."""
    num_rules: int
    num_broken: int
    is_warning: bool
    """Whether what is broken stops no run."""
    named: tuple[tuple[str, tuple[str, ...]], ...]
    """Broken rules in words, each with what breaks it: put on the page, which otherwise has only rows of the table."""
    notes: tuple[str, ...]
    """Sentences for the head of the page."""
    table: pd.DataFrame
    """What the rules were held against."""
    num_quarantined: int
    """Records of the subject that are on `QUARANTINE_PAGE`, for a link to them."""

    def path(self, run: Path) -> Path:
        """Where the page is, relative to the run's folder."""
        return next(run.glob(f"validations/{self.name}/**/*.html")).relative_to(run)


def normalize_urls(site: Path) -> None:
    """Take out of a site that was just built what is large and not needed, and what reports visits to others."""
    for picture in (site / "static" / "images").glob("*.gif"):
        picture.unlink()
    for page in site.rglob("*.html"):
        page.write_text(_REMOTE_LOGO.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")


def add_page_headers(site: Path, pages: Sequence[Page]) -> None:
    """Put on each page of a site what Great Expectations does not: which suite, what breaks its rules, and the table."""
    for page in pages:
        path = page.path(site)
        _insert(site / path, _head(page, "../" * (len(path.parts) - 1)))
        _append(
            site / path,
            "\n".join(
                [*(_offenders(rule, names) for rule, names in page.named), _table(page.table)]
            ),
        )


def _head(page: Page, top: str) -> str:
    """What stands above all else; `top` leads to the folder of the run."""
    lines = [
        f"Suite: <code>{html.escape(str(page.suite))}</code>, SHA-256 <code>{page.sha256}</code>"
    ]
    lines += [html.escape(note) for note in page.notes]
    if page.num_quarantined:
        link = f'<a href="{top}{QUARANTINE_PAGE}#{html.escape(page.subject)}">records that were set aside</a>'
        lines.append(f"Not among the documents: {link} ({page.num_quarantined:,})")
    return f'<div style="padding: 1rem; overflow-wrap: anywhere">{"<br>".join(lines)}</div>'


def _table(table: pd.DataFrame) -> str:
    """The table as HTML, upright where it is wider than long."""
    rows = f"its first {_MAX_ROWS} of {len(table):,} rows" if len(table) > _MAX_ROWS else "whole"
    shown = table.head(_MAX_ROWS)
    is_wide = len(shown.columns) > len(shown)
    upright = shown.set_index(shown.columns[0]).T.rename_axis(columns=None) if is_wide else shown
    cells = upright.to_html(index=is_wide, border=0, na_rep="", float_format="{:.6g}".format)
    return f'<div style="padding: 1rem; overflow: auto"><h4>The table that was judged, {rows}</h4>\n{cells}</div>'


def _offenders(rule: str, names: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(name)}</li>\n" for name in names)
    return f'<div style="padding: 1rem"><h4>{html.escape(rule)}</h4>\n<ul>\n{items}</ul></div>'


def publish(
    site: Path,
    docs: Path,
    what: str,
    started: datetime,
    pages: Sequence[Page],
    *,
    notes: Sequence[str],
    num_quarantined: int,
) -> Path:
    """Copy a site among the Data Docs and list it; returns its folder there.

    Args:
        site: pages as Great Expectations built them.
        docs: folder of all Data Docs.
        what: what was checked, in words.
        started: when.
        pages: those of the site that are listed.
        notes: sentences that are listed as well.
        num_quarantined: records on the site's page of quarantined ones; 0 where there is no such page.

    Raises:
        StorageFull: no room; nothing is listed then.
    """
    docs.mkdir(parents=True, exist_ok=True)
    partial = docs / ".partial"
    with FileLock(docs / ".lock"), wrap_disk_full("publishing Data Docs"):
        shutil.rmtree(
            partial, ignore_errors=True
        )  # Of a run that was killed: we hold the lock, so nobody is writing it.
        shutil.copytree(site, partial)
        run_record = {
            "what": what,
            "started": started.isoformat(timespec="seconds"),
            "pages": [_listed(page, partial) for page in pages],
            "notes": list(notes),
            "num_quarantined": num_quarantined,
        }
        # Great Expectations builds the table of its index with a script from the network: this lists the pages without one.
        _insert(partial / "index.html", _listing(run_record, ""))
        write_json(partial / _RUN, run_record)
        run = _free_name(docs, f"{what.replace(' ', '-')}-{started:%Y%m%dT%H%M%SZ}")
        partial.rename(run)
        _write_index(docs)
    return run


def _listed(page: Page, run: Path) -> dict[str, Any]:
    kept = ("name", "title", "num_rules", "num_broken", "is_warning", "sha256")
    listed = {name: getattr(page, name) for name in kept}
    return {**listed, "suite": str(page.suite), "path": page.path(run).as_posix()}


def _insert(page: Path, content: str) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(
        _CONTENT.sub(lambda found: f"{content}\n{found[0]}", text, count=1), encoding="utf-8"
    )


def _append(page: Path, content: str) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", f"{content}\n</body>"), encoding="utf-8")


def _free_name(docs: Path, name: str) -> Path:
    candidates = (
        docs / (name if number == 1 else f"{name}-{number}")
        for number in range(1, len(list(docs.iterdir())) + 2)
    )
    return next(path for path in candidates if not path.exists())


def _write_index(docs: Path) -> None:
    runs = [(read_json(path), path.parent.name) for path in docs.glob(f"*/{_RUN}")]
    runs.sort(key=lambda run: (run[0]["started"], run[1]), reverse=True)
    write_atomic(
        docs / "index.html", _PAGE.format(runs="\n".join(_run(run, name) for run, name in runs))
    )


def _run(run: Mapping[str, Any], name: str) -> str:
    started = datetime.fromisoformat(run["started"])
    title = html.escape(f"{run['what']}, {started:%d %B %Y %H:%M:%S} UTC")
    return f"<h2>{title}</h2>\n{_listing(run, f'{name}/')}"


def _listing(run: Mapping[str, Any], place: str) -> str:
    items = [_item(page, place) for page in run["pages"]]
    items += [
        f"<li>{html.escape(note)}</li>\n" for note in run.get("notes", ())
    ]  # A run of an earlier release has none.
    if num := run.get("num_quarantined", 0):
        items.append(
            f'<li><a href="{html.escape(place + QUARANTINE_PAGE)}">records that were set aside</a>: {num:,}</li>\n'
        )
    return f"<ul>\n{''.join(items)}</ul>"


def _item(page: Mapping[str, Any], place: str) -> str:
    num_rules, num_broken = page["num_rules"], page["num_broken"]
    found = (
        f"{num_broken} of {num_rules} rules broken" if num_broken else f"all {num_rules} rules hold"
    )
    mark = (
        '<span style="color: #cf222e">✘</span>'
        if num_broken
        else '<span style="color: #1a7f37">✔</span>'
    )
    if num_broken and page.get("is_warning"):
        mark, found = '<span style="color: #9a6700">!</span>', f"{found}, a warning"
    link = f'<a href="{html.escape(place + page["path"])}">{html.escape(page["title"])}</a>'
    return f"<li>{mark} {link}: {found}{_suite(page)}</li>\n"


def _suite(page: Mapping[str, Any]) -> str:
    """Which rules these were. A run of an earlier release does not say."""
    if "suite" not in page:
        return ""
    path = Path(page["suite"])
    whole = html.escape(f"{path}, SHA-256 {page['sha256']}")
    name = html.escape(f"{path.name} {page['sha256'][:_DIGITS]}")
    return f' <small style="color: #59636e" title="{whole}">{name}</small>'
