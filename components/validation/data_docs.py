"""Data Docs: publish the pages of Great Expectations, and complete them.

    docs/index.html                                      all runs, newest first, with their pages
    docs/raw-corpora-20261123T042241Z/                   the pages of a run, never changed again
    docs/raw-corpora-20261123T042241Z/quarantine.html    quarantined records, if there are any

The pages of a run are published by a rename while holding a file lock, so an interrupted run leaves
no incomplete site and two runs cannot mix their pages.

Great Expectations' pages load fonts, icons and scripts from a network. Without it they would not
show success or failure, so `styles/` adds these marks, and `docs/index.html` needs no script.
Quarantined records are hostile input: every character is shown as text, and invisible characters
by their code point.
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
from components.validation.profile import QuarantineSummary

STYLES = Path(__file__).parent / "styles"
"""Great Expectations' plug-in folder, which contains `custom_data_docs/styles/*.css`."""
QUARANTINE_PAGE = "quarantine.html"

_RUN_FILE = "run.json"
_MAX_ROWS = 50
"""Rows of a table on a page (assumption: all but the shards of a large corpus)."""
_MAX_EXCERPT_CHARS = 2000
"""Characters of a quarantined record on a page (assumption: a screen)."""
_DIGEST_CHARS = 12
"""Characters of a digest in a list; a page has all of them."""
_CONTENT = re.compile(r'<div class="container-fluid')
"""The start of the content of a page of Great Expectations, after its navigation bar."""
_REMOTE_LOGO = re.compile(
    r"<img\s[^>]*great-expectations-web-assets[^>]*>|url\([^)]*great-expectations-web-assets[^)]*\)"
)
"""An image from the makers' server with the context's id in its URL, which reports visits."""
_INDEX_TEMPLATE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Data Docs</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
h2 {{ font-size: 1.1rem; margin-bottom: 0 }}
ul {{ list-style: none; margin: 0; padding: 0 }}</style>
<h1>Data Docs</h1>
<p>Validation results of all runs, the latest run first.</p>
{runs}
</html>
"""
_QUARANTINE_TEMPLATE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Quarantine</title>
<style>body {{ font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
pre {{ background: #f6f8fa; overflow: auto; padding: 0.5rem;
  white-space: pre-wrap; word-break: break-all }}
h2 {{ font-size: 1.2rem }} h3 {{ font-size: 1rem; margin-bottom: 0 }} h3 + p {{ margin: 0 }}</style>
<h1>Quarantined records</h1>
<p>These records could not be read. They are in no corpus, and no rule applies to them. Each entry
has the location of the record, the reason, and its beginning. An offset counts bytes in a file of
lines, and rows in a table. <a href="index.html">All pages of this run</a></p>
{corpora}
</html>
"""


@dataclass(frozen=True, kw_only=True)
class SuitePage:
    """The page of a table and its suite."""

    name: str
    """The name of table and suite in Great Expectations."""
    subject: str
    title: str
    suite: Path
    """The suite file."""
    sha256: str
    """Of the suite file."""
    num_rules: int
    num_broken: int
    is_warning: bool
    """Whether no broken rule stops a run."""
    offenders: tuple[tuple[str, tuple[str, ...]], ...]
    """Broken rules with the documents that violate them; the page would only have table rows."""
    notes: tuple[str, ...]
    """Sentences for the top of the page."""
    table: pd.DataFrame
    num_quarantined: int
    """Records of the subject on `QUARANTINE_PAGE`, for a link."""

    def path(self, run: Path) -> Path:
        """Return the path of the page, relative to the run's folder."""
        return next(run.glob(f"validations/{self.name}/**/*.html")).relative_to(run)


