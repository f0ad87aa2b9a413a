"""The page for a terminal, from the same values as the HTML.

One decision: text is handed to Rich as `Text`, never as markup, so a bracket in a path or in what a model wrote is only a
bracket. Curves become sparklines on a common scale; the chart of dots is left out, since the table below it says
the same; long tables are only named.
"""

from __future__ import annotations

from functools import singledispatch
from io import StringIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from components.core.store import Store
from components.evaluation.report.cells import Cell, Source, Table
from components.evaluation.report.compose import compose
from components.evaluation.report.page import (
    NO_EXCERPT,
    Block,
    Cards,
    Commands,
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
from components.evaluation.report.wording import digest, printable

_STYLES = {
    "plain": "",
    "strong": "bold",
    "best": "bold green",
    "good": "green",
    "bad": "red",
    "quiet": "dim",
}
_STAGE_STYLES = {"nl": "blue", "multi": "yellow", "mono": "green"}
_SIGNS = {True: ("\u2713 ", "green"), False: ("\u2717 ", "red"), None: ("? ", "dim")}
_SPARKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_SAMPLE_LINES = 12
"""Lines of a completion that a terminal shows; the HTML page has all of it."""


def render_text(results: RunResults, store: Store, width: int = 120) -> str:
    """The page of results as plain text of at most `width` columns, the same for the same artifacts.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(render_rich(results, store))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def render_rich(results: RunResults, store: Store) -> RenderableType:
    """The page of results in colour, for `rich.console.Console.print`.

    Raises:
        ArtifactError: a file of an artifact is missing or damaged.
    """
    return text_of(compose(results, store))


def text_of(page: Page) -> RenderableType:
    """A page as something a Rich console prints."""
    title = Group(_text(page.title, "bold"), _text(page.subtitle, "dim"), _block(page.headline))
    return Group(title, *(_section(section) for section in page.sections))


def _section(section: Section) -> RenderableType:
    lead = [_text(section.lead, "dim")] if section.lead else []
    head = Rule(_text(section.title, "bold"), align="left", style="dim")
    return Group("", head, *lead, *(_block(block) for block in section.blocks))


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)


@singledispatch
def _block(block: Block) -> RenderableType:
    raise TypeError(f"no text is written for {type(block).__name__}")


@_block.register
def _(block: Paragraph) -> RenderableType:
    return _text(block.text, _STYLES[block.tone])


@_block.register
def _(block: Link) -> RenderableType:
    return _text(f"{block.text}: {block.file}, beside the page for a browser")


@_block.register
def _(block: Verdict) -> RenderableType:
    sign, style = _SIGNS[block.holds]
    return Text.assemble((sign, style), printable(block.text))


@_block.register
def _(block: Cards) -> RenderableType:
    table = RichTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    for card in block.cards:
        name = _text(card.title, _STAGE_STYLES.get(card.mark, "bold"))
        table.add_row(
            name,
            Group(_text(card.state, _STYLES[card.tone]), *(_text(line) for line in card.lines)),
        )
    return table


@_block.register
def _(block: Facts) -> RenderableType:
    table = RichTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, cell in block.items:
        table.add_row(_text(name, "dim"), _cell(cell))
    return table


@_block.register
def _(block: Table) -> RenderableType:
    if block.folded:
        return Group(
            _text(block.caption, "italic"),
            _text(f"{len(block.rows)} rows, on the page for a browser", "dim"),
        )
    table = RichTable(
        box=box.SIMPLE_HEAD,
        title=_text(block.caption, "italic"),
        title_justify="left",
        caption=_text(block.footnote, "dim") if block.footnote else None,
        caption_justify="left",
        pad_edge=False,
    )
    before = ""
    for column in block.columns:
        above = column.group if column.group != before else ""
        before = column.group
        title = (
            f"{above}\n{column.title}" if any(one.group for one in block.columns) else column.title
        )
        table.add_column(_text(title), justify="right" if column.numeric else "left")
    for row in block.rows:
        table.add_row(*(_cell(cell) for cell in row))
    return Group(table, *_sources(block.sources))


def _cell(cell: Cell) -> Text:
    text = _text(cell.text, _STAGE_STYLES.get(cell.mark, _STYLES[cell.tone]))
    return Text.assemble(text, "\n", (printable(cell.note), "dim")) if cell.note else text


def _sources(sources: tuple[Source, ...]) -> list[RenderableType]:
    return [
        Padding(_text(f"from {one.label}  {digest(one.digest)}", "dim"), (0, 0, 0, 2))
        for one in sources
    ]


@_block.register
def _(block: LineChart) -> RenderableType:
    return _sparks(
        block, [(one.mark, one.name, [point.y for point in one.points]) for one in block.series]
    )


@_block.register
def _(block: CurveChart) -> RenderableType:
    return _sparks(
        block, [(one.mark, one.name, [value for _, value in one.points]) for one in block.curves]
    )


def _sparks(
    block: LineChart | CurveChart, lines: list[tuple[str, str, list[float]]]
) -> RenderableType:
    every = [value for _, _, values in lines for value in values]
    low, high = min(every), max(every)
    table = RichTable(
        box=None,
        title=_text(block.title, "italic"),
        title_justify="left",
        show_header=False,
        padding=(0, 1),
    )
    for mark, name, values in lines:
        style = _STAGE_STYLES.get(mark, "")
        sparks = "".join(_spark((value - low) / (high - low or 1.0)) for value in values)
        said = f"{values[0]:.2f} \u2192 {values[-1]:.2f}" if values else ""
        table.add_row(_text(name, style), _text(sparks, style), _text(said))
    return Group(table, *_sources(block.sources))


def _spark(height: float) -> str:
    return _SPARKS[min(int(height * len(_SPARKS)), len(_SPARKS) - 1)]


@_block.register
def _(block: DotChart) -> RenderableType:
    return _text(block.description, "dim")


@_block.register
def _(block: Lineage) -> RenderableType:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", *block.columns):
        table.add_column(_text(title))
    for mark, name, columns in block.rows:
        table.add_row(
            _text(name, _STAGE_STYLES.get(mark, "")), *(_nodes(nodes) for nodes in columns)
        )
    return Group(*(_node(one) for one in block.roots), table)


def _nodes(nodes: tuple[Node, ...]) -> RenderableType:
    return Group(*(_node(one) for one in nodes))


def _node(one: Node) -> Text:
    note = f"  {printable(one.note)}" if one.note else ""
    return Text.assemble(printable(one.label), " ", (one.digest, "cyan"), (note, "dim"))


@_block.register
def _(block: Samples) -> RenderableType:
    return Group(*(_sample(one) for one in block.samples), *_sources(block.sources))


@_block.register
def _(block: Gallery) -> RenderableType:
    return Group(*(_sample(one) for one, _ in block.samples), *_sources(block.sources))


def _sample(sample: Sample) -> RenderableType:
    """What the model wrote, without what it was asked."""
    note = f"  {sample.note}" if sample.note else ""
    head = Text.assemble(
        printable(sample.heading),
        "  ",
        (printable(sample.verdict), _STYLES[sample.tone]),
        (printable(note), "dim"),
    )
    lines = "\n".join(completion for _, completion in sample.turns).splitlines()
    more = (
        [_text(f"... {len(lines) - _SAMPLE_LINES} more lines", "dim")]
        if len(lines) > _SAMPLE_LINES
        else []
    )
    code = Group(*(_text(line, "dim") for line in lines[:_SAMPLE_LINES]), *more)
    return Group(head, Padding(code, (0, 0, 1, 4)))


@_block.register
def _(block: Excerpts) -> RenderableType:
    shown: list[RenderableType] = [_text(block.title, "italic")]
    for one in block.items:
        first = next((line for line in (one.text or "").splitlines() if line.strip()), NO_EXCERPT)
        line = Text.assemble("  ", printable(one.heading), "  ", (printable(one.origin), "dim"))
        shown += [line, Padding(_text(first, "dim"), (0, 0, 0, 4))]
    return Group(*shown, *_sources(block.sources))


@_block.register
def _(block: Commands) -> RenderableType:
    table = RichTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    for command, purpose in block.items:
        table.add_row(_text(command, "cyan"), _text(purpose, "dim"))
    return table
