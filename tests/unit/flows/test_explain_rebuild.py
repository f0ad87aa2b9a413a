"""`codegen why` explains a rebuild down to the setting or the code that a user changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from fixtures.codegen_command import HEAVY, LIGHT, run_codegen

from components.core.artifact import Artifact, Kind
from components.core.config import Config
from components.core.store import Store
from flows.cli.main import INTERNAL_ERROR

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def project_option(tmp_path: Path) -> list[str]:
    return ["--exec", f"project={tmp_path}"]


def build_artifact(
    project: Path,
    kind: Kind,
    seed: int,
    parents: Mapping[str, Artifact],
    *,
    code_version: int = 1,
    text: str = "",
) -> Artifact:
    def build(folder: Path) -> dict[str, int]:
        (folder / "data").write_text(f"{kind} {seed} {text}")
        return {}

    store = Store(project / "var/store")
    config = {"seed": seed, "steps": 3}
    result = store.get_or_build(
        kind, "mono", config=config, parents=parents, code_version=code_version, build=build
    )
    return result.artifact


def output(*arguments: str) -> str:
    """Return the output of `codegen ARGUMENTS`, which must succeed."""
    result = run_codegen(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_changed_input_is_explained_by_the_changes_of_its_recipe(
    tmp_path: Path, project_option: list[str]
) -> None:
    old = build_artifact(tmp_path, "prepared-corpus", 0, {})
    new = build_artifact(tmp_path, "prepared-corpus", 0, {}, code_version=2, text="cleaner")
    before = build_artifact(tmp_path, "checkpoint", 0, {"corpus": old})
    after = build_artifact(tmp_path, "checkpoint", 1, {"corpus": new}, text="other")
    lines = output("why", after.label, *project_option).splitlines()
    assert lines[0] == after.label
    assert before.label in lines[1]
    assert lines[2:] == [
        "  setting seed: 0 -> 1",
        f"  input corpus: {old.label} -> {new.label}",
        "      code version: 1 -> 2",
    ]
    document = json.loads(output("why", after.label, *project_option, "--json"))
    assert (document["artifact"], document["sibling"]) == (after.label, before.label)
    assert document["reasons"][0] == {
        "kind": "setting",
        "name": "seed",
        "before": 0,
        "after": 1,
        "causes": [],
    }
    assert document["reasons"][1]["causes"][0]["kind"] == "code"


def test_inputs_outside_the_store_are_shown_by_their_digests(
    tmp_path: Path, project_option: list[str]
) -> None:
    raw = Artifact(
        kind="raw-corpus",
        name="mono",
        address=str(tmp_path / "data"),
        recipe_hash="0" * 64,
        digest="a" * 64,
    )
    build_artifact(tmp_path, "checkpoint", 0, {"corpus": raw})
    after = build_artifact(
        tmp_path,
        "checkpoint",
        0,
        {"corpus": raw.replace(digest="b" * 64), "initial": raw},
        text="other",
    )
    lines = output("why", after.label, *project_option).splitlines()[2:]
    assert lines == [
        f"  input corpus: {'a' * 64} -> {'b' * 64}",
        f"  input initial: none -> {'a' * 64}",
    ]


def test_an_artifact_without_siblings_has_no_explanation(
    tmp_path: Path, project_option: list[str]
) -> None:
    only = build_artifact(tmp_path, "checkpoint", 0, {})
    assert output("why", only.label, *project_option).startswith(only.label)
    assert json.loads(output("why", only.label, *project_option, "--json"))["sibling"] is None


class Filters(Config):
    longest: int = 1000


def _next_schema_version() -> Config:
    class Filters(Config):
        schema_version: ClassVar[int] = 2
        longest: int = 1000
        new: int = 3

    return Filters(longest=500)


def test_a_default_is_shown_by_its_value_and_a_new_meaning_by_its_schema_version(
    tmp_path: Path, project_option: list[str]
) -> None:
    def build_tokenizer(filters: Config) -> Artifact:
        config, store = {"filters": filters}, Store(tmp_path / "var/store")
        return store.get_or_build(
            "tokenizer", "t", config=config, parents={}, code_version=1, build=lambda _: {}
        ).artifact

    build_tokenizer(Filters())
    assert output(
        "why", build_tokenizer(_next_schema_version()).label, *project_option
    ).splitlines()[2:] == [
        "  setting schema version of Filters: 1 -> 2",
        "  setting filters.longest: 1000 -> 500",
    ]


OLD = "tokenizer/t-0791ece07dbf"


@pytest.mark.parametrize(
    "command",
    [
        ("artifacts",),
        ("why", OLD),
        ("lineage", OLD),
        ("export", "checkpoint/c-000000000000", "out"),
        # Starts a Prefect server first.
        pytest.param(("eval", "checkpoint/c-000000000000"), marks=pytest.mark.process_heavy),
        ("data", "push-prepared", "shared", OLD),
        ("data", "pull-prepared", "var/store", OLD),
    ],
    ids=" ".join,
)
def test_a_store_of_codegen_0_1_is_one_error(
    tmp_path: Path, project_option: list[str], command: tuple[str, ...]
) -> None:
    store = Path(shutil.copytree(GOLDEN / "first_store", tmp_path / "var/store"))
    preload = HEAVY if command[0] == "export" else LIGHT
    process = run_codegen(*command, *project_option, cwd=tmp_path, preload=preload)
    assert process.returncode not in (0, INTERNAL_ERROR)
    assert process.stderr.count(f"the store {store} holds an artifact written by codegen 0.1") == 1
    assert "Traceback" not in process.stderr


def test_artifacts_and_lineage_are_printed_as_json(
    tmp_path: Path, project_option: list[str]
) -> None:
    corpus = build_artifact(tmp_path, "prepared-corpus", 0, {})
    checkpoint = build_artifact(tmp_path, "checkpoint", 0, {"corpus": corpus})
    listed = json.loads(output("artifacts", "--json", *project_option))
    assert {artifact["artifact"] for artifact in listed} == {corpus.label, checkpoint.label}
    assert {artifact["digest"] for artifact in listed} == {corpus.digest, checkpoint.digest}
    checkpoints = json.loads(output("artifacts", "--json", "--kind", "checkpoint", *project_option))
    assert [artifact["artifact"] for artifact in checkpoints] == [checkpoint.label]
    lineage = json.loads(output("lineage", checkpoint.label, "--json", *project_option))
    assert lineage[1]["parents"][0]["role"] == "corpus"
    assert lineage[1]["parents"][0]["digest"] == corpus.digest
