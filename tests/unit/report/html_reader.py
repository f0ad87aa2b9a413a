"""A strict element tree over the standard library's HTML parser."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Tag:
    """An element: its attributes, and its children (elements and text) in order."""

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name, self.attributes = name, attributes
        self.children: list[Tag | str] = []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, name: str = "", **attributes: str) -> Iterator[Tag]:
        """Every element below, in order, of that name and with these attributes (a class among
        several is enough)."""
        for child in self.children:
            if isinstance(child, Tag):
                matches = not name or child.name == name
                if matches and all(
                    v in child.attributes.get(k.rstrip("_"), "").split()
                    for k, v in attributes.items()
                ):
                    yield child
                yield from child.all(name, **attributes)

    def first(self, name: str = "", **attributes: str) -> Tag:
        return next(self.all(name, **attributes))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Tag("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Tag(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(html: str) -> Tag:
    """Parse a document; an element that is not closed is an error."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].name}> is never closed"
    return reader.open[0]


def table(page: Tag, caption: str) -> list[list[str]]:
    """The rows of the table with a caption: the text of each cell, without small print."""
    figure = next(
        element
        for element in page.all("figure", class_="table")
        if element.first("h3").text == caption
    )
    rows = figure.first("tbody").all("tr")
    return [
        [_without_small(cell) for cell in row.children if isinstance(cell, Tag)] for row in rows
    ]


def _without_small(cell: Tag) -> str:
    return "".join(
        c if isinstance(c, str) else "" if c.name == "small" else c.text for c in cell.children
    )
