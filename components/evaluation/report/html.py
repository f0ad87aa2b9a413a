"""The page as one HTML file that loads nothing: style and charts inside, no script, light and dark, phone to desk.

One decision: a Content-Security-Policy in the page itself forbids every script and every load. Should escaping ever fail,
what a model wrote still could not run, call out or fetch.
"""

from __future__ import annotations

from functools import singledispatch
from importlib import resources

from components.core.store import Store
from components.evaluation.report.cells import Cell, Column, Source, Table
from components.evaluation.report.charts import NARROW, WIDE, curve_chart, dot_chart, line_chart
from components.evaluation.report.compose import compose
from components.evaluation.report.filters import controls, mark_of
from components.evaluation.report.gallery import samples_page
from components.evaluation.report.markup import Element, append, document, node
from components.evaluation.report.page import (
    NO_EXCERPT,
    Block,
    Card,
    Cards,
    Commands,
    Excerpt,
    Excerpts,
    Facts,
    Gallery,
    Lineage,
    Link,
    Node,
    Page,
    Paragraph,
    Sample,
    Samples,
    Section,
    Verdict,
)
from components.evaluation.report.plots import CurveChart, DotChart, LineChart
from components.evaluation.report.results import RunResults

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_VERDICT_SIGNS = {True: "\u2713", False: "\u2717", None: "?"}
_VERDICT_TONES = {True: "good", False: "bad", None: "quiet"}


def render_html(results: RunResults, store: Store) -> str:
    """The page of results as a self-contained HTML document, the same text for the same artifacts.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return html_of(compose(results, store))


def render_samples(results: RunResults, store: Store) -> str:
    """The page of samples as a self-contained HTML document, to lie beside the page of results as `SAMPLES_PAGE`.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return html_of(samples_page(results, store))


def html_of(page: Page) -> str:
    """A page as an HTML document."""
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("title", page.title),
        node(
            "style",
            (resources.files("components.evaluation.report") / "style.css").read_text(
                encoding="utf-8"
            ),
        ),
    )
    header = node(
        "header",
        node("p", page.subtitle, class_="subtitle"),
        node("h1", page.title),
        node("div", _block(page.headline), class_="headline"),
    )
    links = [node("a", section.title, href=f"#{section.anchor}") for section in page.sections]
    main = node("main", *(_section(section) for section in page.sections))
    body = node(
        "body", header, node("nav", *links, aria_label="Sections") if len(links) > 1 else None, main
    )
    return document(node("html", head, body, lang="en"))


def _section(section: Section) -> Element:
    lead = node("p", section.lead, class_="lead") if section.lead else None
    return node(
        "section",
        node("h2", section.title),
        lead,
        *(_block(block) for block in section.blocks),
        id=section.anchor,
    )


@singledispatch
def _block(block: Block) -> Element:
    raise TypeError(f"no HTML is written for {type(block).__name__}")


@_block.register
def _(block: Paragraph) -> Element:
    return node("p", block.text, class_=block.tone)


@_block.register
def _(block: Link) -> Element:
    return node("p", node("a", block.text, href=block.file))


@_block.register
def _(block: Verdict) -> Element:
    sign = node("span", _VERDICT_SIGNS[block.holds], class_="sign", aria_hidden="true")
    return node(
        "p", sign, node("span", block.text), class_=f"verdict {_VERDICT_TONES[block.holds]}"
    )


@_block.register
def _(block: Cards) -> Element:
    return node("div", *(_card(card) for card in block.cards), class_="cards")


def _card(card: Card) -> Element:
    title = node("h3", _mark(card.mark), card.title)
    lines = (node("p", line) for line in card.lines)
    return node(
        "article",
        title,
        node("p", card.state, class_=f"state {card.tone}"),
        *lines,
        class_=f"card {card.mark}",
    )


@_block.register
def _(block: Facts) -> Element:
    return node(
        "dl",
        *(node("div", node("dt", name), node("dd", *_inside(cell))) for name, cell in block.items),
    )


@_block.register
def _(block: Table) -> Element:
    body = node("tbody", *(_row(row, block) for row in block.rows))
    table = node("table", _head(block.columns), body, aria_label=block.caption)
    # The caption stays outside of what scrolls sideways on a phone.
    scroller = node(
        "div", table, class_="scroller", role="region", aria_label=block.caption, tabindex=0
    )
    footnote = node("p", block.footnote, class_="footnote") if block.footnote else None
    parts = (scroller, footnote, _sources(block.sources))
    if block.folded:
        summary = node("summary", node("h3", block.caption))
        return node("figure", node("details", summary, *parts, class_="folded"), class_="table")
    return node("figure", node("h3", block.caption), *parts, class_="table")


def _head(columns: tuple[Column, ...]) -> Element:
    titles = node(
        "tr",
        *(
            node("th", one.title, scope="col", class_="number" if one.numeric else "")
            for one in columns
        ),
    )
    if not any(one.group for one in columns):
        return node("thead", titles)
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    cells = (
        node("th", name, colspan=span, scope="colgroup", class_="group" if name else "")
        for name, span in groups
    )
    return node("thead", node("tr", *cells), titles)


