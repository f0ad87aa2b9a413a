"""Epochs before a run: from file sizes, from a sample, of prepared corpora, or assumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.codegen_command import run_codegen
from fixtures.processes import environment_without_settings
from fixtures.projects import FixtureArchives
from fixtures.synthetic_code import program

from components.core.errors import ConfigError, DataError
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, recipe, tiny
from flows.steps.epochs import (
    CorpusTokens,
    Origin,
    describe_tokens,
    find_tokens,
    format_epochs,
    parse_tokens,
    require_few_epochs,
    stage_epochs,
    stages_to_estimate,
    tokens_from_samples,
    tokens_from_sizes,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 Python files as JSON Lines."""
    path = tmp_path_factory.mktemp("own") / "mono.jsonl"
    lines = []
    for number in range(200):
        record = {"text": program("Python", str(number)), "path": f"{number}.py", "license": "MIT"}
        lines.append(json.dumps(record) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def execution(tmp_path: Path, fixture_archives: FixtureArchives) -> Execution:
    """A folder that is not under DVC."""
    settings = Execution(
        project=str(tmp_path),
        pins=str(fixture_archives.folder / "pins.json"),
        archives=str(fixture_archives.folder),
    )
    settings.workspace_path.mkdir()
    return settings


def mono_recipe(uri: Path, *overrides: str) -> Recipe:
    """Mono alone, on own sources, without a preset."""
    return tiny().override(
        [
            "data.preset=null",
            f'data.corpora.mono.sources=[{{"uri": "{uri}"}}]',
            "training.start_stage=mono",
            *overrides,
        ]
    )


def test_a_corpus_without_sources_is_prepared_only_if_a_stage_is_trained_on_it(
    corpus: Path,
) -> None:
    mono = mono_recipe(corpus)
    assert (mono.corpora, mono.preset_corpora) == (("mono",), ())
    mono.require_corpora()
    assert tiny().corpora == tiny().preset_corpora == ("nl", "multi", "mono")
    all_stages = mono.override(["training.start_stage=null"])
    assert all_stages.trained_corpora == ("nl", "multi", "mono")
    assert all_stages.corpora == ("mono",)
    all_stages.require_any_corpus()
    all_stages.require_corpora(["mono"])
    with pytest.raises(ConfigError, match=r"no sources for the corpora nl, multi") as caught:
        all_stages.require_corpora()
    assert "data.corpora.nl.sources" in caught.value.fix


def test_recipes_of_the_paper_name_no_corpus() -> None:
    for name in ("350m", "2b", "6b", "16b"):
        assert recipe(name).data.available == []
        with pytest.raises(ConfigError, match="no sources for the corpora nl, multi, mono"):
            recipe(name).require_corpora()


def test_the_corpora_of_the_paper_are_within_the_limit_of_its_recipes() -> None:
    """16B reads 71.7B tokens of Mono 4.4 times."""
    for name in ("350m", "2b", "6b", "16b"):
        paper = recipe(name)
        tokens = parse_tokens("nl=354.7e9,multi=119.2e9,mono=71.7e9", paper)
        rows = stage_epochs(paper, paper.training.trained, tokens)
        require_few_epochs(paper, rows)
    assert [round(row.epochs, 1) for row in rows] == [2.1, 2.6, 4.4]


@pytest.mark.parametrize("text", ["nl", "nl=", "nl=0", "nl=-1", "nl=nan", "python=1e9", "nl=1e999"])
def test_assumed_tokens_of_another_form_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="--tokens has") as caught:
        parse_tokens(text, recipe("16b"))
    assert "--tokens nl=100e9,multi=100e9,mono=100e9" in caught.value.fix


def test_assumed_tokens_name_corpora() -> None:
    assert parse_tokens("mono=1.5e3, nl=7", tiny()) == {
        "mono": CorpusTokens(1500, 1500, "assumed"),
        "nl": CorpusTokens(7, 7, "assumed"),
    }
    assert parse_tokens("", tiny()) == {}


def test_file_sizes_and_a_sample_agree_within_the_stated_factor(
    corpus: Path, execution: Execution
) -> None:
    """12 steps of 1,024 tokens over the corpus."""
    from_sizes = tokens_from_sizes(mono_recipe(corpus), execution, ["mono"])["mono"]
    assert from_sizes.value == round(corpus.stat().st_size * 0.75 / 3.3)
    assert from_sizes.high == 2 * from_sizes.value
    rows = stage_epochs(tiny(), ["mono"], {"mono": from_sizes})
    epochs = 12 * 1024 / from_sizes.value
    assert (rows[0].epochs, rows[0].min_epochs) == (epochs, epochs / 2)

    def sample(max_epochs: float) -> dict[str, CorpusTokens]:
        limited = mono_recipe(corpus, f"training.max_epochs={max_epochs}")
        return tokens_from_samples(limited, execution, rows)

    sampled = sample(epochs)["mono"]
    assert sampled.origin == "sample"
    assert from_sizes.value / 2 < sampled.value < from_sizes.high
    assert sample(epochs * 5) == {}, "far below the limit"
    assert sample(epochs / 2.1) == {}, "above it in any case"


