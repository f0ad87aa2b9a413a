"""What the flow shows a user of the data: what is left out, in MLflow; two versions and rules of one's own, in Data Docs.

One project, in which two versions of a corpus that the recipe declares are prepared one after the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fixtures.projects import FixtureArchives, new_project, pull_fixtures
from fixtures.synthetic_code import program
from mlflow import MlflowClient
from mlflow.entities import Run

from components.core.artifact import Artifact
from components.core.errors import ConfigError, RecordError, ValidationFailed
from components.core.store import Store
from components.validation.suite_files import copy_suites
from flows.prepare import prepare
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, tiny

pytestmark = pytest.mark.slow


def plain() -> Recipe:
    """The recipe, without a look for benchmarks: one of them would be fetched."""
    return tiny().override(["data.decontamination.enabled=false"])


class Project(NamedTuple):
    """A project whose mono corpus is declared by the recipe."""

    folder: Path
    execution: Execution

    @property
    def recipe(self) -> Recipe:
        sources = json.dumps({"mono": [{"uri": str(self.folder / "own" / "*.jsonl")}]})
        return plain().override([f"data.sources={sources}", "data.quarantine.max_bad_fraction=0.1"])

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.execution.resolved_tracking_uri)

    def write(self, *lines: bytes) -> None:
        """The corpus's only file: 120 programs, and further lines."""
        (self.folder / "own").mkdir(exist_ok=True)
        good = [record(f"src/{n}.py", program("Python", f"own {n}")) for n in range(120)]
        (self.folder / "own" / "own.jsonl").write_bytes(b"\n".join([*good, *lines]) + b"\n")

    def validation(self, name: str) -> list[Artifact]:
        """Validations so far, the oldest first."""
        return [
            one
            for one in Store(self.folder / "var/store").list_artifacts()
            if (one.kind, one.name) == ("validation", name)
        ]

    def flow_runs(self) -> list[Run]:
        """The runs of the flow in MLflow, the oldest first."""
        experiment = self.client.get_experiment_by_name("codegen-tiny").experiment_id
        found = self.client.search_runs([experiment], order_by=["attributes.start_time ASC"])
        return [run for run in found if "mlflow.parentRunId" not in run.data.tags]

    def page(self, suite: str, number: int) -> str:
        """A page of Data Docs, of the first run that judged it or a later one."""
        pages = sorted((self.folder / "var/gx").glob(f"*/validations/{suite}/**/*.html"))
        return pages[number].read_text(encoding="utf-8")


def record(path: str, text: str, licence: str = "MIT") -> bytes:
    values = {
        "language": "Python",
        "licence": licence,
        "path": path,
        "source": "own 1.0",
        "text": text,
    }
    return json.dumps(values).encode()


DIGITS = [record(f"src/digits{n}.py", f"{n}" + "0123456789\n" * 50) for n in range(20)]
CUT = [b'{"language": "Python", "text": "%d' % n for n in range(6)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives) -> Project:
    """Both versions, prepared: in the first six lines are cut off, in the second twenty documents are digits."""
    folder = new_project(tmp_path_factory.mktemp("quality") / "project")
    pull_fixtures(folder, fixture_archives)
    pins = fixture_archives.folder
    project = Project(
        folder, Execution(project=str(folder), pins=str(pins / "pins.json"), archives=str(pins))
    )
    project.write(DIGITS[0], *CUT)
    prepare(project.recipe, project.execution)
    project.write(*DIGITS, record("src/new.py", program("Python", "new"), licence="GPL-3.0-only"))
    prepare(project.recipe, project.execution)
    return project


def test_mlflow_has_a_sample_of_every_reason_and_the_counts_beside_the_card(
    project: Project,
) -> None:
    first, second = project.flow_runs()
    tables: list[list[dict[str, Any]]] = []
    for run in (first, second):
        assert {one.path for one in project.client.list_artifacts(run.info.run_id)} >= {
            "dataset-card.md",
            "rejects.json",
        }
        assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
            {"path": "rejects.json", "type": "table"}
        ]
        table = project.client.load_table(
            run.info.experiment_id, "rejects.json", run_ids=[run.info.run_id]
        )
        tables.append(table.to_dict("records"))
    reasons = [
        [row["reason"].partition(":")[0] for row in rows if row["corpus"] == "mono"]
        for rows in tables
    ]
    assert reasons == [["digits", *["not JSON"] * 3], ["digits"] * 3]
    assert list(tables[0][0]) == [
        "reason", "corpus", "language", "source", "path", "num_bytes", "sha256", "excerpt"
    ]  # fmt: skip
    (digits,) = (row for row in tables[0] if row["reason"] == "digits")
    assert (digits["path"], digits["num_bytes"], digits["excerpt"][:9]) == (
        "src/digits0.py",
        551,
        "001234567",
    )
    assert {row["corpus"] for row in tables[0]} == {"multi", "mono"}, (
        "the archives hold a copy and a long line"
    )
    assert first.data.metrics["rejected/mono/Python/digits"] == 1
    assert second.data.metrics["rejected/mono/Python/digits"] == 20
    assert first.data.metrics["rejected/multi/C/duplicate"] == 1
    assert first.data.metrics["unreadable/mono/not JSON"] == 6
    assert not [name for name in second.data.metrics if name.startswith("unreadable")]


