"""Corpora of a user's own: without a preset, pinned by DVC, refused if they are too small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from fixtures.projects import FixtureArchives, new_project
from fixtures.synthetic_code import program
from mlflow import MlflowClient

from components.core.errors import ConfigError, DataError
from components.core.store import Store
from flows.prepare import prepare
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, tiny
from flows.train import train

pytestmark = pytest.mark.slow


@pytest.fixture
def execution(tmp_path: Path, fixture_archives: FixtureArchives) -> Execution:
    """A project without data/, a pinned corpus, and only the archive of the vocabulary."""
    project = new_project(tmp_path / "project")
    corpus = project / "corpora" / "python"
    corpus.mkdir(parents=True)
    for part in range(2):
        records = []
        for number in range(80):
            text = program("Python", f"{part} {number}")
            path = f"{part}/{number}.py"
            records.append({"text": text, "path": path, "license": "MIT", "source": "ours"})
        lines = [json.dumps(record) + "\n" for record in records]
        (corpus / f"{part}.jsonl").write_text("".join(lines))
    with Repo(str(project)) as repo:
        repo.add([str(corpus)])
    archives = tmp_path / "archives"
    archives.mkdir()
    pins = fixture_archives.folder / "pins.json"
    shutil.copy(fixture_archives.folder / fixture_archives.pins.vocabulary[0].file, archives)
    return Execution(project=str(project), pins=str(pins), archives=str(archives))


def mono(execution: Execution, *overrides: str) -> Recipe:
    uri = execution.project_path / "corpora" / "python" / "*.jsonl"
    sources = json.dumps([{"uri": str(uri)}])
    return tiny().override(
        [
            "name=own",
            "data.preset=null",
            f"data.corpora.mono.sources={sources}",
            "training.start_stage=mono",
            *overrides,
        ]
    )


def published(execution: Execution) -> list[str]:
    store = Store(execution.workspace_path / "store")
    return [artifact.kind for artifact in store.list_artifacts()]


@pytest.mark.process_heavy
def test_a_pinned_corpus_is_prepared_without_a_preset(execution: Execution) -> None:
    recipe = mono(execution)
    data = prepare(recipe, execution)
    assert list(data.raw) == ["mono", "vocabulary"]
    assert list(data.prepared) == ["mono"]
    assert data.prepared["mono"].statistics["languages"]["Python"]["raw_documents"] == 160
    assert not (execution.project_path / "data").exists()
    lines = (execution.project_path / "corpora/python.dvc").read_text().splitlines()
    md5 = lines[1].removeprefix("- md5: ")
    assert md5.endswith(".dir")
    card = (execution.workspace_path / "dataset-card.md").read_text()
    assert f"`corpora/python.dvc` `{md5}`" in card
    assert "codegen data pull --preset" not in card
    client = MlflowClient(execution.resolved_tracking_uri)
    (experiment,) = client.search_experiments(filter_string="name = 'own'")
    inputs = [
        {tag.key: tag.value for tag in dataset.tags}
        for run in client.search_runs([experiment.experiment_id])
        for dataset in client.get_run(run.info.run_id).inputs.dataset_inputs
        if dataset.dataset.name == "raw-corpus/mono"
    ]
    assert inputs
    assert {tags["dvc_md5"] for tags in inputs} == {md5}

    (execution.project_path / "corpora/python/1.jsonl").write_text("{}\n")
    before = published(execution)
    with pytest.raises(DataError) as caught:
        prepare(recipe, execution)
    assert caught.value.got.endswith("; changed: 1.jsonl")
    assert "corpora/python.dvc" in caught.value.expected
    assert published(execution) == before


def test_a_corpus_that_is_too_small_is_refused_before_it_is_read(execution: Execution) -> None:
    """Its files are no JSON, which validation would report."""
    for file in (execution.project_path / "corpora" / "python").iterdir():
        file.write_text("no JSON\n" * 1000)
    with Repo(str(execution.project_path)) as repo:
        repo.add([str(execution.project_path / "corpora" / "python")])
    recipe = mono(execution, "training.max_epochs=0.01")
    with pytest.raises(ConfigError) as caught:
        train(recipe, execution)
    assert caught.value.got.startswith("stage mono would read the ")
    assert "(estimated from file sizes) of the corpus mono" in caught.value.got
    assert "training.max_epochs" in caught.value.fix
    assert published(execution) == []


def test_a_wrong_vocabulary_of_the_user_is_refused(execution: Execution, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({"a": 0}))
    with pytest.raises(DataError, match="CODEGEN_VOCABULARY"):
        prepare(mono(execution), execution.replace(vocabulary=str(vocabulary)))
    assert published(execution) == []
