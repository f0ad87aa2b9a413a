"""Specs of corpora, sharing between machines by recipe or label, dataset card and rejects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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
from flows.settings.recipes import tiny
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
from flows.steps.epochs import CorpusTokens, find_tokens
from flows.steps.prepare_corpora import dataset_card, reject_counts, sample_rejects


def must_not_build(_: Path) -> dict[str, int]:
    raise AssertionError("built although it was pulled")


def prepare(execution: Execution) -> RecipeCorpora:
    """Return the corpora as the flow `prepare` builds them, without Prefect and MLflow."""
    recipe, store = tiny(), execution.open_store()
    raw = load_raw_corpora(recipe, execution)
    tokenizer = store.get_or_build(
        **tokenizer_spec(recipe, raw["vocabulary"])._asdict(),
        build=lambda folder: build_tokenizer(
            ranks_file(raw["vocabulary"]), recipe.tokenizer, folder
        ),
    ).artifact
    benchmark_texts = load_benchmark_texts(recipe, execution).texts
    prepared: dict[str, Artifact] = {}
    for corpus in PRESET_CORPORA:
        prepared[corpus] = store.get_or_build(
            **prepared_corpus_spec(
                recipe, corpus, raw[corpus], tokenizer, benchmark_texts, prepared
            )._asdict(),
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
            tiny().override(list(changes)), "mono", raw, tokenizer, [], {}
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
    assert mono("data.quarantine.max_record_bytes=1000") != mono()
    assert mono("data.corpora.mono.filters.max_line_length=7") != mono()
    assert mono("data.corpora.multi.filters.max_line_length=7") == mono(), "of another corpus"


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
    benchmark_texts = load_benchmark_texts(tiny(), other_machine).texts
    for corpus in PRESET_CORPORA:
        spec = prepared_corpus_spec(
            tiny(), corpus, corpora.raw[corpus], corpora.tokenizer, benchmark_texts, {}
        )
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
