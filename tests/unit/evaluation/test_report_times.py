"""Times on the page: what a run took, what it cost to make a thing, and what of that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from html_reader import Tag, read
from report_run import Run

from components.core.artifact import Artifact
from components.evaluation.report import render_html


def facts(page: Tag) -> dict[str, str]:
    return {
        one.first("dt").text: one.first("dd").text for one in page.all("div") if list(one.all("dt"))
    }


def steps(page: Tag) -> dict[str, str]:
    """Time to make of each step, with its small print."""
    rows = page.first("section", id="steps").first("tbody").all("tr")
    return {row.first("th").text: list(row.all("td"))[2].text for row in rows}


def training_times(page: Tag) -> list[str]:
    rows = page.first("section", id="training").first("tbody").all("tr")
    return [list(row.all("td"))[-1].text for row in rows]


def seconds(artifact: Artifact) -> float:
    measured = artifact.provenance["duration_s"]
    assert isinstance(measured, float)
    return measured


def test_a_resumed_stage_counts_with_what_this_run_trained_of_it(tmp_path: Path) -> None:
    run = Run(tmp_path, killed=["tiny-mono"])
    for stage, one in run.checkpoints.items():  # As timed they may be 0.000 s.
        run.checkpoints[stage] = one.replace(provenance={**one.provenance, "duration_s": 1.5})
    total_s = 2 * sum(seconds(one) for one in run.checkpoints.values())
    said = facts(read(render_html(run.results(total_s=total_s), run.store)))["of it training"]
    assert said == "50.0 %Mono went on from an earlier run; only what this run trained counts"


def test_a_resumed_stage_took_as_long_as_the_trainer_counted(tmp_path: Path) -> None:
    run = Run(tmp_path, killed=["tiny-mono"])
    page = read(render_html(run.results(), run.store))
    assert steps(page)["checkpoint tiny-mono"] == "4.0 s2 attempts"  # Two steps of two seconds.
    assert training_times(page)[-1] == "4.0 s2 attempts"
    assert not any("attempts" in time for time in training_times(page)[:-1])


def test_what_only_the_last_attempt_was_timed_of_is_unknown(tmp_path: Path) -> None:
    run = Run(tmp_path, killed=["multi"])
    assert (
        steps(read(render_html(run.results(), run.store)))["prepared-corpus multi"]
        == "unknown2 attempts"
    )


def test_an_unknown_time_is_no_zero_in_a_sum(tmp_path: Path) -> None:
    run = Run(tmp_path)
    mono = run.checkpoints["mono"]
    untimed = {name: value for name, value in mono.provenance.items() if name != "duration_s"}
    run.checkpoints["mono"] = mono.replace(provenance=untimed)
    page = read(render_html(run.results(), run.store))
    assert facts(page)["of it training"] == "unknown"
    assert "an unknown time in steps made now" in page.first("section", id="steps").first("h3").text


BEGUN = "2031-02-03T04:05:06+00:00"


@pytest.mark.parametrize(
    ("dirty", "said"),
    [(False, ""), (True, " with uncommitted changes"), (None, " changes unknown")],
)
def test_the_page_is_of_this_run_and_not_of_the_artifacts_it_reused(
    tmp_path: Path, dirty: bool | None, said: str
) -> None:
    run = Run(tmp_path)
    made_by = {
        "created_at": BEGUN,
        "git_commit": "0123456789abcdef",
        "git_dirty": dirty,
        "host": "elsewhere",
    }
    everything = frozenset(one.label for one in run.results().steps())
    page = read(
        render_html(run.results(made_by=made_by, reused=everything, total_s=27.0), run.store)
    )
    expected = (
        f"run begun {BEGUN} \u00b7 took 27 s \u00b7 commit 0123456789ab{said} \u00b7 elsewhere"
    )
    assert page.first("p", class_="subtitle").text == expected
    assert facts(page)["this run"] == f"begun {BEGUN}"
    assert facts(page)["commit of this run"] == f"0123456789ab{said.strip()}"
    assert BEGUN not in facts(page)["artifacts made between"]


def test_mfu_names_the_peak_that_it_is_a_share_of(tmp_path: Path) -> None:
    training = read(render_html((run := Run(tmp_path)).results(), run.store)).first(
        "section", id="training"
    )
    cells = [list(row.all("td"))[6].text for row in training.first("tbody").all("tr")]
    assert cells == ["30.0 %of 150 GFLOP/s"] * 3
    assert "MFU of stages with unlike peaks cannot be compared" in training.text
