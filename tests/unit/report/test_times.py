"""Times in the report: of the run, of each step, and unknown times."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.report_run import Run
from html_reader import Tag, read

from components.core.artifact import Artifact
from components.report import render_html


def facts(page: Tag) -> dict[str, str]:
    return {
        item.first("dt").text: item.first("dd").text
        for item in page.all("div")
        if list(item.all("dt"))
    }


def steps(page: Tag) -> dict[str, str]:
    """Build time of each step, with its small print."""
    rows = page.first("section", id="steps").first("tbody").all("tr")
    return {row.first("th").text: list(row.all("td"))[2].text for row in rows}


def training_times(page: Tag) -> list[str]:
    rows = page.first("section", id="training").first("tbody").all("tr")
    return [list(row.all("td"))[-1].text for row in rows]


def seconds(artifact: Artifact) -> float:
    measured = artifact.provenance["duration_s"]
    assert isinstance(measured, float)
    return measured


def test_a_resumed_stage_counts_only_the_time_of_this_run(tmp_path: Path) -> None:
    run = Run(tmp_path, killed=["tiny-mono"])
    for stage, item in run.checkpoints.items():  # As timed they may be 0.000 s.
        run.checkpoints[stage] = item.replace(provenance={**item.provenance, "duration_s": 1.5})
    total_s = 2 * sum(seconds(item) for item in run.checkpoints.values())
    note_text = facts(read(render_html(run.results(total_s=total_s), run.store)))["training time"]
    assert note_text == "50.0 %Mono resumed; only the steps of this run count"


def test_the_build_time_of_a_resumed_stage_is_the_time_of_its_steps(tmp_path: Path) -> None:
    run = Run(tmp_path, killed=["tiny-mono"])
    page = read(render_html(run.results(), run.store))
    assert steps(page)["checkpoint tiny-mono"] == "4.0 s2 attempts"  # Two steps of two seconds.
    assert training_times(page)[-1] == "4.0 s2 attempts"
    assert not any("attempts" in time for time in training_times(page)[:-1])


def test_the_build_time_is_unknown_if_only_the_last_attempt_was_timed(tmp_path: Path) -> None:
    run = Run(tmp_path, killed=["multi"])
    assert (
        steps(read(render_html(run.results(), run.store)))["prepared-corpus multi"]
        == "unknown2 attempts"
    )


def test_an_unknown_time_makes_the_sum_unknown(tmp_path: Path) -> None:
    run = Run(tmp_path)
    mono = run.checkpoints["mono"]
    untimed = {name: value for name, value in mono.provenance.items() if name != "duration_s"}
    run.checkpoints["mono"] = mono.replace(provenance=untimed)
    page = read(render_html(run.results(), run.store))
    assert facts(page)["training time"] == "unknown"
    assert "an unknown time for new steps" in page.first("section", id="steps").first("h3").text


BEGUN = "2031-02-03T04:05:06+00:00"


@pytest.mark.parametrize(
    ("dirty", "note_text"),
    [(False, ""), (True, " with uncommitted changes"), (None, " uncommitted changes unknown")],
)
def test_the_header_describes_this_run_and_not_the_reused_artifacts(
    tmp_path: Path, dirty: bool | None, note_text: str
) -> None:
    run = Run(tmp_path)
    made_by = {
        "created_at": BEGUN,
        "git_commit": "0123456789abcdef",
        "git_dirty": dirty,
        "host": "elsewhere",
    }
    everything = frozenset(item.label for item in run.results().steps())
    page = read(
        render_html(run.results(provenance=made_by, reused=everything, total_s=27.0), run.store)
    )
    expected = (
        f"run started {BEGUN} \u00b7 took 27 s \u00b7 commit 0123456789ab{note_text} "
        "\u00b7 elsewhere"
    )
    assert page.first("p", class_="subtitle").text == expected
    assert facts(page)["this run"] == f"started {BEGUN}"
    assert facts(page)["commit of this run"] == f"0123456789ab{note_text.strip()}"
    assert BEGUN not in facts(page)["artifacts built"]


def test_mfu_names_its_peak(tmp_path: Path) -> None:
    training = read(render_html((run := Run(tmp_path)).results(), run.store)).first(
        "section", id="training"
    )
    cells = [list(row.all("td"))[6].text for row in training.first("tbody").all("tr")]
    assert cells == ["30.0 %of 150 GFLOP/s"] * 3
    assert "compare the MFU of two stages only if their peaks are equal" in training.text
