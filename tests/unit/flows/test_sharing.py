"""Prepared corpora that one machine makes and another takes over, by recipe and by label; and their card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fixtures.projects import FixtureArchives, new_project, pull_fixtures

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, DataError, RemoteError
from components.core.store import Store
from components.data.config import CORPORA
from components.data.raw_corpus import raw_artifacts, sources_of
from components.preparation.corpus_pipeline import prepare_corpus
from components.tokenizer.config import StreamingCacheConfig
from components.tokenizer.vocabulary import build_tokenizer
from components.training.config import TrainingExecution
from flows.settings.execution import Execution
from flows.settings.recipes import tiny
from flows.steps.corpora import (
    RecipeCorpora,
    corpus_uri,
    find_corpora,
    load_benchmark_texts,
    prepared_corpus_spec,
    pull_prepared,
    push_prepared,
    tokenizer_spec,
)
from flows.steps.prepare_corpora import dataset_card, reject_counts, sample_rejects


def must_not_build(_: Path) -> dict[str, int]:
    raise AssertionError("built although it was pulled")


def prepare(execution: Execution) -> RecipeCorpora:
    """What the flow `prepare` makes, without Prefect and MLflow."""
    recipe, store, raw = tiny(), execution.open_store(), raw_artifacts(execution.project_path)
    tokenizer = store.get_or_build(
        **tokenizer_spec(recipe, raw["vocabulary"])._asdict(),
        build=lambda folder: build_tokenizer(
            Path(raw["vocabulary"].address) / "gpt2.tiktoken", recipe.tokenizer, folder
        ),
    ).artifact
    avoided = load_benchmark_texts(recipe, execution).texts
    prepared: dict[str, Artifact] = {}
    for corpus in CORPORA:
        prepared[corpus] = store.get_or_build(
            **prepared_corpus_spec(
                recipe, corpus, raw[corpus], tokenizer, avoided, prepared
            )._asdict(),
            build=lambda folder, corpus=corpus: prepare_corpus(
                folder,
                sources=sources_of(recipe.data, corpus, execution.project_path),
                corpus=corpus,
                data=recipe.data,
                tokenizer_folder=store.fetch_verified(tokenizer),
                tokenizer=recipe.tokenizer,
                context_length=recipe.model.context_length,
                seed=recipe.seed,
                benchmarks=avoided,
            ),
        ).artifact
    return RecipeCorpora(raw, tokenizer, prepared)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, fixture_archives: FixtureArchives
) -> tuple[Execution, RecipeCorpora]:
    """A project in which the corpora of `tiny` were prepared. Not to be changed by a test."""
    folder = new_project(tmp_path_factory.mktemp("made") / "project")
    pull_fixtures(folder, fixture_archives)
    execution = Execution(project=str(folder), pins=str(fixture_archives.folder / "pins.json"))
    return execution, prepare(execution)


@pytest.fixture
def elsewhere(tmp_path: Path, made: tuple[Execution, RecipeCorpora]) -> Execution:
    """Another machine, with the same data/ and an empty store."""
    folder = new_project(tmp_path / "elsewhere")
    for name in ("data", "data.dvc"):
        source = made[0].project_path / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return made[0].replace(project=str(folder))


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shared") if request.param == "folder" else request.getfixturevalue("s3")


def test_another_corpus_is_what_changes_the_bytes_and_nothing_else() -> None:
    """Of a corpus of terabytes, no change elsewhere may cost the preparation."""
    raw, tokenizer = (
        Artifact(kind=kind, name="one", address="/x", recipe="0" * 64, digest="1" * 64)
        for kind in ("raw-corpus", "tokenizer")
    )

    def mono(*changes: str) -> str:
        return prepared_corpus_spec(
            tiny().override(list(changes)), "mono", raw, tokenizer, [], {}
        ).recipe_hash

    def sources(**uris: str) -> str:
        return f"data.sources={json.dumps({name: [{'uri': uri}] for name, uri in uris.items()})}"

    assert mono("data.quarantine.max_bad_fraction=0.5") == mono(), (
        "it decides whether there is a corpus, not which"
    )
    assert mono(sources(nl="pile/*.zst")) == mono(), "where another corpus comes from"
    assert (
        mono(sources(nl="a", mono="b"))
        == mono(sources(nl="c", mono="b"))
        != mono(sources(mono="a"))
        != mono()
    )
    assert mono("data.quarantine.max_record_bytes=1000") != mono()
    assert mono("data.filters.max_line_length=7") != mono()


def test_a_corpus_is_streamed_only_from_a_store_elsewhere_and_only_where_there_is_a_cache(
    tmp_path: Path,
) -> None:
    def build(folder: Path) -> dict[str, int]:
        (folder / "index.json").write_text("{}")
        return {}

    def made(store: Store) -> Artifact:
        return store.get_or_build(
            "prepared-corpus", "nl", config={}, parents={}, code_version=1, build=build
        ).artifact

    here = Store(tmp_path / "here")
    elsewhere = Store(f"memory://{tmp_path.name}", scratch=tmp_path / "scratch")
    fetching = TrainingExecution()
    streaming = fetching.replace(
        streaming=StreamingCacheConfig(cache_folder=str(tmp_path / "cache"), cache_bytes=1)
    )
    assert [corpus_uri(here, made(here), place) for place in (fetching, streaming)] == [
        made(here).address
    ] * 2
    assert corpus_uri(elsewhere, made(elsewhere), streaming) == made(elsewhere).address
    assert not (tmp_path / "scratch" / ".cache").exists(), "nothing was fetched"
    assert (
        Path(corpus_uri(elsewhere, made(elsewhere), fetching)) / "index.json"
    ).read_text() == "{}"


def test_what_was_pushed_by_recipe_is_pulled_by_recipe_and_reused(
    made: tuple[Execution, RecipeCorpora], elsewhere: Execution, root: str
) -> None:
    pushed = push_prepared(tiny(), made[0], root)
    assert {one.artifact.label for one in pushed} == {
        made[1].tokenizer.label,
        *(one.label for one in made[1].prepared.values()),
    }
    assert all(one.was_there for one in push_prepared(tiny(), made[0], root))

    pulled = {one.artifact.label: one.artifact for one in pull_prepared(tiny(), elsewhere, root)}
    assert len(pulled) == 4
    store = elsewhere.open_store()
    found = find_corpora(tiny(), elsewhere, store)
    avoided = load_benchmark_texts(tiny(), elsewhere).texts
    for corpus in CORPORA:
        identity = prepared_corpus_spec(
            tiny(), corpus, found.raw[corpus], found.tokenizer, avoided, {}
        )
        assert store.get_or_build(**identity._asdict(), build=must_not_build).reused
        assert found.prepared[corpus].digest == made[1].prepared[corpus].digest
        store.fetch_verified(found.prepared[corpus])
    assert dataset_card(tiny(), elsewhere, found) == dataset_card(tiny(), made[0], made[1])


def test_a_label_needs_no_data(made: tuple[Execution, RecipeCorpora], tmp_path: Path) -> None:
    root, mono = str(tmp_path / "shared"), made[1].prepared["mono"]
    push_prepared(tiny(), made[0], root, [mono.label])
    bare = Execution(project=str(tmp_path / "bare"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"or name them: `codegen data pull-prepared ROOT LABEL"):
        pull_prepared(tiny(), bare, root)
    assert [one.artifact.label for one in pull_prepared(tiny(), bare, root, [mono.label])] == [
        made[1].tokenizer.label,
        mono.label,
    ]


def test_what_the_root_does_not_have_is_named(
    made: tuple[Execution, RecipeCorpora], elsewhere: Execution, tmp_path: Path
) -> None:
    with pytest.raises(
        ArtifactError, match=rf"{made[1].tokenizer.label} is not in {tmp_path}/shared"
    ):
        pull_prepared(tiny(), elsewhere, str(tmp_path / "shared"))
    with pytest.raises(
        ArtifactError, match=r"no artifact is published at .*/shared/prepared-corpus/nl-0"
    ):
        pull_prepared(tiny(), elsewhere, str(tmp_path / "shared"), ["prepared-corpus/nl-0"])
    with pytest.raises(ArtifactError, match="is no prepared corpus"):
        push_prepared(tiny(), made[0], str(tmp_path / "shared"), [made[1].tokenizer.label])
    assert list(Store(tmp_path / "shared").list_artifacts()) == []


def test_another_recipe_is_another_corpus(
    made: tuple[Execution, RecipeCorpora], tmp_path: Path
) -> None:
    other = tiny().override(["seed=1"])
    with pytest.raises(ArtifactError, match=r"prepared-corpus/nl-\w+ is not in"):
        push_prepared(other, made[0], str(tmp_path / "shared"))
    starter = tiny().override(["data.preset=starter"])
    with pytest.raises(DataError, match="data/ holds the preset tiny"):
        push_prepared(starter, made[0], str(tmp_path / "shared"))


def test_what_is_left_out_is_sampled_where_the_corpora_lie(
    made: tuple[Execution, RecipeCorpora], elsewhere: Execution, root: str
) -> None:
    execution, found = made
    push_prepared(tiny(), execution, root)
    shared = Store(root, scratch=elsewhere.workspace_path / "scratch")
    prepared = {
        name: shared.load(f"{shared.root}/{one.label}") for name, one in found.prepared.items()
    }
    rows = sample_rejects(prepared, shared)
    assert rows == sample_rejects(found.prepared, execution.open_store())
    # The archives hold one document twice and one that is too wide (tests/fixtures/archives.py).
    assert [(row["corpus"], row["reason"], row["language"]) for row in rows] == [
        ("multi", "duplicate", "C"), ("multi", "mean line length", "C")
    ]  # fmt: skip
    assert reject_counts(prepared)["rejected"]["multi"]["C"] == {
        "duplicate": 1,
        "mean line length": 1,
    }  # type: ignore[index, call-overload]
    assert reject_counts(prepared)["redacted"] == {"nl": {}, "multi": {}, "mono": {}}
    assert not (elsewhere.workspace_path / "scratch").exists(), "nothing else is fetched"
    shared.fs.pipe_file(f"{prepared['multi'].address}/rejects.parquet", b"PAR1 damaged")
    with pytest.raises(RemoteError, match="looking at what is left out"):
        sample_rejects(prepared, shared)
