"""Choosing which samples a page shows, without any script: radio buttons, and a rule of style for each of them.

One decision: rules and classes name a filter and a value by their numbers. `<style>` is the one element whose text is not
escaped, so nothing that a model or a file brought along may come near it. A browser that does not know `:has()` (those from
before 2023) shows every sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from components.evaluation.report.markup import Element, node


def mark_of(filter_index: int, value_index: int) -> str:
    """The class of what has a value, and the id of the button that asks for it."""
    return f"f{filter_index}-{value_index}"


def controls(names: Sequence[str], options: Sequence[Sequence[str]]) -> Iterator[Element]:
    """A row of buttons for each filter that has a choice, and their rules."""
    chosen = [index for index, values in enumerate(options) if len(values) > 1]
    yield node(
        "div",
        *(_buttons(index, names[index], options[index]) for index in chosen),
        class_="filters",
    )
    marks = (mark_of(index, value) for index in chosen for value in range(len(options[index])))
    rules = (
        f".gallery:has(#{mark}:checked) > .sample:not(.{mark}) {{ display: none; }}"
        for mark in marks
    )
    yield node("style", "\n".join(rules))


def _buttons(index: int, name: str, values: Sequence[str]) -> Element:
    everything = node(
        "label", node("input", type="radio", name=f"f{index}", checked="checked"), "all"
    )
    others = (
        node(
            "label", node("input", type="radio", name=f"f{index}", id=mark_of(index, place)), value
        )
        for place, value in enumerate(values)
    )
    return node("fieldset", node("legend", name), everything, *others)
