"""`codegen why`: a rebuild is explained down to what a person changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from components.core.artifact import Artifact, Kind
from components.core.config import Config
from components.core.store import Store
from flows.cli.main import INTERNAL_ERROR

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def place(tmp_path: Path) -> list[str]:
    return ["--exec", f"project={tmp_path}"]


def make(
    project: Path,
    kind: Kind,
    seed: int,
    parents: Mapping[str, Artifact],
    *,
    code_version: int = 1,
    text: str = "",
) -> Artifact:
    def build(folder: Path) -> dict[str, int]:
        (folder / "it").write_text(f"{kind} {seed} {text}")
        return {}

    store = Store(project / "var/store")
    config = {"seed": seed, "steps": 3}
    built = store.get_or_build(
        kind, "mono", config=config, parents=parents, code_version=code_version, build=build
    )
    return built.artifact


def said(*arguments: str) -> str:
    command = [sys.executable, "-m", "flows.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_an_input_that_changed_is_followed_to_its_own_reason(
    tmp_path: Path, place: list[str]
) -> None:
    old = make(tmp_path, "prepared-corpus", 0, {})
    new = make(tmp_path, "prepared-corpus", 0, {}, code_version=2, text="cleaner")
    before = make(tmp_path, "checkpoint", 0, {"corpus": old})
    after = make(tmp_path, "checkpoint", 1, {"corpus": new}, text="other")
    lines = said("why", after.label, *place).splitlines()
    assert lines[0] == after.label
    assert lines[1].startswith(f"was made though there was {before.label} of ")
    assert lines[2:] == [
        "  setting seed: 0 -> 1",
        f"  input corpus: {old.label} -> {new.label}",
        "      the version of its code: 1 -> 2",
    ]
    document = json.loads(said("why", after.label, *place, "--json"))
    assert (document["artifact"], document["sibling"]) == (after.label, before.label)
    assert document["reasons"][0] == {
        "what": "setting",
        "name": "seed",
        "before": 0,
        "after": 1,
        "because": [],
    }
    assert document["reasons"][1]["because"][0]["what"] == "code"


def test_an_input_that_came_or_went_or_that_the_store_has_not(
    tmp_path: Path, place: list[str]
) -> None:
    raw = Artifact(
        kind="raw-corpus",
        name="mono",
        address=str(tmp_path / "data"),
        recipe_hash="0" * 64,
        digest="a" * 64,
    )
    make(tmp_path, "checkpoint", 0, {"corpus": raw})
    after = make(
        tmp_path,
        "checkpoint",
        0,
        {"corpus": raw.replace(digest="b" * 64), "initial": raw},
        text="other",
    )
    lines = said("why", after.label, *place).splitlines()[2:]
    assert lines == [
        f"  input corpus: {'a' * 64} -> {'b' * 64}",
        f"  input initial: none -> {'a' * 64}",
    ]


def test_the_only_one_of_its_name_has_no_reason(tmp_path: Path, place: list[str]) -> None:
    only = make(tmp_path, "checkpoint", 0, {})
    assert (
        said("why", only.label, *place)
        == f"{only.label} is the only one of its kind and name: nothing to compare with.\n"
    )
    assert json.loads(said("why", only.label, *place, "--json"))["sibling"] is None


class Filters(Config):
    longest: int = 1000


def _later_filters() -> Config:
    class Filters(Config):
        schema_version: ClassVar[int] = 2
        longest: int = 1000
        new: int = 3

    return Filters(longest=500)


def test_a_default_is_shown_by_its_value_and_a_new_meaning_by_its_schema_version(
    tmp_path: Path, place: list[str]
) -> None:
    def built(filters: Config) -> Artifact:
        config, store = {"filters": filters}, Store(tmp_path / "var/store")
        return store.get_or_build(
            "tokenizer", "t", config=config, parents={}, code_version=1, build=lambda _: {}
        ).artifact

    built(Filters())
    assert said("why", built(_later_filters()).label, *place).splitlines()[2:] == [
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
        ("eval", "checkpoint/c-000000000000"),
        ("data", "push-prepared", "shared", OLD),
        ("data", "pull-prepared", "var/store", OLD),
    ],
    ids=" ".join,
)
def test_a_store_of_codegen_0_1_is_one_error(
    tmp_path: Path, place: list[str], command: tuple[str, ...]
) -> None:
    store = Path(shutil.copytree(GOLDEN / "first_store", tmp_path / "var/store"))
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *command, *place],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode not in (0, INTERNAL_ERROR)
    assert done.stderr.count(f"the store {store} holds an artifact written by codegen 0.1") == 1
    assert "Traceback" not in done.stderr


def test_what_there_is_as_one_document(tmp_path: Path, place: list[str]) -> None:
    corpus = make(tmp_path, "prepared-corpus", 0, {})
    checkpoint = make(tmp_path, "checkpoint", 0, {"corpus": corpus})
    listed = json.loads(said("artifacts", "--json", *place))
    assert {one["artifact"] for one in listed} == {corpus.label, checkpoint.label}
    assert {one["digest"] for one in listed} == {corpus.digest, checkpoint.digest}
    of_kind = json.loads(said("artifacts", "--json", "--kind", "checkpoint", *place))
    assert [one["artifact"] for one in of_kind] == [checkpoint.label]
    line = json.loads(said("lineage", checkpoint.label, "--json", *place))
    assert line[1]["parents"][0]["role"] == "corpus"
    assert line[1]["parents"][0]["digest"] == corpus.digest
