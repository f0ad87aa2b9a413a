"""HumanEval and MTPB on the page: written by the benchmarks' own `publish`, read back by the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from components.evaluation.benchmark import Executed, protocol, publish
from html_reader import Tag, read, table
from pydantic import JsonValue
from report_run import HOSTILE, PROMPT, Run

from components.core.artifact import Artifact
from components.core.errors import SandboxUnavailable
from components.evaluation.report import render_html, render_text
from components.evaluation.report.page import NOTHING
from components.evaluation.sandbox import Limits, SandboxReport, Verdict, unavailable

JAIL = SandboxReport(available=True, isolation="bubblewrap 0.8.0: pid, net", self_test={"reads a canary": "refused"})
NO_JAIL = unavailable(SandboxUnavailable("no bubblewrap", expected="a sandbox", do="install the Debian package bubblewrap"))
REASON = "no bubblewrap; install the Debian package bubblewrap"

FAILED = Verdict("exception", "NameError")
PASSED = Verdict("passed")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def benchmark(
    run: Run, stage: str, name: str, figures: Mapping[str, JsonValue], verdicts: Sequence[Verdict] | None
) -> Artifact:
    """An evaluation of two samples; without verdicts, one whose samples were not executed."""
    samples = [
        {"task_id": "HumanEval/7", "prompt": PROMPT, "completion": HOSTILE},
        {"task_id": "HumanEval/8", "prompt": PROMPT, "completion": "    return x < 3\n"},
    ]

    def build(folder: Path) -> Mapping[str, JsonValue]:
        return publish(
            folder,
            executed=Executed(JAIL if verdicts else NO_JAIL, list(verdicts) if verdicts else None, 2, {"execution_s": 1.0}),
            protocol=protocol(name, 1, Limits(3), mode="split"),
            results={"num_problems": 2, "num_samples": 1, "temperature": 0.2, "top_p": 0.95, **figures},
            samples=[{**one, "outcome": verdicts[i].kind if verdicts else None} for i, one in enumerate(samples)],
            verdicts=verdicts,
            sampling_s=1.0,
        )

    return run.make("evaluation", f"tiny-{stage}-{name}", {"checkpoint": run.checkpoints[stage]}, build)


def page_with(run: Run, **evaluations: Artifact) -> Tag:
    """The page of a run with these evaluations, named like `mono_humaneval`."""
    found = {tuple(name.split("_")): one for name, one in evaluations.items()}
    return read(render_html(run.results(evaluations=found), run.store))


def part(page: Tag, anchor: str) -> Tag:
    return page.first("section", id=anchor)


def test_humaneval_stands_beside_the_paper(run: Run) -> None:
    nl = benchmark(run, "nl", "humaneval", {"pass_at_k": {"1": 0.0}}, [FAILED, FAILED])
    mono = benchmark(run, "mono", "humaneval", {"pass_at_k": {"10": 1.0, "1": 0.125}}, [FAILED, PASSED])
    page = page_with(run, nl_humaneval=nl, mono_humaneval=mono)
    assert table(page, "pass@k in percent") == [
        ["NL pass@1", "0.00", "2.12 ?", "6.70 ?", "10.43 ?", "14.24 ?"],
        ["Mono pass@1", "12.50", "12.76", "23.70", "26.13", "29.28"],
        ["Mono pass@10", "100.00", "23.11", "36.64", "42.29", "49.86"],
    ]
    said = part(page, "humaneval").text
    assert "This run: 2 problems, n = 1, temperature 0.2, top-p 0.95." in said
    assert "Executed in a sandbox: bubblewrap 0.8.0: pid, net (mode split)." in said
    assert "? unverified" in said
    assert f"{mono.label} {mono.digest}" in said


def test_outcomes_are_counted_by_their_kind(run: Run) -> None:
    nl = benchmark(run, "nl", "humaneval", {"pass_at_k": {"1": 0.0}}, [FAILED, Verdict("time_out")])
    mono = benchmark(run, "mono", "humaneval", {"pass_at_k": {"1": 0.5}}, [FAILED, PASSED])
    page = page_with(run, nl_humaneval=nl, mono_humaneval=mono)
    heads = [head.text for head in list(part(page, "humaneval").all("thead"))[1].all("th")]
    assert heads == ["after", "samples", "passed", "exception", "time out"]
    assert table(page, "What became of the samples") == [["NL", "2", "0", "1", "1"], ["Mono", "2", "1", "1", "0"]]
    assert "Most frequent exceptions: NameError 2." in part(page, "humaneval").text


def test_mtpb_has_a_rate_over_all_cases_and_one_over_those_that_can_pass(run: Run) -> None:
    rates = {"num_cases": 1, "pass_rate": 0.5, "pass_rate_of_passable": 1.0}
    page = page_with(run, multi_mtpb=benchmark(run, "multi", "mtpb", rates, [FAILED, PASSED]))
    assert table(page, "pass rate in percent, several turns") == [
        ["Multi, all cases", "50.00", "4.09 ?", "20.82 ?", "25.51 ?", "26.27 ?"],
        ["Multi, cases that can pass", "100.00", *4 * [NOTHING.text]],
    ]
    assert "2 problems x 1 case, n = 1" in part(page, "mtpb").text


def test_what_was_not_executed_has_a_reason_and_no_score(run: Run) -> None:
    rates: dict[str, JsonValue] = {"num_cases": 1, "pass_rate": None, "pass_rate_of_passable": None}
    page = page_with(
        run,
        mono_humaneval=benchmark(run, "mono", "humaneval", {"pass_at_k": {}}, None),
        mono_mtpb=benchmark(run, "mono", "mtpb", rates, None),
    )
    assert [row[:2] for row in table(page, "pass@k in percent")] == [["Mono pass@1", "not executed"]]
    assert {row[1] for row in table(page, "pass rate in percent, several turns")} == {"not executed"}
    for anchor in ("humaneval", "mtpb"):
        assert f"Samples were drawn, but not executed: {REASON}" in part(page, anchor).text
        assert "What became of the samples" not in part(page, anchor).text
        assert "0.00" not in part(page, anchor).text
    assert part(page, "samples").first("span", class_="state").text == "not executed"


def test_a_benchmark_that_was_skipped_says_why(run: Run) -> None:
    page = read(render_html(run.results(skipped={"mtpb": "its file cannot be had"}), run.store))
    assert part(page, "mtpb").first("p", class_="verdict").text == "?Not run: its file cannot be had"
    assert part(page, "humaneval").first("p", class_="verdict").text == "?Not run: this run left it out"


def test_samples_are_shown_as_they_were_written_and_nothing_more(run: Run) -> None:
    nl = benchmark(run, "nl", "humaneval", {"pass_at_k": {"1": 0.0}}, [FAILED, FAILED])
    mono = benchmark(run, "mono", "humaneval", {"pass_at_k": {"1": 0.5}}, [FAILED, PASSED])
    page = page_with(run, nl_humaneval=nl, mono_humaneval=mono)
    first, second = part(page, "samples").all("article")
    assert first.first("h3").text == "NL, HumanEval/7 exception"
    assert first.first("code").text == PROMPT + HOSTILE.replace("\x1b", "␛")
    assert second.first("h3").text == "Mono, HumanEval/8 passed"  # The one that passed, not the first.
    assert second.first("code").text == PROMPT + "    return x < 3\n"
    assert not list(page.all("script"))


def test_samples_cannot_steer_a_terminal(run: Run) -> None:
    nl = benchmark(run, "nl", "humaneval", {"pass_at_k": {"1": 0.0}}, [FAILED, FAILED])
    text = render_text(run.results(evaluations={("nl", "humaneval"): nl}), run.store)
    assert "\x1b" not in text
    assert "␛[2J</code></pre><script src=" in text
    assert "return [red]x[/red] & y" in text
