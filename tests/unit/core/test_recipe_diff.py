"""Which fields `codegen why` names when hashes omit defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from components.core.artifact import Artifact
from components.core.config import Config
from components.core.recipe_diff import differences
from components.core.store import Store


class Filters(Config):
    longest: int = 1000
    share: float = 0.5


class Data(Config):
    preset: str = "starter"
    filters: Filters = Filters()
    names: dict[str, str] = Field(default_factory=lambda: {"c": "C", "go": "Go"})
    sources: dict[str, str] | None = None


def _later() -> type[Config]:
    """Return `Data` of a later version: `Filters` and `Data` have new fields, and `Filters` has
    another default and a raised schema version."""

    class Filters(Config):
        schema_version: ClassVar[int] = 2
        longest: int = 1000
        share: float = 0.25
        new: int = 3

    class Data(Config):
        preset: str = "starter"
        filters: Filters = Filters()
        names: dict[str, str] = Field(default_factory=lambda: {"c": "C", "go": "Go"})
        sources: dict[str, str] | None = None
        also_new: Filters = Filters()

    Data.model_rebuild(_types_namespace={"Filters": Filters})
    return Data


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def make(store: Store, data: Config) -> Artifact:
    def build(_: Path) -> dict[str, int]:
        return {}

    config = {"data": data, "seed": 1}
    return store.get_or_build(
        "tokenizer", "t", config=config, parents={}, code_version=1, build=build
    ).artifact


def compare(store: Store, before: Config, after: Config) -> list[tuple[Any, ...]]:
    return [tuple(item) for item in differences(store, make(store, before), make(store, after))]


def test_a_default_is_shown_by_its_value(store: Store) -> None:
    changed = Data(filters=Filters(longest=500))
    assert compare(store, Data(), changed) == [("config.data.filters.longest", 1000, 500)]
    assert compare(store, changed, Data()) == [("config.data.filters.longest", 500, 1000)]
    assert compare(store, changed, Data(filters=Filters(share=0.1))) == [
        ("config.data.filters.longest", 500, 1000),
        ("config.data.filters.share", 0.5, 0.1),
    ]


def test_a_table_is_compared_entry_by_entry(store: Store) -> None:
    assert compare(store, Data(), Data(names={"c": "C", "go": "golang"})) == [
        ("config.data.names.go", "Go", "golang")
    ]
    assert compare(store, Data(), Data(names={"c": "C", "go": "Go", "py": "Py"})) == [
        ("config.data.names.py", None, "Py")
    ]
    assert compare(store, Data(names={"c": "C"}), Data(names={"c": "c"})) == [
        ("config.data.names.c", "C", "c")
    ]


def test_an_entry_that_only_the_default_has_is_shown_with_its_table(store: Store) -> None:
    assert compare(store, Data(), Data(names={"c": "C"})) == [
        ("config.data.names", {"c": "C", "go": "Go"}, {"c": "C"})
    ]


def test_a_value_that_replaces_none_is_a_difference(store: Store) -> None:
    assert compare(store, Data(), Data(sources={"nl": "x"})) == [
        ("config.data.sources", None, {"nl": "x"})
    ]


def test_a_number_of_another_type_is_a_difference(store: Store) -> None:
    class Loose(Config):
        value: int | float | bool = 1

    assert repr(compare(store, Loose(), Loose(value=1.0))) == "[('config.data.value', 1, 1.0)]"


def test_the_diff_names_a_raised_schema_version_and_no_new_default(store: Store) -> None:
    later = _later()
    assert compare(store, Data(), later()) == [
        ("config.data.$schema_versions.Filters", None, 2),
        ("config.data.filters.share", 0.5, 0.25),
    ]
    assert compare(store, Data(preset="a"), later(preset="b", also_new={"new": 4})) == [
        ("config.data.$schema_versions.Filters", None, 2),
        ("config.data.also_new.new", None, 4),
        ("config.data.filters.share", 0.5, 0.25),
        ("config.data.preset", "a", "b"),
    ]
