"""Renders a page as HTML, as Markdown for the Prefect UI, and as text for a terminal.

The HTML is a file without external resources. A Content-Security-Policy in the page forbids
scripts and loads: if escaping ever failed, generated code still could not run or fetch anything.
The terminal version is the Markdown version, printed by Rich with sparklines instead of images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table

from components.core.store import Store
from components.core.templates import html_environment, markdown_environment
from components.report.charts import NARROW, WIDE, DotChart, LineChart, data_uri, draw
from components.report.formatting import plural, short_digest
from components.report.page import Page, Section
from components.report.results import RunResults
from components.report.results_page import results_page
from components.report.samples_page import samples_page

_PACKAGE = "components.report"
_SPARKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_WIDE = 10_000
"""Columns; more than any table has (assumption)."""
_PREVIEW_LINES = 12
"""Lines of a program in the terminal version; the HTML has all of it."""


class _FoldedTable(TableElement):
    """A table that wraps long words instead of cutting them, such as the label of an artifact.

    If it is wider than the page, its columns have no padding.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for item in super().__rich_console__(console, options):
            if isinstance(item, Table):
                for column in item.columns:
                    column.overflow = "fold"
                width = item.__rich_measure__(console, options.update(width=_WIDE)).maximum
                if width > options.max_width:
                    item.padding = (0, 0)
            yield item


class _FoldedMarkdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "table_open": _FoldedTable,
    }


def render_html(results: RunResults, store: Store) -> str:
    """The results report as a self-contained HTML document, equal for equal artifacts.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return page_html(results_page(results, store))


def render_samples(results: RunResults, store: Store) -> str:
    """The page of samples as a self-contained HTML document, for a file named `SAMPLES_PAGE`.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return page_html(samples_page(results, store))


def render_text(results: RunResults, store: Store, width: int = 120) -> str:
    """The results report as plain text of at most `width` columns, equal for equal artifacts.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return page_text(results_page(results, store), width)


def page_html(page: Page) -> str:
    """A page as an HTML document."""
    template = html_environment(_PACKAGE).get_template("page.html.j2")
    return template.render(page=page, draw=draw, wide=WIDE, narrow=NARROW, plural=plural)


def sections_markdown(sections: Sequence[Section]) -> str:
    """Sections as Markdown for the Prefect UI: charts are images, programs are in the report
    only."""
    return _markdown(sections, page=None)


def page_text(page: Page, width: int = 120) -> str:
    """A page as plain text of at most `width` columns."""
    markdown = _FoldedMarkdown(_markdown(page.sections, page=page), hyperlinks=False)
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(markdown)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _markdown(sections: Sequence[Section], page: Page | None) -> str:
    template = markdown_environment(_PACKAGE).get_template("page.md.j2")
    text = template.render(
        sections=sections,
        page=page,
        data_uri=data_uri,
        short_digest=short_digest,
        sparklines=sparklines,
        preview_lines=_PREVIEW_LINES,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def sparklines(chart: LineChart | DotChart) -> list[tuple[str, str, str]]:
    """Name, curve and range of each line on a common scale; none for a chart of dots."""
    if isinstance(chart, DotChart):
        return []
    lines = [(series.name, [point.y for point in series.points]) for series in chart.series]
    values = [value for _, line in lines for value in line]
    low, span = min(values), max(values) - min(values) or 1.0
    last = len(_SPARKS) - 1
    return [
        (
            name,
            "".join(_SPARKS[min(int((value - low) / span * len(_SPARKS)), last)] for value in line),
            f"{line[0]:.2f} \u2192 {line[-1]:.2f}",
        )
        for name, line in lines
    ]
