"""Sections as Markdown: equal numbers, self-contained charts, and no markup from foreign text."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixtures.report_run import Run

from components.report.bits_per_byte_section import bits_section
from components.report.page import Paragraph, Section
from components.report.rendering import sections_markdown
from components.report.results_page import results_page
from components.report.table import Cell, Column, Table
from components.report.training import training_section


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_matrix_of_bits_per_byte_with_its_best_in_bold(run: Run) -> None:
    text = sections_markdown([bits_section(run.results(), run.store)])
    assert "| NL | **2.500** | 4.000 | 3.500 | 3.000 | 3.200 |" in text
    assert "| Mono | 3.000 | 2.250 | 3.000 | **1.500** | **1.400** |" in text
    assert "✓ " in text


def test_the_loss_chart_is_a_self_contained_image(run: Run) -> None:
    text = sections_markdown([training_section(run.results(), run.store)])
    (encoded,) = re.findall(r"\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", text)
    svg = ElementTree.fromstring(base64.b64decode(encoded))  # noqa: S314 - our own
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(svg.get("width", "0")) > 100
    assert [item.text for item in svg.iter() if (item.get("class") or "").startswith("name")] == [
        "NL",
        "Multi",
        "Mono",
    ]
    assert any(
        "--nl:" in (item.text or "") for item in svg.iter("{http://www.w3.org/2000/svg}style")
    )


def test_every_section_of_the_page_has_a_markdown_version(run: Run) -> None:
    page = results_page(run.results(), run.store)
    text = sections_markdown(page.sections)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        section.title for section in page.sections
    ]


def test_text_is_never_markup() -> None:
    hostile = "a|b <script>x</script> [link](http://x) `code` **bold** \x1b[2J\n# head"
    table = Table(caption=hostile, columns=(Column("x"),), rows=((Cell(hostile),),))
    text = sections_markdown(
        [Section(anchor="a", title=hostile, blocks=(Paragraph(hostile), table))]
    )
    assert "<" not in text.replace("&lt;", "")
    assert "\x1b" not in text
    unescaped = re.sub(r"\\.", "", text)
    assert not re.search(r"[`\[\]]|\*\*|^# head", unescaped, re.MULTILINE)
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert re.sub(r"\\.", "", row).count("|") == 2