def test_the_second_version_is_compared_with_the_first_and_says_so(project: Project) -> None:
    first, second = project.validation("raw")
    assert {parent.role: parent.digest for parent in second.parents}["previous"] == first.digest
    warnings = [str(one) for one in second.statistics["warnings"]]  # type: ignore[union-attr]
    assert len(warnings) == 2
    assert "set aside, was 4.7" in warnings[0]
    assert "GPL-3.0-only (1 documents)" in warnings[1]
    page = project.page("raw-drift-mono", 0)
    assert f"Compared with the version of {first.label}, {first.provenance['created_at']}." in page
    before, now = project.validation("prepared")
    assert [str(one)[:46] for one in now.statistics["warnings"]] == [
        "mono: The share of documents that the filters "
    ]  # type: ignore[union-attr]
    assert f"Compared with the version of {before.label}" in project.page("prepared-drift-mono", 0)


def test_the_first_version_links_to_what_was_set_aside(project: Project) -> None:
    assert 'quarantine.html#mono">records that were set aside</a> (6)' in project.page(
        "raw-documents-mono", 0
    )
    assert "quarantine.html" not in project.page("raw-documents-nl", 0)
    assert "quarantine.html" not in project.page("raw-documents-mono", 1)
    (page,) = (project.folder / "var/gx").glob("*/quarantine.html")
    text = page.read_text(encoding="utf-8")
    assert '<h2 id="mono">mono: 6</h2>' in text
    assert text.count("&quot;language&quot;: &quot;Python&quot;, &quot;text&quot;: &quot;") == 6


def test_an_edited_suite_reruns_what_it_is_about_and_nothing_else(project: Project) -> None:
    copy_suites(project.folder / "rules")
    recipe = project.recipe.override(["validation.suites=rules"])
    before = [project.validation(name) for name in ("raw", "prepared")]
    prepare(recipe, project.execution)
    assert [project.validation(name) for name in ("raw", "prepared")] == before, (
        "copies are the same rules"
    )
    path = project.folder / "rules" / "prepared-languages.json"
    suite = json.loads(path.read_text())
    rule = {
        "description": "Every language keeps at least {min_documents_per_split:,} hundred documents",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "num_kept", "min_value": 130},
        "severity": "warning",
    }
    path.write_text(json.dumps({**suite, "expectations": [rule]}))
    made = prepare(recipe, project.execution)
    assert project.validation("raw") == before[0]
    assert made.validations["prepared"] not in before[1]
    assert (
        "mono: Every language keeps at least 1 hundred documents: broken by 1 of 1 languages"
        in str(made.validations["prepared"].statistics["warnings"])
    )
    assert str(path) in project.page("prepared-languages-mono", -1)
    assert {one.role: one.digest for one in made.validations["prepared"].parents}[
        "previous"
    ] == before[1][0].digest


def test_a_broken_suite_stops_the_flow_before_anything_is_made(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    folder = new_project(tmp_path / "project")
    copy_suites(folder / "rules")
    (folder / "rules" / "prepared-drift.json").write_text('{"expectations": [}')
    pins = fixture_archives.folder
    place = Execution(project=str(folder), pins=str(pins / "pins.json"), archives=str(pins))
    with pytest.raises(
        ConfigError, match=r"prepared-drift\.json is no suite: JSONDecodeError: .* line 1 column 19"
    ):
        prepare(tiny().override(["validation.suites=rules"]), place)
    assert not (folder / "data").exists()


def test_too_many_records_that_cannot_be_read_stop_it_before_anything_is_prepared(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    """They are on a page by then, and whoever tolerates them need not have them counted again."""
    folder = new_project(tmp_path / "project")
    pull_fixtures(folder, fixture_archives)
    pins = fixture_archives.folder
    project = Project(
        folder, Execution(project=str(folder), pins=str(pins / "pins.json"), archives=str(pins))
    )
    project.write(*CUT)
    strict = project.recipe.override(["data.quarantine.max_bad_fraction=0.04"])
    with pytest.raises(
        RecordError,
        match=r"(?s)6 of 126 records are bad\n.*own\.jsonl, \d+: not JSON.*at most 4\.000%",
    ):
        prepare(strict, project.execution)
    assert [one.kind for one in Store(folder / "var/store").list_artifacts()] == ["validation"]
    assert list((folder / "var/gx").glob("*/quarantine.html"))
    with pytest.raises(RecordError, match=r"6 of 126 records are bad\n  expected"):
        prepare(strict, project.execution)
    short = project.recipe.override(["data.quarantine.max_record_bytes=100"])
    with pytest.raises(
        ValidationFailed, match="found 0"
    ):  # And not what was found when they were read otherwise.
        prepare(short, project.execution)


def test_a_corpus_of_other_archives_is_no_version_of_this_one(project: Project) -> None:
    made = prepare(plain(), project.execution).validations
    for name in ("raw", "prepared"):
        assert made[name].statistics["num_warnings"] == 0
        assert "previous" not in {parent.role for parent in made[name].parents}
