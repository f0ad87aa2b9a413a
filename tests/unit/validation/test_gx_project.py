"""A user of Great Expectations can open the project of a workspace and run its checkpoints."""

from __future__ import annotations

import json
import os
import signal
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import great_expectations as gx
import pytest
import yaml
from corpus_files_on_disk import SMALL, Prepared, records, write_raw
from great_expectations.data_context import FileDataContext

from components.core.errors import ConfigError, ValidationFailedError
from components.data.config import DataConfig
from components.validation.prepared import validate_prepared
from components.validation.raw import validate_raw
from components.validation.suite_files import PACKAGE_SUITES, copy_suites
from components.validation.suites import read_suites


def validate(folder: Path, *, language: str = "English", suites: str | None = None) -> None:
    """Validate a raw corpus with the project `folder / "gx"`."""
    content = records()
    content[1]["language"] = language
    validate_raw(
        folder / "artifact",
        corpora={"nl": write_raw(folder / "data", content)},
        config=SMALL.replace(suites=suites),
        data=DataConfig(),
        gx_root=folder / "gx",
    )


def open_project(folder: Path) -> FileDataContext:
    return gx.get_context(mode="file", project_root_dir=folder)


def unexpected_rows(result: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    """The broken rules of a checkpoint's result with their rows."""
    return [
        (rule.expectation_config.kwargs["column"], rule.result["unexpected_index_list"])
        for validation in result.run_results.values()
        for rule in validation.results
        if not rule.success
    ]


# -- a user of Great Expectations


def test_a_user_of_great_expectations_runs_a_checkpoint_again(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailedError):
        validate(tmp_path, language="Klingon")
    context = open_project(tmp_path)
    assert sorted(suite.name for suite in context.suites.all()) == [
        "raw-documents-nl",
        "raw-languages-nl",
    ]
    result = context.checkpoints.get("raw-documents").run()
    assert not result.success
    assert unexpected_rows(result) == [
        ("num_unknown_language", [{"language": "(other)", "num_unknown_language": 1}])
    ]
    assert context.checkpoints.get("raw-languages").run().success
    assert len(context.validation_results_store.list_keys()) == 4
    site = tmp_path / "gx" / "uncommitted" / "data_docs" / "local_site"
    assert context.get_docs_sites_urls()[0]["site_url"] == f"file://{site / 'index.html'}"
    assert len(list(site.glob("validations/*/*/*/*.html"))) == 4


def test_the_project_needs_no_code_of_this_package(tmp_path: Path) -> None:
    validate(tmp_path)
    for path in (tmp_path / "gx").rglob("*.*"):
        if path.suffix in (".json", ".yml", ".py"):
            assert "components" not in path.read_text().replace(str(PACKAGE_SUITES), ""), path


def test_suites_and_results_name_the_digest_of_the_suite_file(tmp_path: Path) -> None:
    validate(tmp_path)
    digest = read_suites(SMALL)["raw-documents"].sha256
    suite = open_project(tmp_path).suites.get("raw-documents-nl")
    assert suite.meta["suite_sha256"] == digest
    (path,) = (tmp_path / "gx/uncommitted/validations/raw-documents-nl").rglob("*.json")
    rules = json.loads(path.read_text())["results"]
    assert {rule["expectation_config"]["meta"]["suite_sha256"] for rule in rules} == {digest}


def test_a_run_keeps_the_changes_of_a_user_and_follows_a_moved_workspace(tmp_path: Path) -> None:
    old = tmp_path / "old"
    validate(old)
    open_project(old).data_sources.add_pandas("mine")
    new = old.rename(tmp_path / "new")
    validate(new)
    context = open_project(new)
    assert sorted(context.data_sources.all()) == ["codegen", "mine"]
    assert context.checkpoints.get("raw-documents").run().success


@pytest.mark.parametrize("content", ["{", "[]", "fluent_datasources: 3", "\x00"])
def test_a_damaged_configuration_is_an_error_and_nothing_is_published(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "gx" / "great_expectations.yml"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"great_expectations\.yml cannot be read: ") as error:
        validate(tmp_path)
    assert error.value.fix == f"correct it, or remove {path}; the next run creates it"
    assert path.read_text() == content
    assert not (tmp_path / "gx" / "index.html").exists()


def test_a_suite_that_cannot_be_evaluated_does_not_replace_the_published_suite(
    tmp_path: Path,
) -> None:
    validate(tmp_path)
    copy_suites(tmp_path / "rules")
    rule = {
        "description": "English has documents",
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "language", "min_value": 1},
    }
    (tmp_path / "rules" / "raw-languages.json").write_text(json.dumps({"expectations": [rule]}))
    published = {path: path.read_bytes() for path in (tmp_path / "gx").rglob("*.json")}
    with pytest.raises(ConfigError, match="cannot be evaluated"):
        validate(tmp_path, suites=str(tmp_path / "rules"))
    assert {path: path.read_bytes() for path in (tmp_path / "gx").rglob("*.json")} == published


