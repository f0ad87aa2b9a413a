"""What the models wrote: which programs are chosen, how a reader filters them without a script, and that they only show."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from html_reader import Tag, read, table
from hypothesis import given
from hypothesis import strategies as st
from report_programs import NO_JAIL, PROMPT, conversations, evaluated, functions
from report_run import HOSTILE, Run
from rich.console import Console

from components.evaluation.report import RunResults, render_html, render_samples, render_text
from components.evaluation.report.cells import NOTHING
from components.evaluation.report.gallery import MAX_SHOWN, SAMPLES_PAGE, choose, samples_page
from components.evaluation.report.text import text_of
from components.evaluation.sampling.samples import GeneratedSample

KINDS = ("passed", "exception", "time out", "memory", "not executed")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def hostile(_: str, sample: GeneratedSample) -> str:
    """The second of two samples passes; the first would like to be more than text."""
    return (
        "    return x < 3 #: passed"
        if sample.number
        else f"{HOSTILE.rstrip()} #: exception NameError"
    )


def two_stages(run: Run) -> RunResults:
    plan, talk = functions([7, 8], num_samples=2), conversations({1: ("math", 2)}, cases=[0])
    return run.results(
        evaluations={
            ("nl", "humaneval"): evaluated(
                run, "nl", plan, lambda *_: f"{HOSTILE.rstrip()} #: wrong_answer"
            ),
            ("mono", "humaneval"): evaluated(run, "mono", plan, hostile),
            ("mono", "mtpb"): evaluated(run, "mono", talk, lambda *_: "x = 1 #: no_print"),
        }
    )


def test_what_fits_is_shown_whole_and_passed_ones_come_first() -> None:
    assert choose(["exception", "passed", "time out", "passed"], 4) == [1, 3, 0, 2]


def test_room_is_shared_and_spread_evenly() -> None:
    kinds = ["passed"] * 100 + ["exception"] * 100 + ["memory"] * 2 + ["time out"] * 4
    # Half of 20 for those that passed; of the other ten 2 and 4 rare ones, which leaves 4 of 100.
    expected = [*range(0, 100, 10), 100, 125, 150, 175, 200, 201, *[202, 203, 204, 205]]
    assert choose(kinds, 20) == [*expected[:10], *sorted(expected[10:])]
    # Nothing else needs the room.
    assert choose(["passed"] * 9 + ["memory"], 6) == [0, 1, 3, 5, 7, 9]


@given(st.lists(st.sampled_from(KINDS), max_size=120), st.integers(1, 40))
def test_any_samples_are_chosen_within_bounds(kinds: list[str], at_most: int) -> None:
    chosen = choose(kinds, at_most)
    assert len(chosen) == len(set(chosen)) == min(at_most, len(kinds))
    found, shown = Counter(kinds), Counter(kinds[place] for place in chosen)
    assert [kinds[place] for place in chosen[: shown["passed"]]] == ["passed"] * shown["passed"]
    assert shown["passed"] >= min(found["passed"], at_most // 2)
    assert chosen[shown["passed"] :] == sorted(chosen[shown["passed"] :])
    if at_most >= 2 * len(KINDS):
        assert shown.keys() == found.keys()


def test_no_more_is_shown_than_was_said(run: Run) -> None:
    plan = functions([7], num_samples=MAX_SHOWN + 50)
    evaluation = evaluated(
        run,
        "mono",
        plan,
        lambda _, one: f"    return x #: {'memory' if one.number == 3 else 'time_out'}",
    )
    page = read(
        render_samples(run.results(evaluations={("mono", "humaneval"): evaluation}), run.store)
    )
    assert len(list(page.all("article"))) == MAX_SHOWN
    assert f"{MAX_SHOWN} of {MAX_SHOWN + 50} programs are shown." in page.first("header").text
    rows = table(page, "Samples that are shown, of all")
    assert rows == [
        [
            "Mono, HumanEval",
            f"{MAX_SHOWN} of {MAX_SHOWN + 50}",
            "0",
            "1",
            f"{MAX_SHOWN - 1} of {MAX_SHOWN + 49}",
        ]
    ]


def test_one_program_per_stage_and_benchmark_is_on_the_page_of_results(run: Run) -> None:
    page = read(render_html(two_stages(run), run.store)).first("section", id="samples")
    shown = [(one.first("h3").text, one.first("code").text) for one in page.all("article")]
    written = HOSTILE.rstrip().replace("\x1b", "␛")
    assert shown[0] == (
        "NL, HumanEval/7, at 0.2, sample 0 wrong answer",
        f"{PROMPT}{written} #: wrong_answer",
    )
    # The one that passed, not the first.
    assert shown[1] == (
        "Mono, HumanEval/7, at 0.2, sample 1 passed",
        f"{PROMPT}    return x < 3 #: passed",
    )
    assert shown[2][0] == "Mono, MTPB 1/0, several turns, sample 0 no print"
    assert shown[2][1].endswith("# Say it.\nx = 1 #: no_print\n\n# Say it.\nx = 1 #: no_print")
    (link,) = page.all("a")
    assert link.attributes["href"] == SAMPLES_PAGE


def test_the_page_of_samples_loads_nothing_and_shows_text_as_text(run: Run) -> None:
    html = render_samples(two_stages(run), run.store)
    page = read(html)
    policy = next(
        one
        for one in page.all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not list(page.all("script"))
    assert not [
        one for one in page.all() if {"src", "srcset", "onclick", "onload"} & one.attributes.keys()
    ]
    assert not [one for one in page.all() if "href" in one.attributes]
    assert "url(" not in html
    codes = [one.first("code").text for one in page.all("article")]
    assert codes.count(f"{PROMPT}{HOSTILE.rstrip()} #: wrong_answer".replace("\x1b", "␛")) == 4
    assert len(codes) == 2 * 2 * 2 + 2
    assert (
        codes[4] == f"{PROMPT}    return x < 3 #: passed"
    )  # Of Mono's, those that passed come first.


def test_every_choice_of_a_filter_hides_the_others(run: Run) -> None:
    """What the rules of style say, applied by hand; `:has()` and `:not()` are the browser's."""
    page = read(render_samples(two_stages(run), run.store))
    gallery = page.first("div", class_="gallery")
    choices = [
        (one.first("legend").text, list(one.all("label"))) for one in gallery.all("fieldset")
    ]
    assert [(name, [label.text for label in labels]) for name, labels in choices] == [
        ("stage", ["all", "NL", "Mono"]),
        ("benchmark", ["all", "HumanEval", "MTPB"]),
        ("set", ["all", "at 0.2", "several turns", "one turn"]),
        ("verdict", ["all", "wrong answer", "passed", "exception", "no print"]),
    ]
    rules = re.findall(
        r":has\(#([\w-]+):checked\) > \.sample:not\(\.([\w-]+)\)", gallery.first("style").text
    )
    assert all(asked == kept for asked, kept in rules)
    articles = list(gallery.all("article"))
    for _, (everything, *labels) in choices:
        assert "checked" in everything.first("input").attributes
        left = 0
        for label in labels:
            mark = label.first("input").attributes["id"]
            assert (mark, mark) in rules
            kept = [one for one in articles if mark in one.attributes["class"].split()]
            assert kept
            assert all(
                label.text in one.first("h3").text
                for one in kept
                if label.text not in ("HumanEval", "MTPB")
            )
            left += len(kept)
        assert left == len(articles)


