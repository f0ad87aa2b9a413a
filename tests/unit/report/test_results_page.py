"""The results report over a real store: numbers, claims, lineage, and no external resources."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from fixtures.report_run import DVC_MD5, Run, version
from html_reader import Tag, assert_self_contained, cells, read, table

from components.core.artifact import Artifact
from components.core.errors import ArtifactError
from components.core.files import write_json
from components.core.store import Store
from components.report import RunResults, render_html, render_text
from components.report.bits_per_byte_section import python_claim
from components.report.results import StageGateResult


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def page_of(run: Run, **values: object) -> Tag:
    return read(render_html(run.results(**values), run.store))


def verdicts(element: Tag) -> list[tuple[str, str]]:
    """Tone and sentence of every statement in an element, without the sign before the sentence."""
    statements = []
    for paragraph in element.all("p", class_="verdict"):
        tone = paragraph.attributes["class"].removeprefix("verdict ")
        _, *texts = paragraph.all("span")
        statements.append((tone, "".join(span.text for span in texts)))
    return statements


def section(page: Tag, anchor: str) -> Tag:
    return page.first("section", id=anchor)


def test_bits_per_byte_are_a_matrix_with_the_lowest_of_each_column_marked(run: Run) -> None:
    page = page_of(run)
    assert table(page, "Held-out bits per byte, lowest of each column in bold") == [
        ["NL", "2.500", "4.000", "3.500", "3.000", "3.200"],
        ["Multi", "2.750", "2.000", "2.500", "2.000", "2.100"],
        ["Mono", "3.000", "2.250", "3.000", "1.500", "1.400"],
        ["uniform baseline", "5.000", "5.000", "5.000", "5.000", "5.000"],
    ]
    best = [cell.text for cell in section(page, "bits").all("td", class_="best")]
    assert best == ["2.500", "2.000", "2.500", "1.500", "1.400"]


def test_claims_that_hold_are_confirmed(run: Run) -> None:
    python, domains = verdicts(section(page_of(run), "bits"))
    assert python[0] == domains[0] == "good"
    assert "Mono 1.500, Multi 2.000, NL 3.000 bits per byte" in python[1]
    # Multi: the mean of C 4.0 and Go 3.5 before, of 2.0 and 2.5 after.
    assert (
        "NL English 5.00 → 2.50, Multi mean of 2 languages 3.75 → 2.25 and Mono Python 2.00 → 1.50"
        in domains[1]
    )


def test_claims_that_fail_are_refuted(run: Run) -> None:
    run.bits["mono"] |= {"mono/Python": 2.0}  # Not below Multi's 2.0.
    run.bits["multi"] |= {"multi/Go": 3.6}  # Above NL's 3.5, though the mean still falls.
    python, domains = verdicts(section(page_of(run), "bits"))
    assert python[0] == domains[0] == "bad"
    assert "does not hold" in python[1]
    assert "Multi did not lower Go 3.50 → 3.60" in domains[1]
    assert "Mono did not lower Python 2.00 → 2.00" in domains[1]


def test_claims_without_values_stay_open(run: Run) -> None:
    del run.bits["multi"]
    assert [tone for tone, _ in verdicts(section(page_of(run), "bits"))] == ["quiet", "quiet"]


def test_the_corpus_table_has_languages_and_sums(run: Run) -> None:
    page = page_of(run)
    single = ["1.00 MB", "920 kB", "900 kB", "225k", "250k", "2.50k"]
    doubled = ["2.00 MB", "1.84 MB", "1.80 MB", "450k", "500k", "5.00k"]
    tripled = ["3.00 MB", "2.76 MB", "2.70 MB", "675k", "750k", "7.50k"]
    names = ["NL · English", "Multi · C", "Multi · Go", "Multi · all", "Mono · Python"]
    rows = [single, single, doubled, tripled, single]
    expected = [[name, *row] for name, row in zip(names, rows, strict=True)]
    assert table(page, "Size after each step") == expected
    documents = table(page, "Documents after each step")
    assert documents[2:4] == [
        ["Multi · Go", "200", "190", "180", "200", "2.00 MB"],
        ["Multi · all", "300", "285", "270", "300", "3.00 MB"],
    ]
    small_print = [small.text for small in section(page, "corpus").all("small")]
    assert small_print == ["8.00 % lost", "2.17 % lost"] * 5
    titles = [span.attributes.get("title") for span in section(page, "corpus").all("span")]
    assert "1,840,000 bytes, 460,000 tokens" in titles
    assert table(page, "Rejected text by rule")[6:8] == [
        ["Multi · Go", "filtered", "line length", "6", "100 kB", "5.00 %"],
        ["Multi · Go", "filtered", "digits", "4", "60.0 kB", "3.00 %"],
    ]
    assert table(page, "Tokens by license")[:2] == [
        ["NL", "MIT", "60", "150k", "75.00 %"],
        ["NL", "(not stated)", "30", "50.0k", "25.00 %"],
    ]
    assert "by source" not in section(page, "corpus").text


def test_unverified_values_of_the_paper_are_marked(run: Run) -> None:
    rows = {row[0]: row[1:] for row in table(page_of(run), "The paper's corpora, for scale")}
    assert rows["BigPython"] == ["5.5 TB", "217.3 GB", "71.7B"]
    assert rows["BigQuery, six languages"] == ["about 4 TB ?", "340 GB", "119.2B"]
    for language in ("C", "C++"):
        assert all(number.endswith("?") for number in rows[f"BigQuery, {language}"])


def test_the_stage_table_is_computed_from_the_metrics(run: Run) -> None:
    rows = table(page_of(run), "Training stages, 5.00M parameters")
    # Two steps: peak rate 0.002; medians of 50 and 100 tokens/s, of 0.2 and 0.4 MFU.
    assert rows[0][:-1] == ["NL", "2", "200", "6.000", "4.000", "2.0e-03", "75", "30.0 %"]
    assert [row[3:5] for row in rows] == [
        ["6.000", "4.000"],
        ["5.000", "3.000"],
        ["3.500", "2.000"],
    ]


def test_the_gates_between_stages_are_in_the_training_section(run: Run) -> None:
    decision = StageGateResult(
        stage="nl",
        outcome="approved",
        requirements=("bits_per_byte/nl/English is at most 2: 2.5",),
        decided_by="grace",
        decided_at="2031-02-03T04:05:06+00:00",
        reason="<i>good enough</i>",
    )
    page = page_of(run, stage_gates=(decision,))
    (row,) = table(page, "Gates between stages")
    assert row == [
        "NL",
        "approved",
        "bits_per_byte/nl/English is at most 2: 2.5",
        "grace",
        "2031-02-03T04:05:06+00:00",
        "<i>good enough</i>",
    ]
    assert "Gates between stages" not in page_of(run).text


def test_the_loss_curves_are_consecutive_on_a_common_axis(run: Run) -> None:
    svg = section(page_of(run), "training").first("svg", class_="wide")
    ends = {}
    for path in svg.all("path", class_="line"):
        numbers = [float(number) for number in re.findall(r"[\d.]+", path.attributes["d"])]
        ends[path.attributes["class"].split()[1]] = (numbers[0::2], numbers[1::2])
    (nl, _), (multi, _), (mono, mono_y) = (ends[stage] for stage in ("nl", "multi", "mono"))
    length = nl[1] - nl[0]  # 100 tokens
    assert multi[0] - nl[1] == pytest.approx(length, abs=0.2)
    assert mono[1] - nl[0] == pytest.approx(5 * length, abs=0.4)
    assert mono_y[1] > mono_y[0]  # Downwards on the screen, as 3.5 falls to 2.0.
    assert [text.text for text in svg.all("text", class_="name")] == ["NL", "Multi", "Mono"]


def test_checkpoints_inside_a_stage_are_points_of_a_chart(run: Run) -> None:
    during_training = {}
    for stage, tokens in (("nl", 100), ("multi", 50)):
        splits = {name: {"bits_per_byte": 6.0} for name in ("nl/English", "multi/C", "mono/Python")}
        splits["multi/Go"] = {"bits_per_byte": 7.0}
        evaluation = run.make(
            "evaluation",
            f"tiny-{stage}-step-{tokens}",
            {"checkpoint": run.checkpoints[stage]},
            partial(_write_splits, splits),
        )
        during_training[stage] = {tokens: evaluation}
    page = page_of(run, during_training=during_training)
    labels = [text.text for text in section(page, "bits").all("text", class_="tick")]
    for label in (
        "NL at 100 tokens: 6.000 bits per byte",
        "NL at 200 tokens: 2.500 bits per byte",
        "Multi at 50 tokens: 6.500 bits per byte",
        "Multi at 200 tokens: 2.250 bits per byte",
    ):
        assert label in labels
    assert "Bits per byte during training" not in page_of(run).text


def _write_splits(splits: dict[str, dict[str, float]], folder: Path) -> dict[str, object]:
    write_json(folder / "results.json", {"splits": splits})
    return {}


def test_lineage_names_every_digest_from_the_pin_to_the_version(run: Run) -> None:
    page = page_of(run, registered=(version("mono"),))
    element = section(page, "lineage")
    titles = {node.attributes["title"] for node in element.all("p", class_="node")}
    artifacts = [
        run.tokenizer,
        *run.prepared.values(),
        *run.checkpoints.values(),
        *run.results().evaluations.values(),
    ]
    assert {f"{artifact.label}, SHA-256 {artifact.digest}" for artifact in artifacts} < titles
    assert f"md5 {DVC_MD5}" in titles
    assert "models:/tiny-mono/3" in titles
    assert "from Multi" in element.text


def without_stages(run: Run, *skipped: str) -> dict[str, object]:
    """The artifacts of a recipe that skips stages and starts from an initial model."""
    initial = run.make(
        "checkpoint", "released", {}, lambda folder: {"steps": (folder / "x").write_text("x")}
    )
    checkpoints = {
        stage: checkpoint for stage, checkpoint in run.checkpoints.items() if stage not in skipped
    }
    first = next(iter(checkpoints))
    parents = [parent for parent in checkpoints[first].parents if parent.role != "initial"]
    parents.append(initial.as_parent("initial"))
    checkpoints[first] = checkpoints[first].replace(parents=parents)
    for stage in skipped:
        del run.bits[stage]
    return {"checkpoints": checkpoints, "initial": initial}


def test_a_run_of_two_stages_compares_these_two(run: Run) -> None:
    page = page_of(run, **without_stages(run, "nl"))
    python, domains = verdicts(section(page, "bits"))
    assert python == (
        "good",
        "On held-out Python, Mono is better than Multi: Mono 1.500, Multi 2.000 bits per byte.",
    )
    # Multi against a uniform distribution, 5 bits per byte: the mean of C 2.0 and Go 2.5.
    assert (
        "Multi mean of 2 languages 5.00 → 2.25 and Mono Python 2.00 → 1.50 (Multi against"
        in domains[1]
    )
    assert [head.text for head in section(page, "summary").all("h3")] == ["Multi", "Mono"]


def test_a_run_of_a_single_stage_has_no_comparison_and_shows_its_initial_model(run: Run) -> None:
    values = without_stages(run, "nl", "multi")
    page = page_of(run, **values)
    python, domains = verdicts(section(page, "bits"))
    assert python[0] == "quiet"
    assert "Mono 1.500 bits per byte. It is the only stage" in python[1]
    assert "Mono Python 5.00 → 1.50 (Mono against a uniform distribution)" in domains[1]
    lineage = section(page, "lineage")
    assert "from released" in lineage.text
    assert "from random weights" not in lineage.text
    initial = values["initial"]
    assert isinstance(initial, Artifact)
    titles = {node.attributes["title"] for node in lineage.all("p", class_="node")}
    assert f"{initial.label}, SHA-256 {initial.digest}" in titles
    assert "the first stage starts from released" in section(page, "training").text
    assert initial.digest[:12] in section(page, "steps").text


def test_every_table_lists_its_source_artifacts(run: Run) -> None:
    page = page_of(run)
    for anchor, artifacts in [
        ("corpus", run.prepared.values()),
        ("training", run.checkpoints.values()),
        ("bits", run.results().evaluations.values()),
    ]:
        sources = {source.text for source in section(page, anchor).all("li")}
        assert sources == {f"{artifact.label} {artifact.digest}" for artifact in artifacts}


@pytest.mark.parametrize(
    ("registered", "tone", "sentence"),
    [
        (
            (version("multi"), version("mono")),
            "good",
            "tiny-mono version 3 was promoted and is now @champion; so was tiny-multi.",
        ),
        (
            (version("mono", promoted=False, alias=None, why="gains 0.01: 0.001"),),
            "bad",
            "No version was promoted: gains 0.01: 0.001.",
        ),
        (
            (version("mono", promoted=False),),
            "good",
            "tiny-mono version 3 is already @champion: this run built the same model.",
        ),
        ((), "quiet", "No version was registered in this run."),
    ],
)
def test_the_headline_names_the_promoted_version_or_the_reason(
    run: Run, registered: tuple[object, ...], tone: str, sentence: str
) -> None:
    assert verdicts(page_of(run, registered=registered).first("header")) == [(tone, sentence)]


def test_reused_steps_are_marked(run: Run) -> None:
    mono = run.checkpoints["mono"]
    others = [artifact for artifact in run.results().steps() if artifact != mono]
    page = page_of(run, reused=frozenset({mono.label}))
    element = section(page, "steps")
    rows = [[cell.text for cell in cells(row)] for row in element.first("tbody").all("tr")]
    assert {row[0]: row[2] for row in rows} == {
        **{f"{artifact.kind} {artifact.name}": "built" for artifact in others},
        "checkpoint tiny-mono": "reused",
    }
    tokens = {row[0]: row[4] for row in rows}
    # Prepared: 250,000 + 2,500 for C and twice that for Go. Trained: 200. Scored: 5 splits of 200.
    assert tokens["prepared-corpus multi"] == "758k"
    assert tokens["checkpoint tiny-nl"] == "200"
    assert tokens["evaluation tiny-nl-bits-per-byte"] == "1.00k"
    assert "12 min 34 s for the whole run" in element.first("h3").text


def test_the_page_has_no_scripts_and_no_external_resources(run: Run) -> None:
    html = render_html(run.results(registered=(version("mono"),)), run.store)
    assert_self_contained(html)
    page = read(html)
    links = [element.attributes["href"] for element in page.all() if "href" in element.attributes]
    assert all(link.startswith("#") for link in links)
    anchors = {section.attributes["id"] for section in page.all("section")}
    navigation = {link.attributes["href"] for link in page.first("nav").all("a")}
    assert navigation == {f"#{anchor}" for anchor in anchors}


def test_names_that_look_like_markup_stay_text(run: Run) -> None:
    hostile = '<img src=x onerror="alert(1)">&amp;[red]\x1b[2J'
    visible = '<img src=x onerror="alert(1)">&amp;[red]␛[2J'
    registered = (version("mono", promoted=False, alias=None, why=hostile),)
    page = page_of(run, recipe=hostile, registered=registered)
    assert page.first("h1").text == f"Results of {visible}"
    assert visible in page.first("article", class_="mono").text
    assert not list(page.all("img"))
    text = render_text(run.results(recipe=hostile, registered=registered), run.store)
    assert f"Results of {visible}" in text
    assert "\x1b" not in text


def test_terminal_and_html_agree(run: Run) -> None:
    results = run.results(registered=(version("mono"),))
    page = read(render_html(results, run.store))
    text = render_text(results, run.store, width=250)
    for element in page.all("section"):
        assert element.first("h2").text in text
        folded = [cell for table in element.all("details") for cell in table.all("td")]
        for cell in element.all("td"):
            for child in cell.children if cell not in folded else ():
                assert (child if isinstance(child, str) else child.text) in text
        assert all(sentence in text for _, sentence in verdicts(element))
    assert all(len(line) <= 80 for line in render_text(results, run.store, width=80).splitlines())


def test_the_same_artifacts_give_the_same_page(run: Run) -> None:
    results = run.results()
    assert render_html(results, run.store) == render_html(results, run.store)
    assert render_text(results, run.store) == render_text(results, run.store)


def test_an_empty_run_has_a_page(run: Run) -> None:
    empty = RunResults(
        recipe="tiny",
        raw={},
        prepared={},
        checkpoints={},
        evaluations={},
        total_s=1.0,
        provenance={},
    )
    page = read(render_html(empty, run.store))
    assert "Bits per byte were not measured in this run." in page.text
    assert "No stage was trained in this run." in page.text
    assert "No corpus was prepared in this run." in page.text
    assert render_text(empty, run.store)


def test_a_damaged_artifact_is_an_error(run: Run) -> None:
    results = run.results()
    damaged = Path(results.evaluations["mono", "bits-per-byte"].address) / "results.json"
    damaged.write_text(damaged.read_text().replace("1.5", "0.5"))
    # As in another process, which has verified nothing yet.
    fresh = Store(run.store.root)
    with pytest.raises(ArtifactError, match=r"results\.json is damaged"):
        render_html(results, fresh)


def test_the_command_that_loads_the_champion_names_the_tracking_server(run: Run) -> None:
    versions = (version("nl"), version("mono"))
    page = page_of(run, registered=versions, tracking_uri="http://me:secret@host:5000")
    commands = section(page, "next").text
    assert "MLFLOW_TRACKING_URI=http://USER:PASSWORD@host:5000 python -c" in commands
    assert 'load_model("models:/tiny-mono@champion")' in commands
    assert "tiny-nl@" not in commands
    page = page_of(run, registered=(version("mono", promoted=False, alias=None),))
    assert "load_model" not in section(page, "next").text


def test_the_claim_about_python_ignores_stages_that_the_paper_does_not_have() -> None:
    values = {
        name: {"mono/Python": bits}
        for name, bits in (("nl", 4.0), ("multi", 3.0), ("mono", 2.0), ("rust", 3.5))
    }
    claim = python_claim(values, ("nl", "multi", "mono", "rust"))
    assert claim.holds is True
    assert "Rust" not in claim.text