# -- pages of Great Expectations


class Page(HTMLParser):
    """The tags of a page, and the policies before its first image."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policies: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy" and "img" not in self.tags:
            self.policies.append(values["content"] or "")


def test_pages_load_no_image_from_a_network_even_if_a_user_builds_them(tmp_path: Path) -> None:
    validate(tmp_path)
    open_project(tmp_path).checkpoints.get("raw-documents").run()
    site = tmp_path / "gx" / "uncommitted" / "data_docs" / "local_site"
    pages = list(site.rglob("*.html"))
    assert len(pages) == 6
    assert all(Page(path).policies == ["img-src data:"] for path in pages)


def test_pages_show_the_status_without_a_network(tmp_path: Path) -> None:
    validate(tmp_path)
    for page in (tmp_path / "gx" / "uncommitted").rglob("*.html"):
        assert r'i.fa-check-circle::before { content: "\2714"' in page.read_text(encoding="utf-8")


def test_hostile_names_are_text_in_every_page(tmp_path: Path) -> None:
    folder = Prepared("nl", ("English",)).write(tmp_path / "nl")
    (folder / "<svg onload=alert(1)>.bin").write_bytes(b"\x01\x00")

    def run() -> None:
        validate_prepared(
            tmp_path / "artifact",
            prepared={"nl": folder},
            config=SMALL,
            data=DataConfig(),
            gx_root=tmp_path / "gx",
        )

    with pytest.raises(ValidationFailedError, match=r"such as <svg onload=alert\(1\)>\.bin"):
        run()
    open_project(tmp_path).checkpoints.get("prepared-shards").run()
    pages = list((tmp_path / "gx").rglob("*.html"))
    assert sum("&lt;svg onload" in page.read_text(encoding="utf-8") for page in pages) >= 3
    assert all("svg" not in Page(page).tags for page in pages)


# -- interrupted runs


def validate_in_child(folder: Path, *, last_rename: int) -> int:
    """Validate in a child that is killed before a rename; return its wait status.

    It aborts if it opens a file of the project for writing under its final name.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    num_renames = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_renames
        if event == "os.rename":
            num_renames += 1
            if num_renames == last_rename:
                os.kill(os.getpid(), signal.SIGKILL)
        elif event == "open" and "w" in str(arguments[1]):
            path = Path(os.fsdecode(arguments[0]))
            if path.is_relative_to(folder / "gx") and not path.name.startswith("."):
                os.abort()

    sys.addaudithook(hook)
    try:
        validate(folder)
    finally:
        os._exit(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_run_leaves_no_damaged_file(tmp_path: Path) -> None:
    root = tmp_path / "gx"
    last_rename = 1
    num_kills = 0
    while status := validate_in_child(tmp_path, last_rename=last_rename):
        assert os.WTERMSIG(status) == signal.SIGKILL
        num_kills += 1
        last_rename += 20
        for path in root.rglob("[!.]*.json"):
            json.loads(path.read_text())
        for path in root.glob("*.yml"):
            assert "codegen" in yaml.safe_load(path.read_text())["fluent_datasources"]
        assert not (root / "index.html").exists(), "only complete runs are listed"
    assert num_kills >= 3
    validate(tmp_path)
    index = (root / "index.html").read_text(encoding="utf-8")
    assert all(run.name in index for run in (root / "runs").iterdir())
    assert open_project(tmp_path).checkpoints.get("raw-documents").run().success
