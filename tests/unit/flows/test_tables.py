"""Output on a narrow terminal: nothing is cut, and a warning is printed once."""

from __future__ import annotations

from io import StringIO
from typing import Any, cast

import pytest
from rich.console import Console

from components.core.artifact import Artifact
from components.report.page import Page, Statement, section
from components.report.rendering import page_text
from components.report.table import table
from flows.cli.options import print_table
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution
from flows.settings.recipes import tiny

NAMES = [f"codegen-{'very-long-' * 6}model-{number}/12 @champion" for number in range(2)]
REASON = "the lower bound of the gain is below the minimum " * 4


def test_a_table_never_cuts_a_name_and_wraps_its_last_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(["version", "stage", "reason"], [(name, "mono", REASON) for name in NAMES])
    text = capsys.readouterr().out
    assert "…" not in text
    assert [name for name in NAMES if name in text] == NAMES
    assert text.split().count("minimum") == REASON.split().count("minimum") * len(NAMES)


def test_a_short_table_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table(["version", "reason"], [("codegen-tiny-mono/1", REASON)])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) > 2


def test_markup_in_a_cell_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "reason"], [("[red]a[/red]", "[bold]")])
    assert "[red]a[/red]" in capsys.readouterr().out


def test_the_terminal_version_of_a_page_wraps_long_labels() -> None:
    rows = [(name, "number " * 9, "text " * 9) for name in NAMES]
    part = section("a", "A", "", table("T", ["label", "x", "y"], rows))
    page = Page(title="P", subtitle="", headline=Statement(True, "yes"), sections=(part,))
    text = page_text(page, width=80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("@champion") == len(NAMES)


def context(width: int) -> tuple[FlowContext, StringIO]:
    """A context whose steps print to a terminal of a width."""
    output = StringIO()
    console = Console(file=output, width=width, highlight=False)
    none = cast(Any, None)
    return FlowContext(tiny(), Execution(), none, none, console), output


def test_a_step_fits_the_terminal() -> None:
    artifact = Artifact(
        kind="checkpoint",
        name="codegen-tiny-mono",
        recipe_hash="a" * 64,
        digest="b" * 64,
        address="",
        files=(),
        parents=(),
        statistics={},
        provenance={},
    )
    for width, num_lines in ((80, 2), (120, 1)):
        flow, output = context(width)
        flow.print_step("train mono [1/3]", "12.3 s", artifact)
        lines = output.getvalue().splitlines()
        assert len(lines) == num_lines
        assert max(map(len, lines)) <= width
        assert lines[0].startswith("✓ train mono [1/3] ")
        assert lines[-1].endswith(f"{artifact.label}  bbbbbbbbbbbb")


def test_two_flows_print_the_same_warning_once() -> None:
    outputs = []
    for message in ("MTPB is skipped [Errno -2] [b]", "another", "MTPB is skipped [Errno -2] [b]"):
        flow, output = context(80)
        flow.warn(message)
        outputs.append(output.getvalue())
    assert outputs == ["! MTPB is skipped [Errno -2] [b]\n", "! another\n", ""]
