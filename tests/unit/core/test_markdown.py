"""Foreign text in Markdown: a CommonMark parser reads it back as text, whatever it contains."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from components.core.markdown import cell, code, code_block, escape, escaped_table, printable

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
FOREIGN = st.text(st.sampled_from(list("ab _*`[]()<>&#+-=|~!\\.1:/\n\t\x1b\u202e")), max_size=30)

HOSTILE = [
    "<script>alert(1)</script>",
    "[link](http://example.org) ![image](http://example.org/x.png)",
    "<http://example.org> http://example.org www.example.org",
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "---",
    "===",
    "```\nfence",
    "    indented",
    "a | b \\| c",
    "**bold** __bold__ _em_ ~~gone~~ `code`",
    "&lt;b&gt; &#60;b&#62;",
    "\\*not escaped\\*",
    "\x1b[2J\x1b]8;;http://example.org\x07link",
    "\u202e gnp.exe",
    "trailing backslash \\",
]


def shown(text: str) -> str:
    """The line that a reader sees."""
    return " ".join(printable(text).split())


def inline(tokens: list[Token]) -> list[Token]:
    """The inline tokens of the only paragraph."""
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    return tokens[1].children or []


def assert_plain(text: str) -> None:
    if not shown(text):
        assert escape(text) == ""
        return
    children = inline(PARSER.parse(escape(text)))
    assert {token.type for token in children} <= {"text"}
    assert "".join(token.content for token in children) == shown(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    assert_plain(text)
    assert "<" not in escape(text)
    assert "://" not in escape(text), "a renderer that turns addresses into links finds none"


@given(FOREIGN)
def test_any_text_stays_text(text: str) -> None:
    assert_plain(text)


@given(FOREIGN)
def test_any_text_stays_text_in_bold(text: str) -> None:
    if shown(text):
        children = inline(PARSER.parse(f"x **{escape(text)}** y"))
        assert (
            "".join(token.content for token in children if token.type == "text")
            == f"x {shown(text)} y"
        )


@pytest.mark.parametrize(
    "text", ["too_long_lines", "1.50 MB", "-8.33", "+16.67", "C++", "a#b", "x = 1"]
)
def test_harmless_text_is_not_escaped(text: str) -> None:
    assert escape(text) == text


@given(FOREIGN)
def test_a_code_span_holds_any_text(text: str) -> None:
    if shown(text):
        (span,) = inline(PARSER.parse(code(text)))
        assert span.type == "code_inline"
        assert span.content.strip() == shown(text)


@given(FOREIGN)
def test_a_code_block_holds_any_text(text: str) -> None:
    tokens = PARSER.parse(code_block(text))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content.rstrip("\n") == printable(text).rstrip("\n")


@given(st.lists(FOREIGN, min_size=2, max_size=2), FOREIGN)
def test_a_table_keeps_its_cells(row: list[str], span: str) -> None:
    text = escaped_table(["a", "b", "c"], [[*row, code(span or "x")]], numeric=[1])
    cells = [token for token in PARSER.parse(text) if token.type == "inline"]
    assert [cell.content for cell in cells[:3]] == ["a", "b", "c"]
    assert len(cells) == 6
    for token, value in zip(cells[3:5], row, strict=True):
        assert "".join(child.content for child in token.children or []) == shown(value)


def test_numeric_columns_are_right_aligned() -> None:
    assert (
        escaped_table(["a", "b"], [["x", 1]], numeric=[1]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    )


def test_markdown_is_inserted_unchanged_but_does_not_end_its_cell() -> None:
    assert escaped_table(["a"], [[Markup("**x|y**")]]).endswith("| **x\\|y** |")
    assert cell("a|b \\| c") == "a\\|b \\| c"


@given(st.text(st.characters(codec=None)))
def test_printable_leaves_nothing_that_acts_on_a_terminal_or_hides(text: str) -> None:
    visible = printable(text)
    assert len(visible) == len(text)
    assert not [c for c in visible if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]
    directions = ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI")
    assert not [c for c in visible if unicodedata.bidirectional(c) in directions]
    assert printable(visible) == visible


def test_printable_shows_control_characters() -> None:
    assert printable("a\x1b[2Jb\x00\x7f\r") == "a\u241b[2Jb\u2400\u2421\u240d"
    assert (
        printable("tab\tand\nline stay: \u00e9 \u4e2d \U0001f600")
        == "tab\tand\nline stay: \u00e9 \u4e2d \U0001f600"
    )