def _row(row: tuple[Cell, ...], table: Table) -> Element:
    first, *others = row
    cells = (_field(cell, column) for cell, column in zip(others, table.columns[1:], strict=True))
    return node("tr", node("th", *_inside(first), scope="row", class_=first.tone), *cells)


def _field(cell: Cell, column: Column) -> Element:
    classes = " ".join(name for name in ("number" if column.numeric else "", cell.tone) if name)
    return node("td", *_inside(cell), class_=classes)


def _inside(cell: Cell) -> tuple[Element | str | None, ...]:
    text = (
        node("code", cell.text, title=cell.title)
        if cell.code
        else node("span", cell.text, title=cell.title)
    )
    bar = (
        node("span", class_="bar", style=f"width:{100 * cell.share:.0f}%")
        if cell.share is not None
        else None
    )
    return (_mark(cell.mark), text, node("small", cell.note) if cell.note else None, bar)


def _mark(mark: str) -> Element | None:
    return node("span", class_=f"mark {mark}", aria_hidden="true") if mark else None


def _sources(sources: tuple[Source, ...]) -> Element | None:
    if not sources:
        return None
    items = (
        node("li", node("code", one.label), " ", node("code", one.digest, class_="quiet"))
        for one in sources
    )
    summary = f"from {len(sources)} artifact{'s' if len(sources) > 1 else ''}"
    return node("details", node("summary", summary), node("ul", *items), class_="sources")


@_block.register
def _(block: LineChart) -> Element:
    return _captioned(block, line_chart(block, WIDE), line_chart(block, NARROW))


@_block.register
def _(block: CurveChart) -> Element:
    return _captioned(block, curve_chart(block, WIDE), curve_chart(block, NARROW))


def _captioned(block: LineChart | CurveChart, wide: Element, narrow: Element) -> Element:
    title, caption = node("h3", block.title), node("figcaption", block.caption)
    return node("figure", title, wide, narrow, caption, _sources(block.sources), class_="chart")


@_block.register
def _(block: DotChart) -> Element:
    return node(
        "figure",
        node("h3", block.title),
        dot_chart(block, WIDE),
        dot_chart(block, NARROW),
        class_="chart",
    )


@_block.register
def _(block: Lineage) -> Element:
    roots = node("div", *(_node(one) for one in block.roots), class_="roots")
    rows = (_lineage_row(block, mark, name, columns) for mark, name, columns in block.rows)
    return node("div", roots, *rows, class_="lineage")


def _lineage_row(
    block: Lineage, mark: str, name: str, columns: tuple[tuple[Node, ...], ...]
) -> Element:
    cells = (
        node(
            "div",
            node("p", title, class_="kind"),
            *(_node(one) for one in nodes),
            class_="cell" if nodes else "cell empty",
        )
        for title, nodes in zip(block.columns, columns, strict=True)
    )
    return node("div", node("h3", _mark(mark), name), *cells, class_="chain")


def _node(one: Node) -> Element:
    note = node("small", one.note) if one.note else None
    return node(
        "p",
        node("span", one.label),
        " ",
        node("code", one.digest),
        note,
        class_="node",
        title=one.title,
    )


@_block.register
def _(block: Samples) -> Element:
    return node(
        "div", *(_sample(one) for one in block.samples), _sources(block.sources), class_="samples"
    )


def _sample(sample: Sample, marks: str = "") -> Element:
    verdict = node("span", sample.verdict, class_=f"state {sample.tone}")
    title = node("h3", _mark(sample.mark), sample.heading, " ", verdict)
    code = node("code")
    for place, (prompt, completion) in enumerate(sample.turns):
        append(code, "\n\n" if place else None)
        append(code, node("span", prompt, class_="quiet"))
        append(code, completion)
    note = node("small", sample.note) if sample.note else None
    return node(
        "article", title, note, node("pre", code, tabindex=0), class_=f"sample {marks}".strip()
    )


@_block.register
def _(block: Gallery) -> Element:
    options = [block.options(index) for index in range(len(block.filters))]
    articles = []
    for sample, values in block.samples:
        marks = (mark_of(index, options[index].index(value)) for index, value in enumerate(values))
        articles.append(_sample(sample, " ".join(marks)))
    shown = node("p", class_="shown", role="status")
    return node(
        "div",
        *controls(block.filters, options),
        *articles,
        shown,
        _sources(block.sources),
        class_="samples gallery",
    )


@_block.register
def _(block: Excerpts) -> Element:
    shown = (_excerpt(one) for one in block.items)
    return node(
        "details", node("summary", block.title), *shown, _sources(block.sources), class_="excerpts"
    )


def _excerpt(one: Excerpt) -> Element:
    title = node("h3", _mark(one.mark), one.heading, " ", node("code", one.origin, class_="quiet"))
    text = (
        node("pre", node("code", one.text), tabindex=0)
        if one.text
        else node("p", NO_EXCERPT, class_="quiet")
    )
    return node("article", title, text)


@_block.register
def _(block: Commands) -> Element:
    items = (
        node("div", node("dt", node("code", command)), node("dd", purpose))
        for command, purpose in block.items
    )
    return node("dl", *items, class_="commands")
