"""Which corpora a recipe means, before or after they were made: what decides them, where they are found, what they are.

Design decision: the identity of the tokenizer and of a prepared corpus is put together here once; `prepare` builds from it,
sharing and the dataset card look for it. What is not covered: making them (`prepare`) and copying them (`sharing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import JsonValue

from components.core.artifact import Artifact, Kind, recipe_hash
from components.core.config import Config
from components.core.errors import ArtifactError, DataError
from components.core.files import read_json
from components.core.fingerprint import fingerprint
from components.core.remote_errors import wrap_remote_errors
from components.core.store import Store
from components.data.config import CORPORA, Corpus
from components.training.config import TrainingExecution
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe

if TYPE_CHECKING:
    from components.data.archives.pins import Pins
    from components.data.filters.decontamination import BenchmarkText
    from components.registry.card import TrainingCorpus

DATASET_CARD = "dataset-card.md"
"""The card of the corpora that were prepared last, in the workspace and in MLflow."""
REJECTS_TABLE = "rejects.json"
"""The table of what is in no shard, beside the card in MLflow."""


class ArtifactSpec(NamedTuple):
    """What decides an artifact: the arguments of `Store.get_or_build` that are no place."""

    kind: Kind
    name: str
    config: Config | Mapping[str, Any]
    parents: Mapping[str, Artifact]
    code_version: int

    @property
    def recipe(self) -> str:
        """The fingerprint under which the artifact is published."""
        return recipe_hash(self.config, self.parents, self.code_version)


class RecipeCorpora(NamedTuple):
    """The corpora of a recipe as they lie in stores."""

    raw: dict[str, Artifact]
    tokenizer: Artifact
    prepared: dict[str, Artifact]


def tokenizer_identity(recipe: Recipe, vocabulary: Artifact) -> ArtifactSpec:
    """What decides the tokenizer."""
    from components.tokenizer.vocabulary import CODE_VERSION

    name = f"gpt2-{recipe.tokenizer.num_merges}"
    return ArtifactSpec(
        "tokenizer", name, recipe.tokenizer, {"vocabulary": vocabulary}, CODE_VERSION
    )


def prepared_identity(
    recipe: Recipe,
    corpus: Corpus,
    raw: Artifact,
    tokenizer: Artifact,
    avoided: Sequence[BenchmarkText],
    earlier: Mapping[str, Artifact],
) -> ArtifactSpec:
    """What decides a prepared corpus: also which benchmarks are avoided and, if the recipe says so, earlier corpora.

    What changes none of its bytes does not count: where other corpora come from, and how many bad records are tolerated.
    """
    from components.preparation.corpus_pipeline import CODE_VERSION

    declared = (recipe.data.sources or {}).get(corpus)
    config = {
        "data": recipe.data.replace(
            sources={corpus: declared} if declared else None,
            quarantine=recipe.data.quarantine.reset("max_bad_fraction"),
        ),
        "benchmarks": fingerprint(list(avoided)),
        "context_length": recipe.model.context_length,
        "seed": recipe.seed,
    }
    others = earlier if recipe.data.dedup_across_corpora else {}
    return ArtifactSpec(
        "prepared-corpus",
        corpus,
        config,
        {"raw": raw, "tokenizer": tokenizer, **others},
        CODE_VERSION,
    )


def raw_corpora(recipe: Recipe, execution: Execution) -> dict[str, Artifact]:
    """The raw corpora and the vocabulary: of `data/`, but for those whose sources the recipe declares.

    Raises:
        DataError, FetchError: `data/` is not as committed, or a source cannot be listed.
    """
    from components.data.raw_corpus import artifact_from_listing, load_raw_artifacts

    declared = (recipe.data.sources or {}).items()
    return load_raw_artifacts(execution.project_path) | {
        name: artifact_from_listing(name, sources) for name, sources in declared
    }


def require_clean_data_dir(recipe: Recipe, execution: Execution) -> None:
    """A `data/` that stands for the recipe's preset but differs from it was edited: a pull would undo that without a word.

    Raises:
        DataError: names the files that differ.
    """
    from components.data.dvc import dvc_repo
    from components.data.raw_corpus import require_clean_data

    project, preset = execution.project_path, recipe.data.preset
    committed = dvc_repo.read_pointer(project)
    is_here = committed is not None and (project / dvc_repo.DATA).is_dir()
    if (
        is_here
        and committed
        and (committed.preset, committed.recipe_hash)
        == (preset, load_archive_pins(execution).recipe_hash(preset))
    ):
        require_clean_data(project, committed)


class Benchmarks(NamedTuple):
    """The problems that must not be learnt, and why those of MTPB are not among them."""

    texts: list[BenchmarkText]
    missing: str = ""


def benchmarks(recipe: Recipe, execution: Execution) -> Benchmarks:
    """HumanEval, and MTPB where its file can be had; none where decontamination is switched off.

    Raises:
        EvaluationError: a file that was given is not the pinned one.
    """
    from components.data.filters.decontamination import BenchmarkText
    from components.evaluation.benchmarks.humaneval import load_humaneval
    from components.evaluation.benchmarks.mtpb import find_mtpb, load_mtpb

    if not recipe.data.decontamination.enabled:
        return Benchmarks([])
    texts = [
        BenchmarkText(
            benchmark="humaneval", problem=one.task_id, text=one.prompt + one.canonical_solution
        )
        for one in load_humaneval()
    ]
    found = find_mtpb(execution.mtpb_path, execution.workspace_path / "cache")
    if not found.path:
        return Benchmarks(texts, found.missing)
    texts += [
        BenchmarkText(benchmark="mtpb", problem=str(one.number), text="\n".join(one.prompts))
        for one in load_mtpb(found.path)
    ]
    return Benchmarks(texts)


def load_archive_pins(execution: Execution) -> Pins:
    """The pinned archives of this place."""
    from components.data.archives.pins import Pins, load_pins

    return Pins.parse(read_json(Path(execution.pins))) if execution.pins else load_pins()


def find_corpora(recipe: Recipe, execution: Execution, *stores: Store) -> RecipeCorpora:
    """The recipe's corpora, each from the first store that has it.

    Raises:
        DataError: `data/`, whose bytes are a part of the recipe, is absent, of another preset or not as committed.
        ArtifactError: no store has one of them.
    """
    raw = raw_corpora(recipe, execution)
    require_preset(recipe, raw)
    tokenizer = _find(tokenizer_identity(recipe, raw["vocabulary"]), stores)
    avoided = benchmarks(recipe, execution).texts
    prepared: dict[str, Artifact] = {}
    for corpus in CORPORA:
        prepared[corpus] = _find(
            prepared_identity(recipe, corpus, raw[corpus], tokenizer, avoided, prepared), stores
        )
    return RecipeCorpora(raw, tokenizer, prepared)


def require_preset(recipe: Recipe, raw: Mapping[str, Artifact]) -> None:
    """Check that `data/` holds what the recipe is made from.

    Raises:
        DataError: it holds another preset.
    """
    if (preset := raw["vocabulary"].provenance["preset"]) != recipe.data.preset:
        raise DataError(
            f"data/ holds the preset {preset}",
            expected=f"the preset {recipe.data.preset}, whose bytes decide what the recipe {recipe.name} prepares",
            fix=f"run `codegen data pull --preset {recipe.data.preset}`, or name the recipe that was prepared with --recipe",
        )


def _find(identity: ArtifactSpec, stores: tuple[Store, ...]) -> Artifact:
    for store in stores:
        if found := store.find(identity.kind, identity.name, identity.recipe):
            return found
    where = " or ".join(str(store.root) for store in stores)
    raise ArtifactError(
        f"{identity.kind}/{identity.name}-{identity.recipe[:12]} is not in {where}",
        expected="the corpora of this recipe, data/ and code to have been prepared",
        fix="run `codegen prepare` with the same --recipe and --set, here or where they are to be pushed from",
    )


def corpus_uri(store: Store, corpus: Artifact, place: TrainingExecution) -> str:
    """From where a prepared corpus is read: its folder on this machine or, where it is streamed from elsewhere, its URI.

    What is streamed is not fetched and checked as a whole: see `components.dataset.streaming`.
    """
    return (
        corpus.address
        if place.streaming and not store.is_local
        else str(store.fetch_verified(corpus))
    )


def dataset_card(recipe: Recipe, execution: Execution, found: RecipeCorpora) -> str:
    """The dataset card of a recipe's corpora, as Markdown."""
    from components.core.paper import paper_corpora
    from components.data.card import DatasetCardInputs
    from components.data.card import dataset_card as card

    pins = load_archive_pins(execution)
    corpora = DatasetCardInputs(
        name=recipe.name,
        data=recipe.data,
        seed=recipe.seed,
        context_length=recipe.model.context_length,
        raw=found.raw,
        tokenizer=found.tokenizer,
        prepared=found.prepared,
    )
    return card(corpora, pins.packages_of(recipe.data.preset), pins.vocabulary, paper_corpora())


