"""Rejected documents in MLflow; drift between versions and edited suites on the pages of a run.

The tests share a project in which two versions of a declared corpus are prepared.
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
from components.core.errors import ConfigError, RecordError, ValidationFailedError
from components.core.store import Store
from components.validation.suite_files import copy_suites
from flows.prepare import prepare
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, tiny

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]


def recipe_without_decontamination() -> Recipe:
    """The tiny recipe; decontamination would download a benchmark."""
    return tiny().override(
        [f"data.corpora.{corpus}.decontamination.enabled=false" for corpus in tiny().corpora]
    )


class Project(NamedTuple):
    """A project whose recipe declares the mono corpus."""

    folder: Path
    execution: Execution

    @property
    def recipe(self) -> Recipe:
        sources = json.dumps([{"uri": str(self.folder / "source" / "*.jsonl")}])
        return recipe_without_decontamination().override(
            [f"data.corpora.mono.sources={sources}", "data.quarantine.max_quarantined_fraction=0.1"]
        )

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.execution.resolved_tracking_uri)

    def write(self, *lines: bytes) -> None:
        """Write the only file of the corpus: 120 programs and the given lines."""
        (self.folder / "source").mkdir(exist_ok=True)
        programs = [record(f"src/{n}.py", program("Python", f"own {n}")) for n in range(120)]
        content = b"\n".join([*programs, *lines]) + b"\n"
        (self.folder / "source" / "package.jsonl").write_bytes(content)

    def validations(self, name: str) -> list[Artifact]:
        """All validations, the oldest first."""
        return [
            artifact
            for artifact in Store(self.folder / "var/store").list_artifacts()
            if (artifact.kind, artifact.name) == ("validation", name)
        ]

    def flow_runs(self) -> list[Run]:
        """The MLflow runs of the flow, the oldest first."""
        experiment = self.client.get_experiment_by_name("codegen-tiny").experiment_id
        runs = self.client.search_runs([experiment], order_by=["attributes.start_time ASC"])
        return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]

    def page(self, suite: str, number: int) -> str:
        """The section of a suite in the page of the validation with this number."""
        runs = sorted((self.folder / "var/gx/runs").glob(f"{suite.partition('-')[0]}-*/index.html"))
        pages = [page.read_text(encoding="utf-8") for page in runs]
        marker = f'<section id="{suite}">'
        sections = [page.partition(marker)[2].partition("</section>")[0] for page in pages]
        return [section for section in sections if section][number]


def record(path: str, text: str, license_name: str = "MIT") -> bytes:
    values = {
        "language": "Python",
        "license": license_name,
        "path": path,
        "source": "package 1.0",
        "text": text,
    }
    return json.dumps(values).encode()


DIGITS = [record(f"src/digits{n}.py", f"{n}" + "0123456789\n" * 50) for n in range(20)]
TRUNCATED = [b'{"language": "Python", "text": "%d' % n for n in range(6)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives) -> Project:
    """Two versions: the first has 6 truncated lines, the second 20 documents of digits."""
    folder = new_project(tmp_path_factory.mktemp("quality") / "project")
    pull_fixtures(folder, fixture_archives)
    pins = fixture_archives.folder
    project = Project(
        folder, Execution(project=str(folder), pins=str(pins / "pins.json"), archives=str(pins))
    )
    project.write(DIGITS[0], *TRUNCATED)
    prepare(project.recipe, project.execution)
    project.write(
        *DIGITS, record("src/new.py", program("Python", "new"), license_name="GPL-3.0-only")
    )
    prepare(project.recipe, project.execution)
    return project


def test_mlflow_has_rejected_documents_of_every_reason_and_their_counts(
    project: Project,
) -> None:
    first, second = project.flow_runs()
    tables: list[list[dict[str, Any]]] = []
    for run in (first, second):
        assert {file.path for file in project.client.list_artifacts(run.info.run_id)} >= {
            "dataset-card.md",
            "rejects.json",
        }
        assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
            {"path": f"{name}.json", "type": "table"}
            for name in ("corpus-steps", "licenses", "rejects")
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
        "the archives contain a duplicate and a long line"
    )
    assert first.data.metrics["rejected/mono/Python/digits"] == 1
    assert second.data.metrics["rejected/mono/Python/digits"] == 20
    assert first.data.metrics["rejected/multi/C/duplicate"] == 1
    assert first.data.metrics["quarantined/mono/not JSON"] == 6
    assert not [name for name in second.data.metrics if name.startswith("quarantined")]
    assert second.data.metrics["steps/mono/Python/raw/documents"] == 141
    assert second.data.metrics["steps/mono/Python/filtered/documents"] == 121
    assert 0 < second.data.metrics["steps/mono/Python/filtered/dropped_share"] < 0.25
    assert second.data.metrics["steps/multi/all/raw/documents"] > 6


def test_a_step_that_rejects_too_much_text_stops_the_flow(project: Project) -> None:
    num_prepared = len(project.validations("prepared"))
    strict = project.recipe.override(["data.corpora.mono.max_dropped_share.filters=0.01"])
    with pytest.raises(ValidationFailedError, match=r"of Python: digits .*src/digits") as error:
        prepare(strict, project.execution)
    assert error.value.got.startswith("prepared corpora: 1 of ")
    assert "data.corpora.mono.max_dropped_share.filters" in error.value.fix
    assert len(project.validations("prepared")) == num_prepared


def test_the_second_version_is_compared_with_the_first(project: Project) -> None:
    first, second = project.validations("raw")
    assert {parent.role: parent.digest for parent in second.parents}["previous"] == first.digest
    warnings = [str(warning) for warning in second.statistics["warnings"]]  # type: ignore[union-attr]
    assert len(warnings) == 2
    assert "quarantined, was 4.7" in warnings[0]
    assert "GPL-3.0-only (1 documents)" in warnings[1]
    page = project.page("raw-drift-mono", 0)
    (note,) = (line for line in page.splitlines() if line.startswith("<p>Compared with "))
    assert first.label in note
    assert str(first.provenance["created_at"]) in note
    previous, current = project.validations("prepared")
    (warning,) = current.statistics["warnings"]  # type: ignore[union-attr, misc]
    assert str(warning).startswith("mono: The share of rejected documents changed")
    assert previous.label in project.page("prepared-drift-mono", 0)


def test_the_first_version_links_to_quarantined_records(project: Project) -> None:
    assert 'quarantine.html#mono">quarantined records</a> (6)' in project.page(
        "raw-documents-mono", 0
    )
    assert "quarantine.html" not in project.page("raw-documents-nl", 0)
    assert "quarantine.html" not in project.page("raw-documents-mono", 1)
    (page,) = (project.folder / "var/gx").glob("runs/*/quarantine.html")
    text = page.read_text(encoding="utf-8")
    assert '<h2 id="mono">mono: 6</h2>' in text
    assert text.count("&#34;language&#34;: &#34;Python&#34;, &#34;text&#34;: &#34;") == 6


def test_an_edited_suite_reruns_only_its_own_validation(project: Project) -> None:
    copy_suites(project.folder / "rules")
    recipe = project.recipe.override(["validation.suites=rules"])
    expected = [project.validations(name) for name in ("raw", "prepared")]
    prepare(recipe, project.execution)
    assert [project.validations(name) for name in ("raw", "prepared")] == expected, (
        "copies have the same rules"
    )
    path = project.folder / "rules" / "prepared-languages.json"
    suite = json.loads(path.read_text())
    rule = {
        "description": "At least 130 documents of every language are kept",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "num_kept", "min_value": 130},
        "severity": "warning",
    }
    path.write_text(json.dumps({**suite, "expectations": [rule]}))
    validation = prepare(recipe, project.execution).validations["prepared"]
    assert project.validations("raw") == expected[0]
    assert validation not in expected[1]
    assert (
        "mono: At least 130 documents of every language are kept: broken by 1 of 1 languages"
        in str(validation.statistics["warnings"])
    )
    assert str(path) in project.page("prepared-languages-mono", -1)
    digests = {parent.role: parent.digest for parent in validation.parents}
    assert digests["previous"] == expected[1][0].digest


def test_an_invalid_suite_stops_the_flow_before_anything_is_built(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    folder = new_project(tmp_path / "project")
    copy_suites(folder / "rules")
    (folder / "rules" / "prepared-drift.json").write_text('{"expectations": [}')
    pins = fixture_archives.folder
    execution = Execution(project=str(folder), pins=str(pins / "pins.json"), archives=str(pins))
    with pytest.raises(
        ConfigError,
        match=r"prepared-drift\.json is not a suite: JSONDecodeError: .* line 1 column 19",
    ):
        prepare(tiny().override(["validation.suites=rules"]), execution)
    assert not (folder / "data").exists()


def test_too_many_bad_records_stop_the_flow_before_preparation(
    tmp_path: Path, fixture_archives: FixtureArchives
) -> None:
    """They are already reported, and are not counted again if the limit is raised."""
    folder = new_project(tmp_path / "project")
    pull_fixtures(folder, fixture_archives)
    pins = fixture_archives.folder
    project = Project(
        folder, Execution(project=str(folder), pins=str(pins / "pins.json"), archives=str(pins))
    )
    project.write(*TRUNCATED)
    strict = project.recipe.override(["data.quarantine.max_quarantined_fraction=0.04"])
    with pytest.raises(
        RecordError,
        match=r"(?s)6 of 126 records are quarantined\n"
        r".*package\.jsonl, \d+: not JSON.*at most 4\.000%",
    ):
        prepare(strict, project.execution)
    assert [artifact.kind for artifact in Store(folder / "var/store").list_artifacts()] == [
        "validation"
    ]
    assert list((folder / "var/gx").glob("runs/*/quarantine.html"))
    with pytest.raises(RecordError, match=r"6 of 126 records are quarantined\n  expected"):
        prepare(strict, project.execution)
    short = project.recipe.override(["data.quarantine.max_record_bytes=100"])
    # Read with another limit, the corpus is profiled again.
    with pytest.raises(RecordError, match=r"no record of mono .* 'too long' \(120\)"):
        prepare(short, project.execution)


def test_a_corpus_of_other_archives_is_not_compared(project: Project) -> None:
    validations = prepare(recipe_without_decontamination(), project.execution).validations
    for name in ("raw", "prepared"):
        assert validations[name].statistics["num_warnings"] == 0
        assert "previous" not in {parent.role for parent in validations[name].parents}
