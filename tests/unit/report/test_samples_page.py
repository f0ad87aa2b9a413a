"""Generated programs: selection, filters without a script, and inert text."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from fixtures.report_programs import NO_JAIL, PROMPT, conversations, evaluated, functions
from fixtures.report_run import HOSTILE, Run
from html_reader import Tag, assert_self_contained, read, table
from hypothesis import given
from hypothesis import strategies as st

from components.core.artifact import Artifact
from components.evaluation.sampling.samples import GeneratedSample
from components.report import RunResults, render_html, render_samples, render_text
from components.report.rendering import page_text
from components.report.samples_page import MAX_SHOWN, SAMPLES_PAGE, choose_samples, samples_page
from components.report.table import EMPTY

KINDS = ("passed", "exception", "time out", "memory", "not executed")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def hostile(_: str, sample: GeneratedSample) -> str:
    """The second of two samples passes; the first contains markup and escape sequences."""
    return (
        "    return x < 3 #: passed"
        if sample.number
        else f"{HOSTILE.rstrip()} #: exception NameError"
    )


def wrong(_: str, __: GeneratedSample) -> str:
    return f"{HOSTILE.rstrip()} #: wrong_answer"


def silent(_: str, __: GeneratedSample) -> str:
    return "x = 1 #: no_print"


def two_stages(run: Run) -> RunResults:
    humaneval = functions([7, 8], num_samples=2)
    mtpb = conversations({1: ("math", 2)}, cases=[0])
    return run.results(
        evaluations={
            ("nl", "humaneval"): evaluated(run, "nl", humaneval, wrong),
            ("mono", "humaneval"): evaluated(run, "mono", humaneval, hostile),
            ("mono", "mtpb"): evaluated(run, "mono", mtpb, silent),
        }
    )


def samples_of(run: Run, **evaluations: Artifact) -> Tag:
    """The page of samples of a run with these evaluations, named like `mono_humaneval`."""
    by_key = {tuple(name.split("_")): artifact for name, artifact in evaluations.items()}
    return read(render_samples(run.results(evaluations=by_key), run.store))


def test_passed_samples_come_first() -> None:
    assert choose_samples(["exception", "passed", "time out", "passed"], 4) == [1, 3, 0, 2]


def test_samples_are_divided_among_outcomes_and_spread_evenly() -> None:
    kinds = ["passed"] * 100 + ["exception"] * 100 + ["memory"] * 2 + ["time out"] * 4
    # Half of 20 for those that passed; 2 and 4 for the rare failures, so 4 for the exceptions.
    failed = [100, 125, 150, 175, 200, 201, 202, 203, 204, 205]
    assert choose_samples(kinds, 20) == [*range(0, 100, 10), *failed]
    # A single failure leaves more places for the samples that passed.
    assert choose_samples(["passed"] * 9 + ["memory"], 6) == [0, 1, 3, 5, 7, 9]


@given(st.lists(st.sampled_from(KINDS), max_size=120), st.integers(1, 40))
def test_the_number_of_chosen_samples_stays_within_the_limit(kinds: list[str], limit: int) -> None:
    indices = choose_samples(kinds, limit)
    assert len(indices) == len(set(indices)) == min(limit, len(kinds))
    total = Counter(kinds)
    counts = Counter(kinds[index] for index in indices)
    num_passed = counts["passed"]
    assert [kinds[index] for index in indices[:num_passed]] == ["passed"] * num_passed
    assert num_passed >= min(total["passed"], limit // 2)
    assert indices[num_passed:] == sorted(indices[num_passed:])
    if limit >= 2 * len(KINDS):
        assert counts.keys() == total.keys()


def test_the_page_shows_limit_the_maximum(run: Run) -> None:
    def slow(_: str, sample: GeneratedSample) -> str:
        return f"    return x #: {'memory' if sample.number == 3 else 'time_out'}"

    plan = functions([7], num_samples=MAX_SHOWN + 50)
    page = samples_of(run, mono_humaneval=evaluated(run, "mono", plan, slow))
    assert len(list(page.all("article"))) == MAX_SHOWN
    assert f"{MAX_SHOWN} of {MAX_SHOWN + 50} programs are shown." in page.first("header").text
    rows = table(page, "Samples shown and in total")
    assert rows == [
        [
            "Mono, HumanEval",
            f"{MAX_SHOWN} of {MAX_SHOWN + 50}",
            "0",
            "1",
            f"{MAX_SHOWN - 1} of {MAX_SHOWN + 49}",
        ]
    ]


def test_the_report_shows_a_program_per_stage_and_benchmark(run: Run) -> None:
    page = read(render_html(two_stages(run), run.store)).first("section", id="samples")
    samples = [
        (article.first("h3").text, article.first("code").text) for article in page.all("article")
    ]
    hostile_text = HOSTILE.rstrip().replace("\x1b", "␛")
    assert samples[0] == (
        "NL, HumanEval/7, at 0.2, sample 0 wrong answer",
        f"{PROMPT}{hostile_text} #: wrong_answer",
    )
    # The sample that passed, not the first.
    assert samples[1] == (
        "Mono, HumanEval/7, at 0.2, sample 1 passed",
        f"{PROMPT}    return x < 3 #: passed",
    )
    assert samples[2][0] == "Mono, MTPB 1/0, multi-turn, sample 0 no print"
    assert samples[2][1].endswith("# Say it.\nx = 1 #: no_print\n\n# Say it.\nx = 1 #: no_print")
    (link,) = page.all("a")
    assert link.attributes["href"] == SAMPLES_PAGE


def test_the_page_of_samples_has_no_external_resources_and_inert_text(run: Run) -> None:
    html = render_samples(two_stages(run), run.store)
    assert_self_contained(html)
    page = read(html)
    assert not [element for element in page.all() if "href" in element.attributes]
    codes = [article.first("code").text for article in page.all("article")]
    assert codes.count(f"{PROMPT}{HOSTILE.rstrip()} #: wrong_answer".replace("\x1b", "␛")) == 4
    assert len(codes) == 2 * 2 * 2 + 2
    # The samples of Mono that passed come first.
    assert codes[4] == f"{PROMPT}    return x < 3 #: passed"


def test_a_filter_value_hides_all_other_samples(run: Run) -> None:
    """Applies the style rules by hand; `:has()` and `:not()` are implemented by the browser."""
    page = read(render_samples(two_stages(run), run.store))
    gallery = page.first("div", class_="gallery")
    filters = {
        fieldset.first("legend").text: list(fieldset.all("label"))
        for fieldset in gallery.all("fieldset")
    }
    assert {name: [label.text for label in labels] for name, labels in filters.items()} == {
        "stage": ["all", "NL", "Mono"],
        "benchmark": ["all", "HumanEval", "MTPB"],
        "set": ["all", "at 0.2", "multi-turn", "single-turn"],
        "verdict": ["all", "wrong answer", "passed", "exception", "no print"],
    }
    rules = re.findall(
        r":has\(#([\w-]+):checked\) > \.sample:not\(\.([\w-]+)\)", gallery.first("style").text
    )
    assert all(checked_id == class_ for checked_id, class_ in rules)
    articles = list(gallery.all("article"))
    for label_all, *labels in filters.values():
        assert "checked" in label_all.first("input").attributes
        num_filtered = 0
        for label in labels:
            class_ = label.first("input").attributes["id"]
            assert (class_, class_) in rules
            visible = list(gallery.all("article", class_=class_))
            assert visible
            if label.text not in ("HumanEval", "MTPB"):
                assert all(label.text in article.first("h3").text for article in visible)
            num_filtered += len(visible)
        assert num_filtered == len(articles)


def test_a_filter_with_a_single_value_is_not_shown(run: Run) -> None:
    evaluation = evaluated(run, "mono", functions([7]), lambda *_: "    return x #: passed")
    page = samples_of(run, mono_humaneval=evaluation)
    assert not list(page.all("fieldset"))


def test_a_sample_shows_its_exception_and_truncated_turns(run: Run) -> None:
    plan = conversations({1: ("math", 2)}, cases=[0], single_turn=False)
    evaluation = evaluated(run, "mono", plan, lambda *_: "x = 1 #: exception NameError\n# more")
    page = samples_of(run, mono_mtpb=evaluation)
    article = page.first("article")
    # Eight words in each of two turns are that many tokens of the scripted sampler.
    assert article.first("span", class_="state").text == "exception: NameError"
    assert article.first("small").text == "16 tokens, 2 of 2 turns truncated"


def test_samples_cannot_steer_a_terminal(run: Run) -> None:
    text = render_text(two_stages(run), run.store)
    assert "\x1b" not in text
    assert "␛[2J</code></pre><script src=" in text
    assert "return [red]x[/red] & y" in text
    assert SAMPLES_PAGE in text
    samples = page_text(samples_page(two_stages(run), run.store))
    assert samples.count("return [red]x[/red] & y") == 6
    assert "\x1b" not in samples


def test_a_run_without_samples_has_a_page(run: Run) -> None:
    page = read(render_samples(run.results(evaluations={}), run.store))
    assert "No program was sampled in this run." in page.text
    assert "0 of 0 programs are shown." in page.text
    results = read(render_html(run.results(evaluations={}), run.store))
    assert not list(results.first("section", id="samples").all("a"))


def test_samples_that_were_not_executed_have_no_verdict(run: Run) -> None:
    evaluation = evaluated(run, "mono", functions([7, 8]), hostile, NO_JAIL)
    page = samples_of(run, mono_humaneval=evaluation)
    assert {verdict.text for verdict in page.all("span", class_="state")} == {"not executed"}
    assert table(page, "Samples shown and in total") == [["Mono, HumanEval", "2", "2"]]


def test_no_passed_samples_differs_from_no_executed_samples(run: Run) -> None:
    nl = evaluated(run, "nl", functions([7, 8]), lambda *_: "    return #: memory")
    mono = evaluated(run, "mono", functions([7, 8]), hostile, NO_JAIL)
    page = samples_of(run, nl_humaneval=nl, mono_humaneval=mono)
    assert table(page, "Samples shown and in total") == [
        ["NL, HumanEval", "2", "0", "2", "0"],
        ["Mono, HumanEval", "2", EMPTY.text, EMPTY.text, "2"],
    ]


def test_the_same_samples_give_the_same_page(run: Run) -> None:
    results = two_stages(run)
    assert render_samples(results, run.store) == render_samples(results, run.store)


def test_prompts_come_with_every_sample(run: Run) -> None:
    plan = conversations({1: ("math", 2)}, cases=[0])
    page = samples_of(run, mono_mtpb=evaluated(run, "mono", plan, silent))
    prompts = [
        [prompt.text for prompt in article.first("code").all("span")]
        for article in page.all("article")
    ]
    assert prompts == [
        list(sample_set.benchmark.problems[0].turns) for sample_set in plan.sample_sets
    ]
