"""`--sources`: its expansion into fields of a recipe, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.codegen_command import run_codegen

from components.core.errors import ConfigError
from components.data.sources.config import EXTENSIONS
from components.data.sources.layouts import LAYOUTS
from flows.cli.options import load_recipe
from flows.settings.recipes import Recipe
from flows.settings.source_layouts import with_sources


def test_recipe_show_prints_the_fields_of_a_layout() -> None:
    result = run_codegen("recipe", "show", "350m", "--sources", "pile=/data/pile")
    recipe = json.loads(result.stdout)
    corpus = recipe["data"]["corpora"]["nl"]
    (source,) = corpus["sources"]
    assert (source["uri"], source["title"], source["text"], source["name"]) == (
        "/data/pile/train/*.jsonl.zst",
        "pile",
        "text",
        "meta.pile_set_name",
    )
    assert source["fixed_language"] == "English"
    assert (corpus["exact_dedup"], corpus["filters"]) == (False, None)
    assert recipe["validation"]["corpora"]["nl"]["max_without_license_fraction"] == 1.0
    assert Recipe.parse(recipe) == load_recipe("350m", sources=["pile=/data/pile"])


def test_only_the_corpora_of_the_layouts_change() -> None:
    base = load_recipe("350m")
    recipe = with_sources(base, ["bigquery=/data/github"])
    assert recipe.data.declared_sources.keys() == {"multi"}
    assert recipe.data.corpora["nl"] == base.data.corpora["nl"]
    assert recipe.validation.for_corpus("nl") == base.validation
    multi = recipe.validation.for_corpus("multi")
    assert multi.max_duplicate_path_fraction == 0.01
    assert multi.max_without_license_fraction == 0
    assert with_sources(base, []) == base


def test_the_stack_has_a_folder_for_each_language_of_the_corpus() -> None:
    recipe = with_sources(load_recipe("350m"), ["the-stack=s3://bucket/stack/"])
    sources = recipe.data.declared_sources["multi"]
    folders = ["c", "c++", "go", "java", "javascript", "python"]
    assert [source.uri for source in sources] == [
        f"s3://bucket/stack/data/{folder}/*.parquet" for folder in folders
    ]
    mono = with_sources(load_recipe("350m"), ["the-stack@mono=/data/stack"])
    (source,) = mono.data.declared_sources["mono"]
    assert source.uri == "/data/stack/data/python/*.parquet"


@pytest.mark.parametrize("uri", ["/data/a.json.gz", "/data/*/part-?.parquet"])
def test_a_file_or_a_glob_is_read_as_it_is(uri: str) -> None:
    recipe = with_sources(load_recipe("350m"), [f"bigquery={uri}"])
    assert [source.uri for source in recipe.data.declared_sources["multi"]] == [uri]


def test_several_data_sets_are_read_together_with_the_larger_limits() -> None:
    recipe = with_sources(
        load_recipe("350m"), ["bigquery-contents=/data/contents", "the-stack=/data/stack/*.parquet"]
    )
    titles = [source.title for source in recipe.data.declared_sources["multi"]]
    assert titles == ["bigquery-contents", "the-stack"]
    limits = recipe.validation.for_corpus("multi")
    assert limits.max_undecoded_fraction == 0.01
    assert limits.max_without_license_fraction == 1.0


def test_set_changes_the_fields_of_a_layout() -> None:
    overrides = [
        "data.corpora.nl.exact_dedup=true",
        "validation.corpora.nl.max_binary_fraction=0.5",
        "validation.corpora.mono.max_blank_fraction=1",
    ]
    recipe = load_recipe("350m", overrides, ["pile=/data/pile"])
    assert recipe.data.corpora["nl"].exact_dedup
    assert recipe.validation.for_corpus("nl").max_binary_fraction == 0.5
    assert recipe.validation.for_corpus("nl").max_without_path_fraction == 1.0
    assert recipe.validation.for_corpus("mono").max_blank_fraction == 1.0


@pytest.mark.parametrize(
    ("assignment", "got", "fix"),
    [
        ("pyle=/data", "there is no layout 'pyle'", "did you mean 'pile'?"),
        ("/data/pile", "there is no layout '/data/pile'", "data.corpora.CORPUS.sources"),
        ("pile", "names no location", "--sources pile=/data/pile"),
        ("pile=", "names no location", "--sources pile=/data/pile"),
        ("pile@prose=/data", "no corpus 'prose'", "--sources pile@CORPUS=/data"),
    ],
)
def test_a_wrong_assignment_is_an_error(assignment: str, got: str, fix: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_sources(load_recipe("350m"), [assignment])
    assert got in error.value.got
    assert assignment in error.value.got
    assert fix in error.value.fix


@pytest.mark.parametrize("layout", ["pile", "pil", "pile@unknown"])
def test_a_uri_with_a_secret_is_refused(layout: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_sources(load_recipe("350m"), [f"{layout}=s3://key:secret@bucket/pile"])
    assert "secret@" not in str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rules_and_limits_of_a_layout_are_fields_of_a_recipe(layout: str) -> None:
    recipe = with_sources(load_recipe("350m"), [f"{layout}=/data"])
    entry = LAYOUTS[layout]
    base = load_recipe("350m").data.corpora[entry.corpus]
    assert recipe.data.corpora[entry.corpus].reset("sources") == base.replace(**entry.rules)
    limits = recipe.validation.for_corpus(entry.corpus).limits
    assert {name: limits[name] for name in entry.limits} == entry.limits


@pytest.mark.parametrize(
    ("override", "got", "fix"),
    [
        ('validation.corpora={"prose":{}}', "limits for 'prose'", "validation.corpora.prose"),
        ("validation.corpora.nl.max_large=1", "no limit 'max_large'", "'max_large_fraction'"),
        ("validation.corpora.nl.drift=1", "no limit 'drift'", "these names"),
        ("validation.corpora.nl.max_blank_fraction=2", "validation.corpora.nl: ", "change"),
        ("validation.corpora.nl.min_documents_per_split=0.5", "validation.corpora.nl: ", "change"),
    ],
)
def test_wrong_limits_of_a_corpus_are_errors(override: str, got: str, fix: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe("350m", [override])
    assert got in error.value.got
    assert fix in error.value.fix


PAGE = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")


def test_the_page_lists_every_layout() -> None:
    table = PAGE[PAGE.index("| layout | corpus |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    assert {
        name.strip("` "): (
            corpus.strip("`"),
            files.strip("`"),
            set(columns.strip("`").split("`, `")),
        )
        for name, corpus, files, columns in rows
    } == {
        name: (layout.corpus, layout.files, set(layout.columns)) for name, layout in LAYOUTS.items()
    }


def test_the_documented_query_selects_all_extensions_of_the_languages() -> None:
    (pattern,) = [line for line in PAGE.splitlines() if line.strip().startswith("'[.](")]
    extensions = pattern.strip().removeprefix("'[.](").removesuffix(")$'").split("|")
    assert sorted(f".{extension}" for extension in extensions) == sorted(EXTENSIONS)