def training_corpora_of(
    recipe: Recipe,
    execution: Execution,
    stage: str,
    raw: Mapping[str, Artifact],
    prepared: Mapping[str, Artifact],
) -> list[TrainingCorpus]:
    """What the model of a stage learnt from here, in order, with its licences: for the model card."""
    from components.data.card import licenses_by_package
    from components.registry.card import TrainingCorpus

    sources = load_archive_pins(execution).packages_of(recipe.data.preset)
    stages: list[str] = list(recipe.training.trained)
    return [
        TrainingCorpus(prepared[one], licenses_by_package(raw[one], sources))
        for one in stages[: stages.index(stage) + 1]
    ]


def sample_rejects(prepared: Mapping[str, Artifact], store: Store) -> list[dict[str, JsonValue]]:
    """A few of what is in no shard, of every corpus, reason and language: a table of `left_out.COLUMNS` and the corpus.

    Only the files that say so are read: they are not verified, and no shard is fetched from where it lies.

    Raises:
        RemoteError: one of them cannot be read.
    """
    from components.dataset.manifests import (
        QUARANTINE_JSONL,
        REJECTS_PARQUET,
        sample_quarantined_records,
        sample_rejected_documents,
    )

    rows: list[dict[str, JsonValue]] = []
    for corpus, one in prepared.items():
        with (
            wrap_remote_errors("looking at what is left out", one.address),
            store.fs.open(f"{one.address}/{REJECTS_PARQUET}", "rb") as rejects,
            store.fs.open(f"{one.address}/{QUARANTINE_JSONL}", "rb") as quarantine,
        ):
            chosen = [*sample_rejected_documents(rejects), *sample_quarantined_records(quarantine)]
        chosen.sort(key=lambda row: (row["reason"], row["language"] or ""))
        rows += [{"reason": row["reason"], "corpus": corpus, **row} for row in chosen]
    return rows


def reject_counts(prepared: Mapping[str, Artifact]) -> dict[str, JsonValue]:
    """How many documents each reason rejects, how many records could not be read, and what was redacted: metrics."""
    from components.data.filters.quality import DUPLICATE

    rejected: dict[str, JsonValue] = {}
    unreadable: dict[str, JsonValue] = {}
    redacted: dict[str, JsonValue] = {}
    for corpus, one in prepared.items():
        languages: Any = one.statistics["languages"]
        rejected[corpus] = {
            language: {**counts["rejected"], DUPLICATE: counts["duplicates"]}
            for language, counts in languages.items()
        }
        unreadable[corpus] = one.statistics.get("bad", {})
        redacted[corpus] = one.statistics.get("redacted", {})
    return {"rejected": rejected, "unreadable": unreadable, "redacted": redacted}
