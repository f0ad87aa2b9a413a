"""`codegen data estimate`: estimates, their formatting, side effects and errors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fixtures.codegen_command import run_codegen
from fixtures.projects import FixtureArchives, new_project, pull_fixtures

from components.core.errors import CodegenError, ConfigError, DataError
from components.data.config import PRESET_CORPORA
from components.data.raw_corpus import load_raw_artifacts
from components.preparation.estimate import Estimate, Interval
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, starter, tiny
from flows.steps.estimate_corpus import estimate_corpora, estimate_notes, format_estimate


@pytest.fixture(scope="module")
def execution(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> Execution:
    """A project with pulled data/ and nothing prepared."""
    folder = new_project(tmp_path_factory.mktemp("estimate") / "project")
    pull_fixtures(folder, fixture_archives)
    settings = Execution(project=str(folder), pins=str(fixture_archives.folder / "pins.json"))
    settings.workspace_path.mkdir()
    return settings


def test_every_corpus_is_estimated_without_preparing_it(execution: Execution) -> None:
    estimates = dict(estimate_corpora(tiny(), execution, None, 64))
    assert list(estimates) == list(PRESET_CORPORA)
    raw = load_raw_artifacts(execution.project_path)
    for corpus, estimate in estimates.items():
        assert estimate.is_complete
        assert estimate.num_documents.value == raw[corpus].statistics["num_documents"]
        assert estimate.num_files == raw[corpus].statistics["num_files"]
    assert [artifact.kind for artifact in execution.open_store().list_artifacts()] == ["tokenizer"]
    assert list(execution.workspace_path.glob("estimate-*")) == []


def test_the_estimate_of_one_corpus_reuses_the_tokenizer(execution: Execution) -> None:
    store = execution.open_store()
    dates = [artifact.provenance["created_at"] for artifact in store.list_artifacts()]
    ((corpus, _),) = estimate_corpora(tiny(), execution, "multi", 64)
    assert corpus == "multi"
    dates_after = [artifact.provenance["created_at"] for artifact in store.list_artifacts()]
    assert dates_after[: len(dates)] == dates
    assert len(dates_after) == 1


def test_declared_sources_need_no_preset(execution: Execution, tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"x = {number}\n" * 9, "path": f"{number}.py"}) + "\n"
        for number in range(50)
    ]
    (tmp_path / "mono.jsonl").write_text("".join(lines))
    recipe = tiny().override(
        ["data.preset=starter", f'data.corpora.mono.sources=[{{"uri": "{tmp_path}/mono.jsonl"}}]']
    )
    ((_, estimate),) = estimate_corpora(recipe, execution, "mono", 1)
    assert (estimate.num_documents.value, estimate.num_files) == (50, 1)
    with pytest.raises(DataError, match="data/ holds the preset tiny"):
        list(estimate_corpora(recipe, execution, "nl", 1))


REFUSED_CASES: dict[str, tuple[tuple[str | None, int, list[str]], str]] = {
    "corpus": (("python", 64, []), "there is no corpus 'python'"),
    "nothing": ((None, 0, []), "--sample-mb is 0"),
    "preset": ((None, 64, ["data.preset=starter"]), "data/ holds the preset tiny"),
    "source": (
        ("mono", 64, ['data.corpora.mono.sources=[{"uri": "/nowhere/*.jsonl"}]']),
        "/nowhere/*.jsonl holds no file",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED_CASES))
def test_an_impossible_estimate_is_refused(execution: Execution, case: str) -> None:
    (corpus, sample_mb, sets), got = REFUSED_CASES[case]
    with pytest.raises(CodegenError) as error:
        list(estimate_corpora(tiny().override(sets), execution, corpus, sample_mb))
    assert got in error.value.got
    assert error.value.expected
    assert error.value.fix


def test_without_data_the_error_names_the_pull_command(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        list(
            estimate_corpora(
                tiny(), Execution(project=str(new_project(tmp_path / "project"))), None, 64
            )
        )
    assert "codegen data pull" in error.value.fix


ESTIMATE = Estimate(
    num_files=1200,
    num_sampled_files=64,
    stored_bytes=10**12,
    sample_bytes=64_000_000,
    is_complete=False,
    num_documents=Interval(200_000_000, 190_000_000, 210_000_000),
    raw_bytes=4 * 10**12,
    rejected={"digits": 5_000_000, "duplicate": 1_000_000},
    rejected_bytes={"digits": 10**12, "duplicate": 10**9},
    num_quarantined=2_000_000,
    num_tokens=Interval(1_030_000_000_000, 9 * 10**11, 11 * 10**11),
    num_train_tokens=10**12,
    num_train_sequences=488_281_250,
    num_held_out_sequences=14_648_437,
    shard_bytes=2 * 10**12,
    work_bytes=10**16,
    bytes_per_s=320e6,
    num_workers=16,
    duration_s=12_500.0,
)


def long_context_recipe() -> Recipe:
    return starter().override(
        ["model.context_length=2048", "evaluation.humaneval.max_new_tokens=64"]
    )


def test_an_estimate_is_formatted_for_users(tmp_path: Path) -> None:
    """By hand: 6 of 200 million documents are 3 %, 2 of 202 records 0.99 %; 600 steps of 2,048."""
    recipe, execution = long_context_recipe(), Execution(project=str(tmp_path), workspace=".")
    first, *lines = format_estimate("mono", ESTIMATE, recipe, execution)
    assert (
        first
        == "mono: 1,200 files, 1.0 TB stored; read 64.0 MB of text from the beginning of 64 files"
    )
    disk = lines.pop(6)
    assert disk.startswith("  disk       2.0 TB of shards, peak 10.0 PB; only ")
    assert disk.endswith(f" are free at {tmp_path}")
    assert lines == [
        "  documents  200,000,000 (190,000,000 to 210,000,000)",
        "  raw text   4.0 TB",
        "  rejected   3.00% of the documents: digits 2.50%, duplicate 0.50%",
        "  quarantined 2,000,000 records, 0.99%; preparation stops above 0.10%",
        "  tokens     1,030,000,000,000 (900,000,000,000 to 1,100,000,000,000)",
        "  sequences  488,281,250 of 2,048 tokens for training, 14,648,437 held out",
        "  time       3:28:20 at 320.0 MB/s with 16 workers, as measured now, plus validation",
        "  training   the stage mono reads 1,228,800 of 1,000,000,000,000 training tokens: "
        "0.0% of them",
    ]


def test_an_estimate_warns_of_a_step_that_rejects_too_much_text(tmp_path: Path) -> None:
    execution = Execution(project=str(tmp_path), workspace=".")

    def warnings(*limits: str, **rejected_bytes: int) -> list[str]:
        recipe = long_context_recipe().override(
            [f"data.corpora.nl.max_dropped_share.{limit}" for limit in limits]
        )
        names = {name.replace("_", " "): size * 10**10 for name, size in rejected_bytes.items()}
        estimate = ESTIMATE._replace(rejected_bytes=names)
        lines = format_estimate("nl", estimate, recipe, execution)
        return [line for line in lines if "lost text" in line]

    # Of 400: 100 by filters are 25 %, the limit; of the remaining 300, 60 are duplicates, 20 %.
    sizes = {"digits": 20, "line_length": 80, "duplicate": 60, "not_sampled": 0}
    assert warnings(**sizes) == []
    assert warnings("filters=0.24", "exact_dedup=0.19", **sizes) == [
        "  lost text  25.0% by data.corpora.nl.filters (line length 20.0%, digits 5.0%); "
        "validation stops above 24.0% (data.corpora.nl.max_dropped_share.filters)",
        "  lost text  20.0% by data.corpora.nl.exact_dedup (duplicate 20.0%); "
        "validation stops above 19.0% (data.corpora.nl.max_dropped_share.exact_dedup)",
    ]


def test_a_complete_sample_has_no_range_and_no_note(tmp_path: Path) -> None:
    exact = ESTIMATE._replace(
        is_complete=True,
        num_documents=Interval(3, 3, 3),
        num_quarantined=0,
        work_bytes=1,
        num_train_tokens=1_000_000,
        num_files=1,
    )
    lines = format_estimate(
        "nl", exact, long_context_recipe(), Execution(project=str(tmp_path), workspace=".")
    )
    assert (
        lines[0] == "nl: 1 file, 1.0 TB stored; all of it was read, so only the time is an estimate"
    )
    assert lines[1] == "  documents  3"
    assert lines[-1].endswith("1,000,000 training tokens: 1.2 epochs")
    assert not [line for line in lines if "quarantined" in line or "free at" in line]
    assert estimate_notes(long_context_recipe(), is_whole=True) == []
    across = long_context_recipe().override(["data.dedup_across_corpora=true"])
    (sample_note, cross_corpus_note) = estimate_notes(across, is_whole=False)
    assert "beginning of files" in sample_note
    assert "earlier corpora" in cross_corpus_note


def test_a_sample_of_one_file_has_no_range(tmp_path: Path) -> None:
    estimate = ESTIMATE._replace(num_documents=Interval(3, 3, 3))
    lines = format_estimate(
        "nl", estimate, long_context_recipe(), Execution(project=str(tmp_path), workspace=".")
    )
    assert lines[1] == "  documents  3 (no range: it needs two files)"


def test_the_command_prints_the_lines_of_an_estimate(execution: Execution) -> None:
    arguments = (
        "data",
        "estimate",
        "mono",
        "-r",
        "tiny",
        "--sample-mb",
        "1",
        "--exec",
        f"project={execution.project}",
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PREFECT_", "MLFLOW_", "CODEGEN_"))
    }
    process = run_codegen(*arguments, environment=environment)
    assert process.returncode == 0, process.stderr
    labels = [line.split()[0] for line in process.stdout.splitlines()]
    assert labels[:9] == "mono: documents raw rejected tokens sequences disk time training".split()  # noqa: SIM905


def test_an_unknown_corpus_is_an_error_of_three_lines(execution: Execution) -> None:
    with pytest.raises(ConfigError) as error:
        list(estimate_corpora(tiny(), execution, "Mono", 64))
    assert str(error.value).splitlines() == [
        "there is no corpus 'Mono'",
        "  expected: one of nl, multi, mono",
        "  fix:      choose one of these, or omit it for all corpora",
    ]
