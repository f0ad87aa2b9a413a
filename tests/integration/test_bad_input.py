"""Bad input stops a flow before expensive work: one clear error, nothing published."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures.projects import FixtureArchives, new_project, pull_fixtures
from prefect.client.orchestration import get_client

from components.core.errors import CodegenError, DataError, FetchError, TrackingError
from components.core.store import Store
from components.data.archives.pins import Pins
from components.data.dvc import dvc_repo
from components.data.raw_corpus import load_raw_artifacts
from components.registry.evidence_store import download_run_file
from flows.prepare import prepare
from flows.settings.execution import Execution
from flows.settings.recipes import tiny
from flows.steps.prepare_corpora import pull_data
from flows.train import train

pytestmark = pytest.mark.slow

Tamper = Callable[[Path], None]


def execution(project: Path, archives: Path) -> Execution:
    return Execution(project=str(project), pins=str(archives / "pins.json"), archives=str(archives))


def published(project: Path) -> list[str]:
    return [artifact.label for artifact in Store(project / "var/store").list_artifacts()]


@pytest.fixture
def pulled(tmp_path: Path, fixture_archives: FixtureArchives) -> Path:
    """A project with pulled corpora that a test may corrupt."""
    project = new_project(tmp_path / "project")
    pull_fixtures(project, fixture_archives)
    return project


def replace_line(change: Callable[[dict[str, str]], object]) -> Tamper:
    """Change the third record of a mono file."""

    def tamper(data: Path) -> None:
        file = next((data / "mono").glob("*.jsonl"))
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        changed = change(json.loads(lines[2]))
        lines[2] = f"{changed if isinstance(changed, str) else json.dumps(changed)}\n"
        file.write_text("".join(lines), encoding="utf-8")

    return tamper


def empty_the_corpus(data: Path) -> None:
    for file in (data / "nl").glob("*.jsonl"):
        file.write_text("")


@pytest.mark.parametrize(
    ("tamper", "pattern"),
    [
        (replace_line(lambda record: json.dumps(record)[:-9]), r"mono/\S+\.jsonl.*3"),
        (
            replace_line(lambda record: {**record, "text": "\x00\x01\x02" + record["text"]}),
            r"mono/\S+\.jsonl.*3",
        ),
        (replace_line(lambda record: {**record, "text": "\x01\x02\x03\x04" * 50}), "control"),
        (replace_line(lambda record: {**record, "language": "Klingon"}), "Klingon"),
        (
            replace_line(lambda record: {key: record[key] for key in record if key != "license"}),
            r"mono/\S+\.jsonl:3",
        ),
        (empty_the_corpus, "nl"),
    ],
    ids=[
        "not JSON",
        "NUL bytes",
        "binary content",
        "unknown language",
        "missing field",
        "empty corpus",
    ],
)
def test_a_corrupt_corpus_stops_the_flow(
    pulled: Path, fixture_archives: FixtureArchives, tamper: Tamper, pattern: str
) -> None:
    pointer = dvc_repo.read_pointer(pulled)
    assert pointer is not None
    tamper(pulled / "data")
    dvc_repo.commit(pulled, pointer.preset, pointer.recipe_hash)
    with pytest.raises(DataError, match=f"(?s){pattern}.*expected: .*fix: "):
        prepare(tiny(), execution(pulled, fixture_archives.folder))
    assert published(pulled) == []


def test_prefect_shows_every_rule_of_a_validation_that_failed(
    pulled: Path, fixture_archives: FixtureArchives
) -> None:
    pointer = dvc_repo.read_pointer(pulled)
    assert pointer is not None
    replace_line(lambda record: {**record, "language": "Klingon"})(pulled / "data")
    dvc_repo.commit(pulled, pointer.preset, pointer.recipe_hash)
    with pytest.raises(DataError, match="Klingon"):
        prepare(tiny().replace(name="shown"), execution(pulled, fixture_archives.folder))
    with get_client(sync_client=True) as prefect:
        latest = prefect.read_latest_artifacts()
    (text,) = (
        str(artifact.data) for artifact in latest if artifact.key == "shown-rules-raw-corpora"
    )
    first_rule = next(line for line in text.splitlines() if line.startswith("| mono "))
    assert "| **no** |" in first_rule
    assert "Klingon" in first_rule
    assert text.count("| yes |") > 10, "passed rules are shown too"
    (data_docs,) = re.findall(r"earlier versions: `(.*)`", text)
    assert "<html" in Path(data_docs).read_text()
    (run_id,) = re.findall(r"\[Same table in MLflow\]\(http://.*/runs/(\w+)\)", text)
    tracking = execution(pulled, fixture_archives.folder).open_tracking()
    rules = download_run_file(tracking, run_id, "rules.json")
    assert rules is not None
    assert "Klingon" in rules.read_text()


def test_edited_data_is_refused_and_a_pull_restores_it(
    pulled: Path, fixture_archives: FixtureArchives
) -> None:
    replace_line(lambda record: {**record, "text": "x = 1\n"})(pulled / "data")
    pointer = dvc_repo.read_pointer(pulled)
    with pytest.raises(DataError, match=r"(?s)mono.*expected: .*fix: "):
        load_raw_artifacts(pulled)
    edited = {path: path.read_bytes() for path in (pulled / "data").rglob("*.jsonl")}
    with pytest.raises(DataError, match=r"(?s)mono.*expected: .*fix: "):
        prepare(tiny(), execution(pulled, fixture_archives.folder))
    assert {path: path.read_bytes() for path in edited} == edited, (
        "the flow must not revert the edit"
    )
    assert published(pulled) == []
    pull_data("tiny", execution(pulled, fixture_archives.folder))
    assert dvc_repo.read_pointer(pulled) == pointer
    load_raw_artifacts(pulled)


def test_a_corrupt_archive_is_named_and_nothing_is_extracted(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    archives = tmp_path / "archives"
    shutil.copytree(fixture_archives.folder, archives)
    archive = (
        archives / Pins.parse(json.loads((archives / "pins.json").read_text())).packages[0].file
    )
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    project = new_project(tmp_path / "project")
    with pytest.raises(FetchError, match=f"(?s){archive.name}.*expected: .*SHA-256.*fix: "):
        prepare(tiny(), execution(project, archives))
    assert published(project) == []
    assert not (project / "data").exists()
    assert not (project / "data.dvc").exists()


def test_an_unreachable_tracking_server_is_reported_first(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    project = new_project(tmp_path / "project")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        unreachable = execution(project, fixture_archives.folder).replace(tracking_uri=uri)
        with pytest.raises(TrackingError, match=f"(?s){uri} does not answer.*expected: .*fix: "):
            prepare(tiny(), unreachable)
    assert not (project / "data").exists()
    assert published(project) == []


def test_a_batch_that_cannot_be_divided_is_refused_before_training(
    pulled: Path, fixture_archives: FixtureArchives
) -> None:
    recipe = tiny().override(["training.stages.nl.global_batch_tokens=256"])
    with pytest.raises(CodegenError, match=r"(?s)expected: .*fix: "):
        train(recipe, execution(pulled, fixture_archives.folder))
    assert not [label for label in published(pulled) if label.startswith("checkpoint")]
