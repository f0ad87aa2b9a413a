"""Sections as Markdown: the page's own figures, charts that open by themselves, and nothing that could be markup."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_run import Run

from components.evaluation.report.bits import bits_section
from components.evaluation.report.cells import Cell, Column, Table
from components.evaluation.report.compose import compose
from components.evaluation.report.markdown import markdown_of
from components.evaluation.report.page import Paragraph, Section
from components.evaluation.report.training import training_section


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_matrix_of_bits_per_byte_with_its_best_in_bold(run: Run) -> None:
    text = markdown_of([bits_section(run.results(), run.store)])
    assert "| NL | **2.500** | 4.000 | 3.500 | 3.000 | 3.200 |" in text
    assert "| Mono | 3.000 | 2.250 | 3.000 | **1.500** | **1.400** |" in text
    assert "✓ " in text


def test_losses_are_an_image_that_is_whole_by_itself(run: Run) -> None:
    text = markdown_of([training_section(run.results(), run.store)])
    (encoded,) = re.findall(r"\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", text)
    svg = ElementTree.fromstring(base64.b64decode(encoded))  # noqa: S314 - our own
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert float(svg.get("width", "0")) > 100
    assert [one.text for one in svg.iter() if (one.get("class") or "").startswith("name")] == [
        "NL",
        "Multi",
        "Mono",
    ]
    assert any("--nl:" in (one.text or "") for one in svg.iter("{http://www.w3.org/2000/svg}style"))


def test_every_section_of_the_page_can_be_written(run: Run) -> None:
    page = compose(run.results(), run.store)
    text = markdown_of(page.sections)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        section.title for section in page.sections
    ]


def test_text_is_never_markup() -> None:
    hostile = "a|b <script>x</script> [link](http://x) `code` **bold** \x1b[2J\n# head"
    table = Table(caption=hostile, columns=(Column(title="x"),), rows=((Cell(text=hostile),),))
    text = markdown_of([Section(anchor="a", title=hostile, blocks=(Paragraph(hostile), table))])
    assert "<" not in text.replace("&lt;", "")
    assert "\x1b" not in text
    unescaped = re.sub(r"\\.", "", text)
    assert not re.search(r"[`\[\]]|\*\*|^# head", unescaped, re.MULTILINE)
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert re.sub(r"\\.", "", row).count("|") == 2