def test_a_filter_without_a_choice_is_not_there(run: Run) -> None:
    evaluation = evaluated(run, "mono", functions([7]), lambda *_: "    return x #: passed")
    page = read(
        render_samples(run.results(evaluations={("mono", "humaneval"): evaluation}), run.store)
    )
    assert not list(page.all("fieldset"))


def test_how_a_sample_ended_is_said(run: Run) -> None:
    plan = conversations({1: ("math", 2)}, cases=[0], single_turn=False)
    cut = evaluated(run, "mono", plan, lambda *_: "x = 1 #: exception NameError\n# more")
    page = read(render_samples(run.results(evaluations={("mono", "mtpb"): cut}), run.store))
    article = page.first("article")
    # Eight words in each of two turns are that many tokens of the scripted sampler.
    assert article.first("span", class_="state").text == "exception: NameError"
    assert article.first("small").text == "16 tokens, 2 of 2 turns cut"


def test_samples_cannot_steer_a_terminal(run: Run) -> None:
    text = render_text(two_stages(run), run.store)
    assert "\x1b" not in text
    assert "␛[2J</code></pre><script src=" in text
    assert "return [red]x[/red] & y" in text
    assert SAMPLES_PAGE in text
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(text_of(samples_page(two_stages(run), run.store)))
    assert captured.get().count("return [red]x[/red] & y") == 6
    assert "\x1b" not in captured.get()


def test_where_nothing_was_sampled_the_page_says_so(run: Run) -> None:
    page = read(render_samples(run.results(evaluations={}), run.store))
    assert "No program was sampled in this run." in page.text
    assert "0 of 0 programs are shown." in page.text
    results = read(render_html(run.results(evaluations={}), run.store))
    assert not list(results.first("section", id="samples").all("a"))


def test_what_was_not_executed_is_shown_without_a_verdict(run: Run) -> None:
    evaluation = evaluated(run, "mono", functions([7, 8]), hostile, NO_JAIL)
    page = read(
        render_samples(run.results(evaluations={("mono", "humaneval"): evaluation}), run.store)
    )
    assert {one.text for one in page.all("span", class_="state")} == {"not executed"}
    assert table(page, "Samples that are shown, of all") == [["Mono, HumanEval", "2", "2"]]


def test_that_nothing_passed_is_told_from_that_nothing_was_executed(run: Run) -> None:
    nl = evaluated(run, "nl", functions([7, 8]), lambda *_: "    return #: memory")
    mono = evaluated(run, "mono", functions([7, 8]), hostile, NO_JAIL)
    page = read(
        render_samples(
            run.results(evaluations={("nl", "humaneval"): nl, ("mono", "humaneval"): mono}),
            run.store,
        )
    )
    assert table(page, "Samples that are shown, of all") == [
        ["NL, HumanEval", "2", "0", "2", "0"],
        ["Mono, HumanEval", "2", NOTHING.text, NOTHING.text, "2"],
    ]


def test_the_same_samples_give_the_same_page(run: Run) -> None:
    results = two_stages(run)
    assert render_samples(results, run.store) == render_samples(results, run.store)


def test_prompts_come_with_every_sample(run: Run) -> None:
    plan = conversations({1: ("math", 2)}, cases=[0])
    evaluation = evaluated(run, "mono", plan, lambda *_: "x = 1 #: no_print")
    page: Tag = read(
        render_samples(run.results(evaluations={("mono", "mtpb"): evaluation}), run.store)
    )
    asked = [
        [one.text for one in article.first("code").all("span")] for article in page.all("article")
    ]
    assert asked == [list(draw.benchmark.problems[0].turns) for draw in plan.draws]
