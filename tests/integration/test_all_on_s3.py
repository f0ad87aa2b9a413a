"""Sources, store and training corpus on S3: no corpus has to fit on the local disk."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from fixtures.projects import FixtureArchives, new_project, pull_fixtures

from components.core.artifact import Artifact
from components.data.config import PRESET_CORPORA
from components.dataset.config import StreamingCacheConfig
from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.run_file import RunFile
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, tiny
from flows.train import train

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(900)]

TRAINING = TrainingExecution(
    world_size=2, micro_batch=2, precision="fp32", device="cpu", one_per_host=False
)
SEQUENCE_BYTES = 2 * tiny().model.context_length
CACHE = {"cache_bytes": 8 * SEQUENCE_BYTES, "range_bytes": SEQUENCE_BYTES}


def recipe(uri: str) -> Recipe:
    """Return a recipe with sources at a URI, four steps and no decontamination (no download)."""
    base = tiny()
    stages = base.training.stages
    stage = stages["nl"].replace(steps=4, warmup_steps=1, decay_steps=3)
    data = base.data
    for corpus in PRESET_CORPORA:
        data = data.replace_corpus(
            corpus,
            sources=[{"uri": f"{uri}/{corpus}/*.jsonl"}],
            decontamination={"enabled": False},
        )
    return base.replace(data=data, training=base.training.replace(stages={**stages, "nl": stage}))


def test_a_stage_streams_a_corpus_without_a_full_local_copy(
    s3: str, tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    project = new_project(tmp_path / "project")
    pull_fixtures(project, fixture_archives)
    fs, root = fsspec.url_to_fs(s3)
    for corpus in PRESET_CORPORA:
        fs.put(f"{project}/data/{corpus}/", f"{root}/raw/{corpus}/", recursive=True)
    training = TRAINING.replace(
        streaming=StreamingCacheConfig(cache_folder=str(tmp_path / "cache"), **CACHE)
    )
    pins = str(fixture_archives.folder / "pins.json")
    execution = Execution(project=str(project), pins=pins, store=f"{s3}/store", training=training)

    (checkpoint,) = train(recipe(f"{s3}/raw"), execution, last_stage="nl").values()

    assert checkpoint.address.startswith(f"{s3}/store/checkpoint/")
    cached = [
        path.stat().st_size
        for path in (tmp_path / "cache").iterdir()
        if path.is_file() and path.stat().st_size
    ]
    assert max(cached) == SEQUENCE_BYTES, "sequences, not shards"
    assert 0 < sum(cached) <= CACHE["cache_bytes"]
    store = execution.open_store()
    assert {artifact.kind for artifact in store.list_artifacts()} == {
        "checkpoint",
        "prepared-corpus",
        "tokenizer",
        "validation",
    }
    assert weights_with_a_local_corpus(execution, checkpoint, tmp_path / "local") == weights(
        store.fetch_verified(checkpoint)
    )


def weights_with_a_local_corpus(execution: Execution, checkpoint: Artifact, folder: Path) -> bytes:
    """Train the same stage from a local copy of its corpus; return its weights."""
    store = execution.open_store()
    corpus = next(
        artifact
        for artifact in store.list_artifacts()
        if (artifact.kind, artifact.name) == ("prepared-corpus", "nl")
    )
    file = RunFile.read(store.fetch_verified(checkpoint) / "observed" / "run.json")
    assert file.run.data.folder == corpus.address
    local_run = file.run.replace(
        data=file.run.data.replace(folder=str(store.fetch_verified(corpus)))
    )
    folder.mkdir()
    train_stage(folder, local_run, TRAINING, lambda _: None)
    return weights(folder)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
