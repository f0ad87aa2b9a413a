"""A strict element tree over the standard library's HTML parser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Tag:
    """An element: its attributes, and its children (elements and text) in order."""

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Tag | str] = []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, name: str = "", **attributes: str) -> Iterator[Tag]:
        """Yield the descendants with a name and with these words in their attributes, in order.

        `class_` stands for the attribute `class`.
        """
        for child in self.children:
            if isinstance(child, Tag):
                if (not name or child.name == name) and child._has(attributes):
                    yield child
                yield from child.all(name, **attributes)

    def _has(self, attributes: Mapping[str, str]) -> bool:
        return all(
            word in self.attributes.get(attribute.rstrip("_"), "").split()
            for attribute, word in attributes.items()
        )

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
    rows = _figure(page, caption).first("tbody").all("tr")
    return [[_without_small(cell) for cell in cells(row)] for row in rows]


def heads(page: Tag, caption: str) -> list[str]:
    """The column heads of the table with a caption, without the heads of groups."""
    *_, row = _figure(page, caption).first("thead").all("tr")
    return [head.text for head in row.all("th")]


def cells(row: Tag) -> list[Tag]:
    """The cells of a row."""
    return [cell for cell in row.children if isinstance(cell, Tag)]


def _figure(page: Tag, caption: str) -> Tag:
    figures = page.all("figure", class_="table")
    return next(figure for figure in figures if figure.first("h3").text == caption)


def _without_small(cell: Tag) -> str:
    texts = []
    for child in cell.children:
        if isinstance(child, str):
            texts.append(child)
        elif child.name != "small":
            texts.append(child.text)
    return "".join(texts)


def assert_self_contained(html: str) -> None:
    """Check that a page has no scripts and loads nothing from outside."""
    page = read(html)
    policies = [
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not list(page.all("script"))
    loading = {"src", "srcset", "xlink:href", "onclick", "onload"}
    assert not [element for element in page.all() if loading & element.attributes.keys()]
    assert "url(" not in html
    assert "@import" not in html
