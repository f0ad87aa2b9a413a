"""The HumanEval and MTPB sections of evaluations by the real scoring; values computed by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fixtures.report_programs import NO_JAIL, REASON, conversations, evaluated, functions
from fixtures.report_run import Run
from html_reader import Tag, cells, heads, read, table
from pydantic import JsonValue

from components.core.artifact import Artifact
from components.evaluation.sampling.samples import GeneratedSample
from components.evaluation.sandbox import SandboxReport
from components.report import render_html, render_text
from components.report.table import EMPTY

NONE = EMPTY.text


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def page_with(run: Run, **evaluations: Artifact) -> Tag:
    """The page of a run with these evaluations, named like `mono_humaneval`."""
    by_key = {tuple(name.split("_")): artifact for name, artifact in evaluations.items()}
    return read(render_html(run.results(evaluations=by_key), run.store))


def section_of(page: Tag, anchor: str) -> Tag:
    return page.first("section", id=anchor)


def failing(_: str, __: GeneratedSample) -> str:
    return "    return x #: exception NameError"


def by_temperature(label: str, sample: GeneratedSample) -> str:
    """Problem 2: 3 of 3 at 0.2, 1 of 3 at 0.8. Problem 10: 0 at 0.2, 1 at 0.8."""
    passed = sample.problem.task_id.endswith("/2") if label == "t0.2" else sample.number == 0
    return f"    return x #: {'passed' if passed else 'wrong_answer'}"


def test_the_best_temperature_is_shown_beside_each_temperature_and_the_paper(run: Run) -> None:
    plan = functions([2, 10], num_samples=3, temperatures=[0.8, 0.2], k=[1, 2, 10])
    page = page_with(run, mono_humaneval=evaluated(run, "mono", plan, by_temperature))
    assert heads(page, "pass@k in percent")[1:6] == ["best", "95 % interval", "at", "0.2", "0.8"]
    # At 0.2 3 and 0 of 3 pass. At 0.8 1 and 1 of 3 pass, so pass@1 is 1/3 and pass@2 is
    # 1 - C(2,2)/C(3,2) = 2/3 for both problems. The means of two resamples of {1, 0} are 0, 0.5 or
    # 1; those of {2/3, 2/3} are 2/3.
    assert table(page, "pass@k in percent") == [
        [
            "Mono pass@1",
            "50.00",
            "0.00\u2013100.00",
            "0.2",
            "50.00",
            "33.33",
            "12.76",
            "23.70",
            "26.13",
            "29.28",
        ],
        [
            "Mono pass@2",
            "66.67",
            "66.67\u201366.67",
            "0.8",
            "50.00",
            "66.67",
            NONE,
            NONE,
            NONE,
            NONE,
        ],
    ]
    content = section_of(page, "humaneval").text
    assert "This run: 2 problems, n = 3, temperatures 0.2 and 0.8, top-p 0.95, protocol " in content
    assert "They do not include the choice of the best temperature." in content


def test_a_single_temperature_is_not_called_the_best(run: Run) -> None:
    nl = evaluated(run, "nl", functions([2, 10]), failing)
    mono = evaluated(run, "mono", functions([2, 10]), by_temperature)
    page = page_with(run, nl_humaneval=nl, mono_humaneval=mono)
    assert table(page, "pass@k in percent") == [
        ["NL pass@1", "0.00", "0.00\u20130.00", "2.12 ?", "6.70 ?", "10.43 ?", "14.24 ?"],
        ["Mono pass@1", "50.00", "0.00\u2013100.00", "12.76", "23.70", "26.13", "29.28"],
    ]
    content = section_of(page, "humaneval").text
    sandbox = "bubblewrap 0.8.0: pid, net (mode split, 3 s of CPU time before calibration"
    assert f"Executed in a sandbox: {sandbox}" in content
    assert "? unverified" in content
    assert "best temperature" not in content
    assert f"{mono.label} {mono.digest}" in content
    # A single sample per problem has no curve.
    assert not list(section_of(page, "humaneval").all("svg"))


def test_a_curve_is_the_best_temperature_of_every_k(run: Run) -> None:
    plan = functions([2, 10], num_samples=3, temperatures=[0.2, 0.8])
    evaluation = evaluated(run, "mono", plan, by_temperature)
    page = page_with(run, mono_humaneval=evaluation)
    svg = section_of(page, "humaneval").first("svg", class_="wide")
    labels = [text.text for text in svg.all("text") if text.text.startswith("k = ")]
    # At 0.2 always 1/2; at 0.8 1/3, 2/3 and 1.
    assert labels == ["k = 1: Mono 50.00", "k = 2: Mono 66.67", "k = 3: Mono 100.00"]
    assert len(list(svg.all("path", class_="raw"))) == 2
    assert "Mono 50.00 → 100.00 at k = 3" in svg.first("desc").text
    text = render_text(run.results(evaluations={("mono", "humaneval"): evaluation}), run.store)
    assert re.search(r"Mono +▁▃█ +50\.00 → 100\.00", text)


def test_outcomes_are_counted_by_kind_and_exceptions_by_type(run: Run) -> None:
    def mixed(_: str, sample: GeneratedSample) -> str:
        verdict = [
            "passed",
            "exception NameError",
            "exception TypeError",
            "time_out",
            "syntax_error SyntaxError",
        ][sample.number]
        truncated_end = "\n# cut" if sample.number < 2 else ""
        return f"    return x #: {verdict}{truncated_end}"

    nl = evaluated(run, "nl", functions([2, 10], num_samples=1), failing)
    mono = evaluated(run, "mono", functions([2], num_samples=5), mixed)
    page = page_with(run, nl_humaneval=nl, mono_humaneval=mono)
    kinds = ["passed", "exception", "syntax error", "time out"]
    columns = ["after stage", "samples", *kinds, "truncated", "unfinished", "tokens"]
    assert heads(page, "Sample outcomes") == columns
    # Tokens of the scripted sampler are words: 5 and 5; 6, 7, 5, 4 and 5.
    assert table(page, "Sample outcomes") == [
        ["NL", "2", "0", "2", "0", "0", "0", "0", "10"],
        ["Mono", "5", "1", "2", "1", "1", "2", "0", "27"],
    ]
    assert table(page, "Exceptions by type") == [["NameError", "2", "1"], ["TypeError", "0", "1"]]


def test_rare_exception_types_are_summed(run: Run) -> None:
    def by_number(_: str, sample: GeneratedSample) -> str:
        return f"    return x #: exception E{sample.number}"

    evaluation = evaluated(run, "mono", functions([2], num_samples=11), by_number)
    page = page_with(run, mono_humaneval=evaluation)
    rows = table(page, "Exceptions by type")
    assert len(rows) == 9
    assert rows[-1] == ["3 other types", "3"]


def test_the_problem_table_is_closed_and_in_natural_order(run: Run) -> None:
    plan = functions([10, 2], num_samples=3, temperatures=[0.2, 0.8])
    evaluation = evaluated(run, "mono", plan, by_temperature)
    page = page_with(run, mono_humaneval=evaluation)
    caption = "Passed samples per problem (2 of 2 problems solved)"
    assert table(page, caption) == [
        ["HumanEval/2", "3 of 3", "1 of 3"],
        ["HumanEval/10", "0 of 3", "1 of 3"],
    ]
    folded = section_of(page, "humaneval").first("details", class_="folded")
    assert "open" not in folded.attributes
    text = render_text(run.results(evaluations={("mono", "humaneval"): evaluation}), run.store)
    assert f"{caption}\n\n2 rows, in the results report" in text
    assert "HumanEval/10" not in text.split("\nSamples\n")[0]


def answer_problem_1(label: str, sample: GeneratedSample) -> str:
    """Problem 1 passes, in single-turn case 0 only. Problems 3 and 89 (not solvable) fail."""
    number, case = sample.problem.task_id.split("/")
    passed = number == "1" and (label == "multi" or case == "0")
    return f"x = 1 #: {'passed' if passed else 'no_print'}"


PROBLEMS = {1: ("math", 2), 3: ("math", 4), 89: ("string", 2)}


def test_multi_turn_is_shown_beside_single_turn_and_the_paper(run: Run) -> None:
    page = page_with(
        run, mono_mtpb=evaluated(run, "mono", conversations(PROBLEMS), answer_problem_1)
    )
    # Multi-turn: 1, 0 and 0 of three problems; without 89's two cases 2 of 4. Single-turn: 0.5, 0
    # and 0; without 89's cases 1 of 4. A resample of {1, 0, 0} is {1, 1, 1} with probability 1/27,
    # which is more than 2.5 %, and {0, 0, 0} with 8/27.
    assert table(page, "Pass rate in percent") == [
        [
            "Mono, multi-turn",
            "33.33",
            "0.00\u2013100.00",
            "50.00",
            "33.33",
            "16.98",
            "38.72",
            "43.52",
            "47.34",
        ],
        [
            "Mono, single-turn",
            "16.67",
            "0.00\u201350.00",
            "25.00",
            "16.67",
            "5.75",
            "25.43 ?",
            "28.48 ?",
            "38.74",
        ],
    ]
    content = section_of(page, "mtpb").text
    assert "This run: 3 problems x 2 cases, n = 1, temperature 0.2, top-p 0.95" in content
    assert "4 of 6 cases are solvable" in content
    assert table(page, "Pass rate in percent by difficulty") == [
        ["Mono, hard", "2", "0.00", "0.00", "+0.00"],
        ["Mono, easy", "1", "100.00", "50.00", "+50.00"],
    ]
    dots = section_of(page, "mtpb").first("svg", class_="wide").all("circle")
    assert {dot.text for dot in dots if dot.text} == {
        "Mono, hard, multi-turn: 0.000",
        "Mono, hard, single-turn: 0.000",
        "Mono, easy, multi-turn: 100.000",
        "Mono, easy, single-turn: 50.000",
    }
    assert table(page, "Pass rate in percent by category") == [
        ["math", "50.00", "25.00"],
        ["string", "0.00", "0.00"],
    ]
    assert table(page, "Pass rate in percent by number of turns") == [
        ["2", "50.00", "25.00"],
        ["4", "0.00", "0.00"],
    ]
    caption = "Pass rate in percent per problem (1 of 3 problems solved)"
    assert table(page, caption) == [
        ["1", "100.00", "50.00"],
        ["3", "0.00", "0.00"],
        ["89", "0.00", "0.00"],
    ]
    assert [row[:4] for row in table(page, "Sample outcomes")] == [
        ["Mono, multi-turn", "6", "2", "4"],
        ["Mono, single-turn", "6", "1", "5"],
    ]


def test_perplexities_are_split_by_outcome(run: Run) -> None:
    page = page_with(
        run,
        nl_mtpb=evaluated(run, "nl", conversations({1: ("math", 2)}), answer_problem_1),
        mono_mtpb=evaluated(run, "mono", conversations({3: ("math", 2)}), answer_problem_1),
    )
    # The scripted sampler gives every character of a prompt the probability 1/e.
    assert table(page, "Perplexity of the prompts") == [
        ["NL, multi-turn", "2.72", "2.72", NONE, *4 * [NONE]],
        ["NL, single-turn", "2.72", "2.72", "2.72", *4 * [NONE]],
        ["Mono, multi-turn", "2.72", NONE, "2.72", "10.09 ?", "8.90 ?", "8.18 ?", "8.05"],
        ["Mono, single-turn", "2.72", NONE, "2.72", "13.92 ?", "11.91 ?", "11.05 ?", "10.25"],
    ]


def test_a_run_without_single_turn_samples_has_no_single_turn_columns(run: Run) -> None:
    plan = conversations(PROBLEMS, single_turn=False)
    page = page_with(run, mono_mtpb=evaluated(run, "mono", plan, answer_problem_1))
    assert [row[:2] for row in table(page, "Pass rate in percent")] == [
        ["Mono, multi-turn", "33.33"]
    ]
    assert table(page, "Pass rate in percent by difficulty")[1] == [
        "Mono, easy",
        "1",
        "100.00",
        NONE,
        NONE,
    ]
    assert table(page, "Pass rate in percent by category") == [
        ["math", "50.00"],
        ["string", "0.00"],
    ]
    assert "single-turn" not in [
        text.text for text in section_of(page, "mtpb").first("svg", class_="wide").all("text")
    ]


def test_an_evaluation_that_was_not_executed_has_a_reason_and_no_score(run: Run) -> None:
    page = page_with(
        run,
        mono_humaneval=evaluated(run, "mono", functions([2], num_samples=3), failing, NO_JAIL),
        mono_mtpb=evaluated(run, "mono", conversations(PROBLEMS), answer_problem_1, NO_JAIL),
    )
    assert [row[:3] for row in table(page, "pass@k in percent")] == [
        ["Mono pass@1", "not executed", NONE]
    ]
    assert [row[1:4] for row in table(page, "Pass rate in percent")] == 2 * [
        ["not executed", NONE, NONE]
    ]
    assert [row[1:4] for row in table(page, "Perplexity of the prompts")] == 2 * [
        ["2.72", NONE, NONE]
    ]
    for anchor in ("humaneval", "mtpb"):
        assert f"Samples were generated but not executed: {REASON}" in section_of(page, anchor).text
        assert "Sample outcomes" not in section_of(page, anchor).text
        assert "per problem" not in section_of(page, anchor).text
        assert "0.00" not in section_of(page, anchor).text
        assert not list(section_of(page, anchor).all("svg"))
    assert section_of(page, "samples").first("span", class_="state").text == "not executed"


def test_execution_without_isolation_is_marked(run: Run) -> None:
    bare = SandboxReport(available=True, isolation="none: as asked", self_test={}, isolated=False)
    page = page_with(run, mono_humaneval=evaluated(run, "mono", functions([2]), failing, bare))
    statement = section_of(page, "humaneval").first("p", class_="verdict")
    assert "bad" in statement.attributes["class"]
    assert "the promotion gate refuses such a model: none: as asked (mode split" in statement.text
    assert "Executed without isolation, as requested; the promotion gate" in statement.text


def test_a_skipped_benchmark_has_a_reason(run: Run) -> None:
    page = read(render_html(run.results(skipped={"mtpb": "its file is missing"}), run.store))
    statements = {
        anchor: section_of(page, anchor).first("p", class_="verdict").text
        for anchor in ("mtpb", "humaneval")
    }
    assert statements["mtpb"] == "?Not run: its file is missing"
    assert statements["humaneval"] == "?Not run: not part of this run"


def test_sampling_is_a_step_before_its_evaluation(run: Run) -> None:
    def build(folder: Path) -> dict[str, JsonValue]:
        (folder / "samples.jsonl").write_text("")
        return {"num_tokens": 1234}

    parents = {"checkpoint": run.checkpoints["mono"]}
    samples = run.make("samples", "tiny-mono-humaneval-t0.2", parents, build)
    equal_samples = run.make("samples", "tiny-nl-humaneval-t0.2", parents, build)
    assert samples.digest == equal_samples.digest
    evaluation = evaluated(run, "mono", functions([2]), failing, samples={"t0.2": samples})
    results = run.results(
        evaluations={("mono", "humaneval"): evaluation},
        samples=(samples, equal_samples),
        reused=frozenset({samples.label}),
    )
    steps = section_of(read(render_html(results, run.store)), "steps").first("tbody").all("tr")
    rows = [[cell.text for cell in cells(row)] for row in steps]
    assert [row[0] for row in rows if row[0].startswith(("samples", "evaluation"))] == [
        "samples tiny-mono-humaneval-t0.2",
        "evaluation tiny-mono-humaneval",
    ]
    assert [(row[2], row[4]) for row in rows[-2:]] == [("reused", "1.23k"), ("built", NONE)]


def test_html_and_terminal_agree_on_both_benchmarks(run: Run) -> None:
    plan = functions([2, 10], num_samples=3, temperatures=[0.2, 0.8])
    results = run.results(
        evaluations={
            ("mono", "humaneval"): evaluated(run, "mono", plan, by_temperature),
            ("mono", "mtpb"): evaluated(run, "mono", conversations(PROBLEMS), answer_problem_1),
        }
    )
    page, text = read(render_html(results, run.store)), render_text(results, run.store, width=250)
    for anchor in ("humaneval", "mtpb"):
        section = section_of(page, anchor)
        folded_tables = section.all("details", class_="folded")
        folded = {id(cell) for details in folded_tables for cell in details.all("td")}
        for cell in section.all("td"):
            assert id(cell) in folded or cell.text in text
        for name in ("footnote", "lead"):
            for paragraph in section.all("p", class_=name):
                assert paragraph.text in " ".join(text.split())
    assert all(len(line) <= 80 for line in render_text(results, run.store, width=80).splitlines())


def test_a_benchmark_of_the_recipe_has_a_section_without_the_paper(run: Run) -> None:
    evaluation = evaluated(run, "mono", functions([2, 10]), by_temperature)
    results = run.results(
        evaluations={("mono", "samples"): evaluation}, skipped={"own": "its file is missing"}
    )
    page = read(render_html(results, run.store))
    section = section_of(page, "benchmark-samples")  # "samples" is the anchor of another section.
    assert table(section, "pass@k in percent") == [["Mono pass@1", "50.00", "0.00\u2013100.00"]]
    assert "The paper:" not in section.text
    assert "were not searched for samples" in section.text
    skipped = section_of(page, "benchmark-own").first("p", class_="verdict")
    assert skipped.text == "?Not run: its file is missing"
    assert "Mono, samples HumanEval/2, at 0.2, sample 0" in section_of(page, "samples").text
