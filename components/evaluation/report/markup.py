"""Building HTML and SVG as a tree, so that escaping is not something one can forget.

One decision: the standard library's ElementTree writes the page. Every string enters as text or as an attribute's value and
is escaped when it is written; there is no way to put markup in by accident. Not covered: `<script>`, which no page has.
"""

from __future__ import annotations

from xml.etree import ElementTree

from components.evaluation.report.wording import printable

Element = ElementTree.Element
Child = Element | str | None


def node(tag: str, *children: Child, **attributes: object) -> Element:
    """An element. None is skipped; in attribute names a final `_` is dropped and other `_` become `-`."""
    element = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None and value != "":
            element.set(name.rstrip("_").replace("_", "-"), printable(str(value)))
    for child in children:
        append(element, child)
    return element


def append(element: Element, child: Child) -> None:
    """Add a child after those that are there."""
    if isinstance(child, str):
        _append_text(element, printable(child))
    elif child is not None:
        element.append(child)


def _append_text(element: Element, text: str) -> None:
    if len(element):
        element[-1].tail = (element[-1].tail or "") + text
    else:
        element.text = (element.text or "") + text


def document(root: Element) -> str:
    """The whole document as text."""
    return (
        "<!doctype html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"
    )
