"""`codegen data estimate`: what it says, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.projects import FixtureArchives, new_project, pull_fixtures

from components.core.errors import CodegenError, ConfigError, DataError
from components.data.config import CORPORA
from components.data.raw_corpus import raw_artifacts
from components.preparation.estimate import Estimate, Interval
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, starter, tiny
from flows.steps.estimate_corpus import estimate_corpora, estimate_notes, format_estimate


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives) -> Execution:
    """A project whose data/ was pulled and of which nothing was prepared."""
    folder = new_project(tmp_path_factory.mktemp("estimate") / "project")
    pull_fixtures(folder, fixture_archives)
    execution = Execution(project=str(folder), pins=str(fixture_archives.folder / "pins.json"))
    execution.workspace_path.mkdir()
    return execution


def test_every_corpus_of_a_recipe_without_preparing_it(place: Execution) -> None:
    found = dict(estimate_corpora(tiny(), place, None, 64))
    assert list(found) == list(CORPORA)
    raw = raw_artifacts(place.project_path)
    for corpus, one in found.items():
        assert one.is_whole
        assert one.documents.value == raw[corpus].statistics["num_documents"]
        assert one.num_files == raw[corpus].statistics["num_files"]
    assert [one.kind for one in place.open_store().list_artifacts()] == ["tokenizer"]
    assert list(place.workspace_path.glob("estimate-*")) == []


def test_one_corpus_and_the_tokenizer_that_is_there(place: Execution) -> None:
    before = [one.provenance["created_at"] for one in place.open_store().list_artifacts()]
    ((corpus, _),) = estimate_corpora(tiny(), place, "multi", 64)
    assert corpus == "multi"
    assert [one.provenance["created_at"] for one in place.open_store().list_artifacts()][
        : len(before)
    ] == before
    assert len(list(place.open_store().list_artifacts())) == 1


def test_sources_of_ones_own_need_no_preset(place: Execution, tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"x = {number}\n" * 9, "path": f"{number}.py"}) + "\n"
        for number in range(50)
    ]
    (tmp_path / "own.jsonl").write_text("".join(lines))
    own = tiny().override(
        ["data.preset=starter", f'data.sources={{"mono": [{{"uri": "{tmp_path}/own.jsonl"}}]}}']
    )
    ((_, found),) = estimate_corpora(own, place, "mono", 1)
    assert (found.documents.value, found.num_files) == (50, 1)
    with pytest.raises(DataError, match="data/ holds the preset tiny"):
        list(estimate_corpora(own, place, "nl", 1))


REFUSED: dict[str, tuple[tuple[str | None, int, list[str]], str]] = {
    "corpus": (("python", 64, []), "there is no corpus 'python'"),
    "nothing": ((None, 0, []), "--sample-mb is 0"),
    "preset": ((None, 64, ["data.preset=starter"]), "data/ holds the preset tiny"),
    "source": (
        ("mono", 64, ['data.sources={"mono": [{"uri": "/nowhere/*.jsonl"}]}']),
        "/nowhere/*.jsonl holds no file",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_estimated_is_said(place: Execution, case: str) -> None:
    (corpus, sample_mb, sets), got = REFUSED[case]
    with pytest.raises(CodegenError) as error:
        list(estimate_corpora(tiny().override(sets), place, corpus, sample_mb))
    assert got in error.value.got
    assert error.value.expected
    assert error.value.fix


def test_without_data_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        list(
            estimate_corpora(
                tiny(), Execution(project=str(new_project(tmp_path / "project"))), None, 64
            )
        )
    assert "codegen data pull" in error.value.fix


FOUND = Estimate(
    num_files=1200,
    num_drawn=64,
    stored_bytes=10**12,
    sample_bytes=64_000_000,
    is_whole=False,
    documents=Interval(200_000_000, 190_000_000, 210_000_000),
    raw_bytes=4 * 10**12,
    rejected={"digits": 5_000_000, "duplicate": 1_000_000},
    bad=2_000_000,
    tokens=Interval(1_030_000_000_000, 9 * 10**11, 11 * 10**11),
    train_tokens=10**12,
    sequences=488_281_250,
    held_out_sequences=14_648_437,
    shard_bytes=2 * 10**12,
    work_bytes=10**16,
    bytes_per_s=320e6,
    num_workers=16,
    duration_s=12_500.0,
)


def paper_like() -> Recipe:
    return starter().override(
        ["model.context_length=2048", "evaluation.humaneval.max_new_tokens=64"]
    )


def test_it_is_said_for_people(tmp_path: Path) -> None:
    """Worked out by hand: 6 of 200 million documents are 3 %, 2 of 202 records 0.99 %; 600 steps of 2,048 tokens."""
    recipe, place = paper_like(), Execution(project=str(tmp_path), workspace=".")
    first, *lines = format_estimate("mono", FOUND, recipe, place)
    assert (
        first
        == "mono: 1,200 files, 1.0 TB as stored; read 64.0 MB of text from the beginnings of 64 files"
    )
    disk = lines.pop(6)
    assert disk.startswith("  disk       2.0 TB of shards, 10.0 PB at most while working; only ")
    assert disk.endswith(f" are free at {tmp_path}")
    assert lines == [
        "  documents  200,000,000 (190,000,000 to 210,000,000)",
        "  raw text   4.0 TB",
        "  rejected   3.00% of the documents: digits 2.50%, duplicate 0.50%",
        "  unreadable 2,000,000 records, 0.99%; preparation stops above 0.10%",
        "  tokens     1,030,000,000,000 (900,000,000,000 to 1,100,000,000,000)",
        "  sequences  488,281,250 of 2,048 tokens to train on, 14,648,437 held out",
        "  time       3:28:20 at 320.0 MB/s with 16 workers, as measured here just now; validation comes on top",
        "  training   the stage mono reads 1,228,800 tokens, of 1,000,000,000,000 to train on: 0.0% of them",
    ]


def test_a_sample_that_is_all_needs_no_range_and_no_warning(tmp_path: Path) -> None:
    exact = FOUND._replace(
        is_whole=True,
        documents=Interval(3, 3, 3),
        bad=0,
        work_bytes=1,
        train_tokens=1_000_000,
        num_files=1,
    )
    lines = format_estimate(
        "nl", exact, paper_like(), Execution(project=str(tmp_path), workspace=".")
    )
    assert (
        lines[0]
        == "nl: 1 file, 1.0 TB as stored; all of it was read: these are the figures, but for the time"
    )
    assert lines[1] == "  documents  3"
    assert lines[-1].endswith("1,000,000 to train on: each of them 1.2 times")
    assert not [line for line in lines if "unreadable" in line or "free at" in line]
    assert estimate_notes(paper_like(), is_whole=True) == []
    across = paper_like().override(["data.dedup_across_corpora=true"])
    (about_samples, about_others) = estimate_notes(across, is_whole=False)
    assert "beginnings of files" in about_samples
    assert "earlier corpora" in about_others


def test_one_file_that_was_begun_has_no_range(tmp_path: Path) -> None:
    one = FOUND._replace(documents=Interval(3, 3, 3))
    lines = format_estimate(
        "nl", one, paper_like(), Execution(project=str(tmp_path), workspace=".")
    )
    assert lines[1] == "  documents  3 (no range: it takes two files)"


def test_the_command(place: Execution) -> None:
    arguments = (
        "data",
        "estimate",
        "mono",
        "-r",
        "tiny",
        "--sample-mb",
        "1",
        "--exec",
        f"project={place.project}",
    )
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PREFECT_", "MLFLOW_", "CODEGEN_"))
    }
    done = subprocess.run(
        command, env=kept, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    labels = [line.split()[0] for line in done.stdout.splitlines()]
    assert labels[:9] == "mono: documents raw rejected tokens sequences disk time training".split()  # noqa: SIM905


def test_a_command_that_cannot_be_is_three_lines(place: Execution) -> None:
    with pytest.raises(ConfigError) as error:
        list(estimate_corpora(tiny(), place, "Mono", 64))
    assert str(error.value).splitlines() == [
        "there is no corpus 'Mono'",
        "  expected: one of nl, multi, mono",
        "  fix:      choose one of these, or none for all",
    ]
