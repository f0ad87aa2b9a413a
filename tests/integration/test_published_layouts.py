"""Data sets in published layouts: from raw files to packed shards with `--sources`, and the
statistics of each step against a count in plain Python."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from fixtures.prepare_helpers import CONTEXT_LENGTH, ONE_WORKER, SMALL
from fixtures.prepare_reference import is_held_out, reject_reason
from fixtures.public_data_sets import (
    PILE_COMPONENTS,
    WRITERS,
    DataSet,
    RawDocument,
    write_bigquery_contents,
    write_the_stack_v2,
)
from fixtures.tokenizer_folders import ranks, small_folder, small_transformers
from transformers import PreTrainedTokenizerBase

from components.core.corpus_statistics import read_corpus_steps
from components.core.errors import ConfigError, ValidationFailedError
from components.data.sources.layouts import LAYOUTS
from components.preparation.corpus_pipeline import prepare_corpus
from components.validation.prepared import validate_prepared
from components.validation.profile_partitions import ProfileResult, profile_sources
from components.validation.raw import validate_raw
from flows.cli.options import load_recipe
from flows.settings.recipes import Recipe

__all__ = ["ranks", "small_folder", "small_transformers"]

SEED = 11
HELD_OUT = 0.25
OVERRIDES = [f"data.held_out_fraction={HELD_OUT}"]
"""A quarter, since these corpora are small; validation has the limits of the layout."""


class Preparation(NamedTuple):
    """A corpus after all steps of data preparation."""

    data_set: DataSet
    recipe: Recipe
    corpus: str
    profile: ProfileResult
    folder: Path
    statistics: dict[str, Any]


def load(layout: str, uri: Path | str, *overrides: str) -> Recipe:
    return load_recipe("350m", [*OVERRIDES, *overrides], [f"{layout}={uri}"])


def profile(recipe: Recipe, corpus: str, folder: Path) -> ProfileResult:
    return profile_sources(
        corpus,
        recipe.data.corpora[corpus].sources or (),
        recipe.validation,
        recipe.data,
        ONE_WORKER,
        folder / "progress",
    )


def validate(recipe: Recipe, corpus: str, result: ProfileResult, folder: Path) -> None:
    validate_raw(
        folder / "raw-validation",
        config=recipe.validation,
        data=recipe.data,
        gx_root=folder / "gx",
        profiles={corpus: result.profile},
        quarantined={corpus: result.quarantined},
    )


def validate_shards(recipe: Recipe, corpus: str, prepared: Path, folder: Path) -> None:
    validate_prepared(
        folder / "prepared-validation",
        prepared={corpus: prepared},
        config=recipe.validation,
        data=recipe.data,
        gx_root=folder / "gx",
    )


def prepare(layout: str, folder: Path, tokenizer_folder: Path) -> Preparation:
    """Run the steps of `codegen prepare` for a data set, with a small tokenizer and short
    sequences."""
    data_set = WRITERS[layout](folder / "data")
    recipe, corpus = load(layout, data_set.folder), LAYOUTS[layout].corpus
    result = profile(recipe, corpus, folder)
    validate(recipe, corpus, result, folder)
    prepared = folder / "prepared"
    prepared.mkdir()
    statistics = prepare_corpus(
        prepared,
        sources=recipe.data.corpora[corpus].sources or (),
        corpus=corpus,
        data=recipe.data,
        tokenizer_folder=tokenizer_folder,
        tokenizer=SMALL,
        context_length=CONTEXT_LENGTH,
        seed=SEED,
        execution=ONE_WORKER,
    )
    validate_shards(recipe, corpus, prepared, folder)
    return Preparation(data_set, recipe, corpus, result, prepared, statistics)


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, small_folder: Path
) -> Callable[[str], Preparation]:
    """Prepares the data set of a layout at its first use."""
    return cache(lambda layout: prepare(layout, tmp_path_factory.mktemp("layout"), small_folder))


class Counts(NamedTuple):
    """Documents and bytes of the steps, by language and reason; and the kept documents."""

    raw: dict[str, list[int]]
    rejected: dict[tuple[str, str], list[int]]
    kept: list[RawDocument]


def count(documents: list[RawDocument], *, has_filters: bool, exact_dedup: bool) -> Counts:
    """Apply the rules of the paper to documents, one after another."""
    raw: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    rejected: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    kept = []
    seen = set()
    for document in documents:
        num_bytes = len(document.text.encode())
        raw[document.language][0] += 1
        raw[document.language][1] += num_bytes
        reason = reject_reason(document.text) if has_filters or not document.text else None
        if reason is None and exact_dedup and document.text in seen:
            reason = "duplicate"
        seen.add(document.text)
        if reason is None:
            kept.append(document)
        else:
            rejected[document.language, reason][0] += 1
            rejected[document.language, reason][1] += num_bytes
    return Counts(dict(raw), dict(rejected), kept)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_statistics(
    preparation: Preparation,
    counts: Counts,
    prefixes: dict[str, str],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Compare profile, statistics, tables and shards with the count."""
    profiled = {
        name: [language.num_documents, language.size_bytes.total]
        for name, language in preparation.profile.profile.languages.items()
    }
    assert profiled == counts.raw
    num_tokens = {
        document.text: len(tokenizer(prefixes.get(document.language, "") + document.text).input_ids)
        + 1
        for document in counts.kept
    }
    for language, statistics in preparation.statistics["languages"].items():
        kept = [document for document in counts.kept if document.language == language]
        held_out = [item for item in kept if is_held_out(item.text, HELD_OUT, SEED)]
        reasons = {
            reason: values
            for (owner, reason), values in counts.rejected.items()
            if owner == language
        }
        duplicates = reasons.pop("duplicate", [0, 0])
        assert [statistics["raw_documents"], statistics["raw_bytes"]] == counts.raw[language]
        assert statistics["rejected"] == {name: values[0] for name, values in reasons.items()}
        assert statistics["rejected_bytes"] == {name: values[1] for name, values in reasons.items()}
        assert [statistics["duplicates"], statistics["duplicate_bytes"]] == duplicates
        assert statistics["documents"] == len(kept)
        assert statistics["bytes"] == sum(len(item.text.encode()) for item in kept)
        assert statistics["tokens"] == sum(num_tokens[item.text] for item in kept)
        assert statistics["held_out_documents"] == len(held_out)
        steps = next(
            row
            for row in read_corpus_steps(preparation.statistics)
            if (row.source, row.language) == (None, language)
        )
        remaining = list(counts.raw[language])
        assert [steps.step("raw").num_documents, steps.step("raw").num_bytes] == remaining
        for name, lost in (("filtered", list(reasons.values())), ("deduplicated", [duplicates])):
            remaining[0] -= sum(num_documents for num_documents, _ in lost)
            remaining[1] -= sum(num_bytes for _, num_bytes in lost)
            assert [steps.step(name).num_documents, steps.step(name).num_bytes] == remaining
    rows = pq.read_table(preparation.folder / "documents.parquet").to_pylist()
    assert Counter(row["sha256"] for row in rows) == Counter(sha256(d.text) for d in counts.kept)
    by_license: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        by_license[row["license"]][0] += 1
        by_license[row["license"]][1] += row["num_tokens"]
    assert {
        row["license"]: [row["documents"], row["tokens"]]
        for row in preparation.statistics["licenses"]
    } == by_license
    index = json.loads((preparation.folder / "index.json").read_text())
    for name, split in index["splits"].items():
        packed = sum(row["num_tokens"] for row in rows if row["split"] == name)
        assert split["num_sequences"] == packed // CONTEXT_LENGTH
        (shard,) = split["shards"]
        size = (preparation.folder / shard["path"]).stat().st_size
        assert size == 2 * CONTEXT_LENGTH * split["num_sequences"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_data_set_is_prepared_with_its_layout_as_a_plain_count_says(
    layout: str,
    prepared: Callable[[str], Preparation],
    small_transformers: PreTrainedTokenizerBase,
) -> None:
    preparation = prepared(layout)
    rules = preparation.recipe.data.corpora[preparation.corpus]
    documents = preparation.data_set.documents
    is_code = layout != "pile"
    counts = count(documents, has_filters=is_code, exact_dedup=is_code)
    check_statistics(preparation, counts, rules.language_prefix, small_transformers)
    assert preparation.profile.quarantined.num == 0
    assert preparation.statistics["quarantined"] == {}
    assert preparation.statistics["skipped"] == preparation.data_set.num_skipped
    origins = {(*document[1:4], sha256(document.text)) for document in documents}
    for row in pq.read_table(preparation.folder / "documents.parquet").to_pylist():
        assert (row["license"], row["path"], row["source"], row["sha256"]) in origins


def test_the_pile_keeps_its_weights_and_every_unwrapped_document(
    prepared: Callable[[str], Preparation],
) -> None:
    preparation = prepared("pile")
    rows = pq.read_table(preparation.folder / "documents.parquet").to_pylist()
    assert Counter(row["source"] for row in rows) == {
        "DM Mathematics": 1,
        **{name: 15 * epochs for name, epochs in PILE_COMPONENTS.items()},
    }
    assert preparation.statistics["languages"]["English"]["rejected"] == {"empty": 1}
    steps = read_corpus_steps(preparation.statistics)
    assert {row.source: row.step("raw").num_documents for row in steps} == {
        None: len(preparation.data_set.documents),
        "DM Mathematics": 1,
        "Enron Emails": 1,
        **{name: 15 * epochs for name, epochs in PILE_COMPONENTS.items()},
    }
    num_tokens = Counter[str]()
    for row in rows:
        num_tokens[row["source"]] += row["num_tokens"]
    assert {row.source: row.num_tokens for row in steps if row.num_tokens} == {
        None: num_tokens.total(),
        **num_tokens,
    }


def test_contents_as_json_lack_the_fields_that_are_null(tmp_path: Path) -> None:
    data_set = write_bigquery_contents(tmp_path / "data", as_json=True)
    result = profile(load("bigquery-contents", f"{data_set.folder}/*.json.gz"), "multi", tmp_path)
    num_documents = len(data_set.documents)
    assert (result.profile.num_documents, result.quarantined.num) == (num_documents, 0)
    assert result.num_read == num_documents + sum(data_set.num_skipped.values())


@pytest.mark.parametrize("layout", ["pile", "bigquery-contents"])
def test_a_data_set_without_licenses_needs_the_limit_of_its_layout(
    layout: str, prepared: Callable[[str], Preparation], tmp_path: Path
) -> None:
    preparation = prepared(layout)
    corpus = preparation.corpus
    limit = f"validation.corpora.{corpus}.max_without_license_fraction"
    strict = preparation.recipe.override([f"{limit}=0.5"])
    with pytest.raises(ValidationFailedError) as error:
        validate(strict, corpus, preparation.profile, tmp_path)
    assert "1 of 15 rules" in error.value.got
    assert limit in error.value.fix


def test_code_with_minified_files_needs_the_limit_of_its_layout(
    prepared: Callable[[str], Preparation], tmp_path: Path
) -> None:
    preparation = prepared("bigquery")
    limit = "data.corpora.multi.max_dropped_share.filters"
    default = preparation.recipe.override([f"{limit}=0.25"])
    with pytest.raises(ValidationFailedError) as error:
        validate_shards(default, "multi", preparation.folder, tmp_path)
    assert limit in error.value.fix


OTHER_LAYOUTS = [
    (layout, other)
    for layout in LAYOUTS
    for other in LAYOUTS
    if set(LAYOUTS[layout].columns) != set(LAYOUTS[other].columns)
]


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each layout."""
    files = {}
    for name, writer in WRITERS.items():
        folder = writer(tmp_path_factory.mktemp("layouts") / "data").folder
        files[name] = min(path for path in folder.rglob("*") if path.is_file())
    return files


@pytest.mark.parametrize(("layout", "other"), OTHER_LAYOUTS)
def test_a_file_of_another_layout_is_an_error_with_both_columns(
    layout: str, other: str, data_sets: dict[str, Path], tmp_path: Path
) -> None:
    recipe = load(layout, data_sets[other])
    with pytest.raises(ConfigError) as error:
        profile(recipe, LAYOUTS[layout].corpus, tmp_path)
    for column in LAYOUTS[other].columns:
        assert column.partition(".")[0] in error.value.got
    for column in LAYOUTS[layout].columns:
        assert column in error.value.expected
    assert f"--sources {other}=URI" in error.value.fix


def test_the_stack_v2_has_no_contents(tmp_path: Path) -> None:
    write_the_stack_v2(tmp_path / "data")
    recipe = load_recipe("350m", OVERRIDES, [f"the-stack@mono={tmp_path / 'data'}"])
    with pytest.raises(ConfigError) as error:
        profile(recipe, "mono", tmp_path)
    assert "blob_id" in error.value.got
    assert "content" in error.value.expected
    assert "The Stack v2 has no file contents" in error.value.fix