def test_up_weighted_sources_count_as_often_as_they_occur(
    corpus: Path, execution: Execution
) -> None:
    once = tokens_from_sizes(mono_recipe(corpus), execution, ["mono"])["mono"].value
    sources = json.dumps([{"uri": str(corpus), "epochs": 3.0}])
    thrice = mono_recipe(corpus).override([f"data.corpora.mono.sources={sources}"])
    value = tokens_from_sizes(thrice, execution, ["mono"])["mono"].value
    assert value == pytest.approx(3 * once, abs=3)


def test_empty_corpora_have_no_epochs(tmp_path: Path, execution: Execution) -> None:
    (tmp_path / "empty.jsonl").touch()
    empty = mono_recipe(tmp_path / "empty.jsonl")
    assert tokens_from_sizes(empty, execution, ["mono"]) == {}, "validation reports it"


def test_a_plan_leaves_out_a_preset_that_was_not_pulled(corpus: Path, execution: Execution) -> None:
    mixed = tiny().override([f'data.corpora.mono.sources=[{{"uri": "{corpus}"}}]'])
    assert stages_to_estimate(mixed, execution, {}) == ["mono"]
    assert find_tokens(mixed, execution, ["mono"]).keys() == {"mono"}
    assumed = {"mono": CorpusTokens(1, 1, "assumed")}
    assert stages_to_estimate(mixed, execution, assumed) == []


def test_missing_files_are_an_error_of_a_plan(tmp_path: Path, execution: Execution) -> None:
    absent = mono_recipe(tmp_path / "absent" / "*.jsonl")
    with pytest.raises(DataError, match="holds no file"):
        find_tokens(absent, execution, ["mono"])


def test_the_origin_of_tokens_is_stated() -> None:
    assert describe_tokens(CorpusTokens(5000, 5000, "prepared")) == "5,000 training tokens"
    sizes = describe_tokens(CorpusTokens(5, 10, "file sizes"))
    assert sizes == "5 training tokens (estimated from file sizes)"


@pytest.mark.parametrize("command", ["run", "prepare", "train", "evaluate", "promote", "plan"])
def test_a_recipe_without_corpora_is_refused_in_one_error(tmp_path: Path, command: str) -> None:
    result = run_codegen(
        command,
        "-r",
        "16b",
        "--exec",
        f"project={tmp_path}",
        environment=environment_without_settings(),
    )
    assert result.returncode == 1
    first, *rest = result.stderr[result.stderr.index("✗") :].strip().splitlines()
    assert first == "✗ codegen-16b names no sources for the corpora nl, multi, mono"
    assert [line.split(":")[0].strip() for line in rest] == ["expected", "fix"]
    assert not list(tmp_path.iterdir()), "nothing runs"


def test_a_plan_for_a_small_corpus_is_refused(tmp_path: Path, corpus: Path) -> None:
    sources = json.dumps([{"uri": str(corpus), "fixed_language": "English"}])
    result = run_codegen(
        *("plan", "-r", "16b", "--gpus", "64", "--tokens", "multi=119.2e9,mono=71.7e9"),
        *("--set", f"data.corpora.nl.sources={sources}", "--exec", f"project={tmp_path}"),
        environment=environment_without_settings(),
    )
    assert result.returncode == 1
    assert "stage nl would read the " in result.stderr
    assert "training.max_epochs, 5, times (epochs)" in result.stderr


def test_a_plan_shows_the_epochs_of_each_corpus(tmp_path: Path) -> None:
    result = run_codegen(
        *("plan", "-r", "16b", "--gpus", "64", "--json", "--exec", f"project={tmp_path}"),
        *("--tokens", "nl=354.7e9,multi=119.2e9,mono=71.7e9"),
        environment=environment_without_settings(),
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["epochs"]
    assert [(row["stage"], row["tokens"]["origin"]) for row in rows] == [
        ("nl", "assumed"),
        ("multi", "assumed"),
        ("mono", "assumed"),
    ]
    assert rows[2]["epochs"] == pytest.approx(150_000 * 2_097_152 / 71.7e9)


def test_a_run_prints_its_epochs_in_one_line() -> None:
    def line(origin: Origin) -> str:
        tokens = {name: CorpusTokens(2048, 4096, origin) for name in ("nl", "mono")}
        return format_epochs(stage_epochs(tiny(), ["nl", "mono"], tokens))

    assert line("prepared") == "epochs: nl 6, mono 6"
    assert line("file sizes") == "epochs, estimated from file sizes: nl 6, mono 6"
    assert line("sample") == "epochs, estimated from a sample: nl 6, mono 6"
