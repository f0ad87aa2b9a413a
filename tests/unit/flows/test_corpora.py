"""Specs of corpora, sharing between machines by recipe or label, dataset card and rejects."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fixtures.projects import FixtureArchives, new_project, pull_fixtures

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, DataError, RemoteError
from components.core.store import Store
from components.data.config import PRESET_CORPORA
from components.data.raw_corpus import corpus_sources
from components.dataset.config import StreamingCacheConfig
from components.preparation.corpus_pipeline import prepare_corpus
from components.tokenizer.vocabulary import build_tokenizer
from components.training.config import TrainingExecution
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe, tiny
from flows.steps.corpora import (
    RecipeCorpora,
    corpus_uri,
    find_corpora,
    load_benchmark_texts,
    load_raw_corpora,
    prepared_corpus_spec,
    pull_prepared,
    push_prepared,
    ranks_file,
    tokenizer_spec,
)
from flows.steps.corpus_tables import (
    license_table,
    reject_counts,
    sample_rejects,
    step_metrics,
    step_table,
)
from flows.steps.epochs import CorpusTokens, find_tokens
from flows.steps.prepare_corpora import dataset_card


def must_not_build(_: Path) -> dict[str, int]:
    raise AssertionError("built although it was pulled")


def prepare(
    execution: Execution, recipe: Recipe | None = None, corpora: Sequence[str] = PRESET_CORPORA
) -> RecipeCorpora:
    """Return corpora as the flow `prepare` builds them, without Prefect and MLflow."""
    recipe = recipe or tiny()
    store, raw = execution.open_store(), load_raw_corpora(recipe, execution)
    tokenizer = store.get_or_build(
        **tokenizer_spec(recipe, raw["vocabulary"])._asdict(),
        build=lambda folder: build_tokenizer(
            ranks_file(raw["vocabulary"]), recipe.tokenizer, folder
        ),
    ).artifact
    benchmark_texts = load_benchmark_texts(recipe, execution)
    prepared: dict[str, Artifact] = {}
    for corpus in corpora:
        prepared[corpus] = store.get_or_build(
            **prepared_corpus_spec(recipe, corpus, raw[corpus], tokenizer, prepared)._asdict(),
            build=lambda folder, corpus=corpus: prepare_corpus(
                folder,
                sources=corpus_sources(recipe.data, corpus, execution.project_path),
                corpus=corpus,
                data=recipe.data,
                tokenizer_folder=store.fetch_verified(tokenizer),
                tokenizer=recipe.tokenizer,
                context_length=recipe.model.context_length,
                seed=recipe.seed,
                benchmarks=benchmark_texts,
            ),
        ).artifact
    return RecipeCorpora(raw, tokenizer, prepared)


@pytest.fixture(scope="module")
def prepared_project(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> tuple[Execution, RecipeCorpora]:
    """A project with the prepared corpora of `tiny`. Tests must not change it."""
    folder = new_project(tmp_path_factory.mktemp("prepared") / "project")
    pull_fixtures(folder, fixture_archives)
    execution = Execution(project=str(folder), pins=str(fixture_archives.folder / "pins.json"))
    return execution, prepare(execution)


def test_a_plan_knows_the_exact_tokens_of_prepared_corpora(
    prepared_project: tuple[Execution, RecipeCorpora],
) -> None:
    execution, corpora = prepared_project
    tokens = find_tokens(tiny(), execution, list(tiny().training.trained))
    for name, artifact in corpora.prepared.items():
        splits = artifact.statistics["splits"]
        num_tokens = 256 * splits["train"]["num_sequences"]  # type: ignore[call-overload,index]
        assert tokens[name] == CorpusTokens(num_tokens, num_tokens, "prepared")
    other = find_tokens(tiny().override(["seed=1"]), execution, ["nl"])
    assert other["nl"].origin == "file sizes", "another recipe has other corpora"


@pytest.fixture
def other_machine(tmp_path: Path, prepared_project: tuple[Execution, RecipeCorpora]) -> Execution:
    """Another machine with the same data/ and an empty store."""
    folder = new_project(tmp_path / "other-machine")
    for name in ("data", "data.dvc"):
        source = prepared_project[0].project_path / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return prepared_project[0].replace(project=str(folder))


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shared") if request.param == "folder" else request.getfixturevalue("s3")


def test_only_settings_that_change_the_bytes_of_a_corpus_change_its_recipe_hash() -> None:
    """Other changes must not cause a rebuild of terabytes."""
    raw, tokenizer = (
        Artifact(kind=kind, name="any", address="/x", recipe_hash="0" * 64, digest="1" * 64)
        for kind in ("raw-corpus", "tokenizer")
    )

    def mono(*changes: str) -> str:
        return prepared_corpus_spec(
            tiny().override(list(changes)), "mono", raw, tokenizer, {}
        ).recipe_hash

    def sources(**uris: str) -> list[str]:
        return [
            f"data.corpora.{name}.sources={json.dumps([{'uri': uri}])}"
            for name, uri in uris.items()
        ]

    assert mono("data.quarantine.max_quarantined_fraction=0.5") == mono(), (
        "it decides whether a corpus is accepted, not its bytes"
    )
    assert mono(*sources(nl="pile/*.zst")) == mono(), "the sources of another corpus"
    assert (
        mono(*sources(nl="a", mono="b"))
        == mono(*sources(nl="c", mono="b"))
        != mono(*sources(mono="a"))
        != mono()
    )
    assert mono("data.corpora.mono.max_dropped_share.filters=0.5") == mono(), "as above"
    assert mono("data.quarantine.max_record_bytes=1000") != mono()
    assert mono("data.corpora.mono.filters.max_line_length=7") != mono()
    assert mono("data.corpora.multi.filters.max_line_length=7") == mono(), "of another corpus"

    def benchmark(digit: str, **fields: bool) -> str:
        return json.dumps({"sha256": digit * 64, **fields})

    searched = mono(f"benchmarks.mine={benchmark('1')}")
    other_digest = mono(f"benchmarks.mine={benchmark('2')}")
    other_name = mono(f"benchmarks.own={benchmark('1')}")
    assert len({mono(), searched, other_digest, other_name}) == 4
    assert mono(f"benchmarks.mine={benchmark('1', evaluate=False)}") == searched
    assert mono(f"benchmarks.mine={benchmark('1', search=False)}") == mono()
    disabled = "data.corpora.mono.decontamination.enabled=false"
    assert mono(f"benchmarks.mine={benchmark('1')}", disabled) == mono(disabled)
    assert mono("benchmarks.mtpb.evaluate=false") == mono(), "it is not searched for"


def test_a_corpus_is_streamed_only_from_a_remote_store_and_with_a_cache(
    tmp_path: Path,
) -> None:
    def build(folder: Path) -> dict[str, int]:
        (folder / "index.json").write_text("{}")
        return {}

    def build_corpus(store: Store) -> Artifact:
        return store.get_or_build(
            "prepared-corpus", "nl", config={}, parents={}, code_version=1, build=build
        ).artifact

    local = Store(tmp_path / "local")
    remote = Store(f"memory://{tmp_path.name}", scratch=tmp_path / "scratch")
    fetching = TrainingExecution()
    streaming = fetching.replace(
        streaming=StreamingCacheConfig(cache_folder=str(tmp_path / "cache"), cache_bytes=1)
    )
    assert [
        corpus_uri(local, build_corpus(local), training) for training in (fetching, streaming)
    ] == [build_corpus(local).address] * 2
    assert corpus_uri(remote, build_corpus(remote), streaming) == build_corpus(remote).address
    assert not (tmp_path / "scratch" / ".cache").exists(), "nothing was fetched"
    assert (
        Path(corpus_uri(remote, build_corpus(remote), fetching)) / "index.json"
    ).read_text() == "{}"


def test_corpora_pushed_by_recipe_are_pulled_by_recipe_and_reused(
    prepared_project: tuple[Execution, RecipeCorpora], other_machine: Execution, root: str
) -> None:
    pushed = push_prepared(tiny(), prepared_project[0], root)
    assert {result.artifact.label for result in pushed} == {
        prepared_project[1].tokenizer.label,
        *(corpus.label for corpus in prepared_project[1].prepared.values()),
    }
    assert all(result.was_there for result in push_prepared(tiny(), prepared_project[0], root))

    results = pull_prepared(tiny(), other_machine, root)
    assert len({result.artifact.label for result in results}) == 4
    store = other_machine.open_store()
    corpora = find_corpora(tiny(), other_machine, store)
    for corpus in PRESET_CORPORA:
        spec = prepared_corpus_spec(tiny(), corpus, corpora.raw[corpus], corpora.tokenizer, {})
        assert store.get_or_build(**spec._asdict(), build=must_not_build).reused
        assert corpora.prepared[corpus].digest == prepared_project[1].prepared[corpus].digest
        store.fetch_verified(corpora.prepared[corpus])
    assert dataset_card(tiny(), other_machine, corpora) == dataset_card(
        tiny(), prepared_project[0], prepared_project[1]
    )


def test_a_corpus_is_pulled_by_label_without_data(
    prepared_project: tuple[Execution, RecipeCorpora], tmp_path: Path
) -> None:
    root, mono = str(tmp_path / "shared"), prepared_project[1].prepared["mono"]
    push_prepared(tiny(), prepared_project[0], root, [mono.label])
    empty = Execution(project=str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"or use labels: `codegen data pull-prepared ROOT LABEL"):
        pull_prepared(tiny(), empty, root)
    assert [
        result.artifact.label for result in pull_prepared(tiny(), empty, root, [mono.label])
    ] == [
        prepared_project[1].tokenizer.label,
        mono.label,
    ]


def test_an_artifact_that_the_root_lacks_is_named(
    prepared_project: tuple[Execution, RecipeCorpora], other_machine: Execution, tmp_path: Path
) -> None:
    with pytest.raises(
        ArtifactError, match=rf"{prepared_project[1].tokenizer.label} is not in {tmp_path}/shared"
    ):
        pull_prepared(tiny(), other_machine, str(tmp_path / "shared"))
    with pytest.raises(
        ArtifactError, match=r"no artifact is published at .*/shared/prepared-corpus/nl-0"
    ):
        pull_prepared(tiny(), other_machine, str(tmp_path / "shared"), ["prepared-corpus/nl-0"])
    with pytest.raises(ArtifactError, match="is not a prepared corpus"):
        push_prepared(
            tiny(),
            prepared_project[0],
            str(tmp_path / "shared"),
            [prepared_project[1].tokenizer.label],
        )
    assert list(Store(tmp_path / "shared").list_artifacts()) == []


def test_another_recipe_needs_another_corpus(
    prepared_project: tuple[Execution, RecipeCorpora], tmp_path: Path
) -> None:
    recipe = tiny().override(["seed=1"])
    with pytest.raises(ArtifactError, match=r"prepared-corpus/nl-\w+ is not in"):
        push_prepared(recipe, prepared_project[0], str(tmp_path / "shared"))
    starter = tiny().override(["data.preset=starter"])
    with pytest.raises(DataError, match="data/ holds the preset tiny"):
        push_prepared(starter, prepared_project[0], str(tmp_path / "shared"))


def test_the_text_after_each_step_is_in_metrics_and_tables(
    prepared_project: tuple[Execution, RecipeCorpora],
) -> None:
    execution, corpora = prepared_project
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in (execution.project_path / "data").glob("*/*.jsonl"):
        records = [json.loads(text) for text in line.read_text(encoding="utf-8").splitlines()]
        rows.setdefault(line.parent.name, []).extend(records)
    metrics: Any = step_metrics(corpora.prepared)
    table = step_table(corpora.prepared)
    for corpus, records in rows.items():
        for language in {record["language"] for record in records}:
            texts = [record["text"] for record in records if record["language"] == language]
            raw = metrics[corpus][language]["raw"]
            assert raw["documents"] == len(texts)
            assert raw["bytes"] == sum(len(text.encode()) for text in texts)
            (row,) = (
                row
                for row in table
                if (row["corpus"], row["language"], row["step"]) == (corpus, language, "raw")
            )
            assert (row["source"], row["rule"], row["documents"]) == ("all", "", len(texts))
            assert row["tokens"] == raw.get("tokens")
    # The archives hold one document twice and one that is too wide (tests/fixtures/archives.py).
    c_rows = [row for row in table if (row["corpus"], row["language"]) == ("multi", "C")]
    num_raw = metrics["multi"]["C"]["raw"]["documents"]
    assert [(row["step"], row["rule"], row["documents"]) for row in c_rows] == [
        ("raw", "", num_raw),
        ("filtered", "", num_raw - 1),
        ("filtered", "mean line length", 1),
        ("decontaminated", "", num_raw - 1),
        ("sampled", "", num_raw - 1),
        ("deduplicated", "", num_raw - 2),
        ("deduplicated", "duplicate", 1),
        ("near-deduplicated", "", num_raw - 2),
        ("training split", "", c_rows[-1]["documents"]),
    ]
    raw, filtered = metrics["multi"]["C"]["raw"], metrics["multi"]["C"]["filtered"]
    share = (raw["bytes"] - filtered["bytes"]) / raw["bytes"]
    assert filtered["dropped_share"] == share > 0
    assert "tokens" not in raw, "the wide document was not tokenized"
    assert filtered["tokens"] > 0
    statistics: Any = corpora.prepared["multi"].statistics
    licenses = [row for row in license_table(corpora.prepared) if row["corpus"] == "multi"]
    assert [row["tokens"] for row in licenses] == [row["tokens"] for row in statistics["licenses"]]


def test_rejects_are_sampled_from_the_shared_root(
    prepared_project: tuple[Execution, RecipeCorpora], other_machine: Execution, root: str
) -> None:
    execution, corpora = prepared_project
    push_prepared(tiny(), execution, root)
    shared = Store(root, scratch=other_machine.workspace_path / "scratch")
    prepared = {
        name: shared.load(f"{shared.root}/{corpus.label}")
        for name, corpus in corpora.prepared.items()
    }
    rows = sample_rejects(prepared, shared)
    assert rows == sample_rejects(corpora.prepared, execution.open_store())
    # The archives hold one document twice and one that is too wide (tests/fixtures/archives.py).
    assert [(row["corpus"], row["reason"], row["language"]) for row in rows] == [
        ("multi", "duplicate", "C"), ("multi", "mean line length", "C")
    ]  # fmt: skip
    assert reject_counts(prepared)["rejected"]["multi"]["C"] == {
        "duplicate": 1,
        "mean line length": 1,
    }  # type: ignore[index, call-overload]
    assert reject_counts(prepared)["redacted"] == {"nl": {}, "multi": {}, "mono": {}}
    assert not (other_machine.workspace_path / "scratch").exists(), "nothing else is fetched"
    shared.fs.pipe_file(f"{prepared['multi'].address}/rejects.parquet", b"PAR1 damaged")
    with pytest.raises(RemoteError, match="reading rejected documents"):
        sample_rejects(prepared, shared)


def test_a_corpus_depends_on_the_mtpb_file_only_if_the_recipe_searches_for_mtpb(
    other_machine: Execution, tmp_path: Path
) -> None:
    """A document of the corpus contains the first problem of MTPB."""
    mtpb = os.environ.get("CODEGEN_MTPB")
    if not mtpb:
        pytest.skip("MTPB's file is missing: set CODEGEN_MTPB")
    texts = {
        name: "\n".join(f"{name}_{line} = {line}" for line in range(90)) for name in "abcdefgh"
    }
    problem = json.loads(Path(mtpb).read_text().splitlines()[0])
    texts["leak"] = "\n".join([*problem["prompts"], texts["a"][::-1]])
    rows = [
        {"text": text, "path": f"{name}.py", "language": "Python", "source": "mine 1.0"}
        for name, text in texts.items()
    ]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    sources = json.dumps([{"uri": str(tmp_path / "mine.jsonl")}])
    recipe = tiny().override([f"data.corpora.mono.sources={sources}"])
    searching = recipe.override(["benchmarks.mtpb.optional=false", "benchmarks.mtpb.search=true"])
    with_file = other_machine.replace(benchmark_files={"mtpb": mtpb})

    def mono(execution: Execution, recipe: Recipe) -> Artifact:
        store = str(tmp_path / f"store-{len(list(tmp_path.iterdir()))}")
        return prepare(execution.replace(store=store), recipe, ["mono"]).prepared["mono"]

    without, ignored, searched = (
        mono(other_machine, recipe),
        mono(with_file, recipe),
        mono(with_file, searching),
    )
    assert (ignored.label, ignored.digest) == (without.label, without.digest)
    assert ignored.statistics["contaminated"] == {"humaneval": 0}
    assert searched.statistics["contaminated"] == {"humaneval": 0, "mtpb": 1}
    assert searched.label != without.label
    assert searched.digest != without.digest