def remove_images(site: Path) -> None:
    """Remove large images, and images whose URLs report visits, from a new site."""
    for image in (site / "static" / "images").glob("*.gif"):
        image.unlink()
    for page in site.rglob("*.html"):
        page.write_text(_REMOTE_LOGO.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")


def add_page_headers(site: Path, pages: Sequence[SuitePage]) -> None:
    """Add to each page its suite and notes at the top, offenders and table at the end."""
    for page in pages:
        path = page.path(site)
        root = "../" * (len(path.parts) - 1)
        _insert(site / path, _page_header(page, root))
        sections = [_offender_list(rule, names) for rule, names in page.offenders]
        _append(site / path, "\n".join([*sections, _table_section(page.table)]))


def _page_header(page: SuitePage, root: str) -> str:
    """Return the top of a page; `root` is the relative URL of the run's folder."""
    suite = html.escape(str(page.suite))
    lines = [f"Suite: <code>{suite}</code>, SHA-256 <code>{page.sha256}</code>"]
    lines += [html.escape(note) for note in page.notes]
    if page.num_quarantined:
        url = f"{root}{QUARANTINE_PAGE}#{html.escape(page.subject)}"
        link = f'<a href="{url}">quarantined records</a>'
        lines.append(f"Not among the documents: {link} ({page.num_quarantined:,})")
    return f'<div style="padding: 1rem; overflow-wrap: anywhere">{"<br>".join(lines)}</div>'


def _table_section(table: pd.DataFrame) -> str:
    """Return a table as HTML, transposed if it has more columns than rows."""
    title = "Validated table"
    if len(table) > _MAX_ROWS:
        title += f", first {_MAX_ROWS} of {len(table):,} rows"
    rows = table.head(_MAX_ROWS)
    is_wide = len(rows.columns) > len(rows)
    if is_wide:
        rows = rows.set_index(rows.columns[0]).T.rename_axis(columns=None)
    cells = rows.to_html(index=is_wide, border=0, na_rep="", float_format="{:.6g}".format)
    return f'<div style="padding: 1rem; overflow: auto"><h4>{title}</h4>\n{cells}</div>'


def _offender_list(rule: str, names: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(name)}</li>\n" for name in names)
    return f'<div style="padding: 1rem"><h4>{html.escape(rule)}</h4>\n<ul>\n{items}</ul></div>'


def write_quarantine_page(site: Path, corpora: Mapping[str, QuarantineSummary]) -> None:
    """Write `QUARANTINE_PAGE` into a site, with an anchor for each corpus."""
    sections = [_quarantine_section(name, summary) for name, summary in corpora.items()]
    content = _QUARANTINE_TEMPLATE.format(corpora="\n".join(sections))
    write_atomic(site / QUARANTINE_PAGE, content)


def _quarantine_section(name: str, summary: QuarantineSummary) -> str:
    counts = []
    entries = []
    for kind, num in sorted(summary.counts.items(), key=lambda item: (-item[1], item[0])):
        records = [record for record in summary.examples if record["kind"] == kind]
        excerpt_note = f", {len(records):,} of them below" if len(records) < num else ""
        counts.append(f"<li>{_visible_text(kind)}: {num:,}{excerpt_note}</li>")
        entries += [_quarantine_entry(record) for record in records]
    name = _visible_text(name)
    title = f'<h2 id="{name}">{name}: {summary.num:,}</h2>'
    return "\n".join([title, "<ul>", *counts, "</ul>", *entries])


def _quarantine_entry(record: Mapping[str, Any]) -> str:
    location = f"{_visible_text(record['file'])}, offset {record['offset']}"
    excerpt = _visible_text(str(record["excerpt"])[:_MAX_EXCERPT_CHARS], allowed="\n\t")
    reason = _visible_text(record["reason"])
    return f"<h3>{location}</h3>\n<p>{reason}</p>\n<pre>{excerpt}</pre>"


def _visible_text(value: str, allowed: str = "") -> str:
    """Return HTML text in which no character is a tag, moves other text, or is invisible."""
    visible = [
        char if char.isprintable() or char in allowed else f"\\u{{{ord(char):x}}}" for char in value
    ]
    return html.escape("".join(visible))


def publish_site(
    site: Path,
    docs: Path,
    title: str,
    started: datetime,
    pages: Sequence[SuitePage],
    *,
    notes: Sequence[str],
    num_quarantined: int,
) -> Path:
    """Copy a site to the Data Docs and list it; return its new folder.

    Args:
        site: the pages that Great Expectations built.
        docs: folder of all Data Docs.
        title: names the validated data.
        started: start of the run.
        pages: the pages to list.
        notes: sentences to list.
        num_quarantined: records on the site's quarantine page; 0 if there is no such page.

    Raises:
        DiskFullError: the disk is full; nothing is listed then.
    """
    docs.mkdir(parents=True, exist_ok=True)
    partial = docs / ".partial"
    with FileLock(docs / ".lock"), wrap_disk_full("publishing Data Docs"):
        # Left by an interrupted run: no other process writes it while this one holds the lock.
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(site, partial)
        record = {
            "title": title,
            "started": started.isoformat(timespec="seconds"),
            "pages": [_page_record(page, partial) for page in pages],
            "notes": list(notes),
            "num_quarantined": num_quarantined,
        }
        # Great Expectations' own list of pages needs a script from the network.
        _insert(partial / "index.html", _page_list(record, ""))
        write_json(partial / _RUN_FILE, record)
        run = _unused_path(docs, f"{title.replace(' ', '-')}-{started:%Y%m%dT%H%M%SZ}")
        partial.rename(run)
        _write_index(docs)
    return run


def _page_record(page: SuitePage, run: Path) -> dict[str, Any]:
    return {
        "name": page.name,
        "title": page.title,
        "num_rules": page.num_rules,
        "num_broken": page.num_broken,
        "is_warning": page.is_warning,
        "sha256": page.sha256,
        "suite": str(page.suite),
        "path": page.path(run).as_posix(),
    }


def _insert(page: Path, content: str) -> None:
    text = page.read_text(encoding="utf-8")
    text = _CONTENT.sub(lambda match: f"{content}\n{match[0]}", text, count=1)
    page.write_text(text, encoding="utf-8")


def _append(page: Path, content: str) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", f"{content}\n</body>"), encoding="utf-8")


def _unused_path(docs: Path, name: str) -> Path:
    path = docs / name
    number = 1
    while path.exists():
        number += 1
        path = docs / f"{name}-{number}"
    return path


def _write_index(docs: Path) -> None:
    runs = [(read_json(path), path.parent.name) for path in docs.glob(f"*/{_RUN_FILE}")]
    runs.sort(key=lambda run: (run[0]["started"], run[1]), reverse=True)
    sections = [_run_section(record, name) for record, name in runs]
    write_atomic(docs / "index.html", _INDEX_TEMPLATE.format(runs="\n".join(sections)))


def _run_section(record: Mapping[str, Any], folder: str) -> str:
    title = record.get("title") or record["what"]  # "what": written by earlier releases.
    started = datetime.fromisoformat(record["started"])
    heading = html.escape(f"{title}, {started:%d %B %Y %H:%M:%S} UTC")
    return f"<h2>{heading}</h2>\n{_page_list(record, f'{folder}/')}"


def _page_list(record: Mapping[str, Any], prefix: str) -> str:
    """Return the pages of a run as a list; earlier releases wrote records without some keys."""
    items = [_page_item(page, prefix) for page in record["pages"]]
    items += [f"<li>{html.escape(note)}</li>\n" for note in record.get("notes", ())]
    if num_quarantined := record.get("num_quarantined", 0):
        link = f'<a href="{html.escape(prefix + QUARANTINE_PAGE)}">quarantined records</a>'
        items.append(f"<li>{link}: {num_quarantined:,}</li>\n")
    return f"<ul>\n{''.join(items)}</ul>"


def _page_item(page: Mapping[str, Any], prefix: str) -> str:
    num_rules = page["num_rules"]
    num_broken = page["num_broken"]
    color, symbol, result = "#1a7f37", "✔", f"all {num_rules} rules hold"
    if num_broken:
        color, symbol, result = "#cf222e", "✘", f"{num_broken} of {num_rules} rules broken"
        if page.get("is_warning"):
            color, symbol, result = "#9a6700", "!", f"{result}, a warning"
    status = f'<span style="color: {color}">{symbol}</span>'
    link = f'<a href="{html.escape(prefix + page["path"])}">{html.escape(page["title"])}</a>'
    return f"<li>{status} {link}: {result}{_suite_label(page)}</li>\n"


def _suite_label(page: Mapping[str, Any]) -> str:
    """Return the name and digest of a page's suite; earlier releases did not record it."""
    if "suite" not in page:
        return ""
    path = Path(page["suite"])
    full = html.escape(f"{path}, SHA-256 {page['sha256']}")
    short = html.escape(f"{path.name} {page['sha256'][:_DIGEST_CHARS]}")
    return f' <small style="color: #59636e" title="{full}">{short}</small>'
