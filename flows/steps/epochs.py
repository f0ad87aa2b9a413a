"""Epochs: how often each stage reads its corpus, known before and after preparation.

Before preparation, tokens are estimated from the sizes of the files; if the result is near the
limit of the recipe, from a sample of the documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from components.core.artifact import Artifact
from components.core.errors import ConfigError
from flows.runtime.context import FlowContext
from flows.settings.execution import Execution
from flows.settings.recipes import Recipe
from flows.steps.corpora import find_prepared_corpora, is_pulled

_BYTES_PER_TOKEN = 3.3
"""Mean of the languages with all merges (docs/figures.md)."""
_SIZE_TOLERANCE = 2.0
"""Assumption: file sizes give the tokens within a factor of two. Languages have 2.7 to 3.9 bytes a
token (docs/figures.md); compression and rejected documents add to that."""
_SAMPLED_SHARE = 0.25
"""A sample is read if the epochs from file sizes exceed this share of the limit."""
_MAX_HASHED_BYTES = 4 * 10**9
"""Bytes of local files to hash in a plan (assumption: ten seconds)."""
_SAMPLE_MB = 16
"""Text of a corpus to sample: some seconds (docs/figures.md)."""

Origin = Literal["prepared", "sample", "file sizes", "assumed"]


class CorpusTokens(NamedTuple):
    """Tokens of the training split of a corpus."""

    value: int
    high: int
    """The largest number that the estimate allows."""
    origin: Origin


class StageEpochs(NamedTuple):
    """How often a stage reads the training split of its corpus."""

    stage: str
    corpus: str
    tokens: CorpusTokens
    epochs: float
    min_epochs: float
    """With the largest number of tokens that the estimate allows."""


def tokens_of_prepared(recipe: Recipe, prepared: Mapping[str, Artifact]) -> dict[str, CorpusTokens]:
    """Return the tokens of prepared corpora, which are exact."""
    tokens = {}
    for corpus, artifact in prepared.items():
        splits: Any = artifact.statistics["splits"]
        value = splits["train"]["num_sequences"] * recipe.model.context_length
        tokens[corpus] = CorpusTokens(value, value, "prepared")
    return tokens


def tokens_from_sizes(
    recipe: Recipe, execution: Execution, stages: Iterable[str]
) -> dict[str, CorpusTokens]:
    """Return the tokens of the corpora of stages, estimated from the sizes of their files; without
    empty corpora, which validation reports. The preset must have been pulled.

    Raises:
        DataError: a source cannot be listed.
    """
    tokens: dict[str, CorpusTokens] = {}
    for corpus in dict.fromkeys(map(recipe.training.corpus_of, stages)):
        estimate = _tokens_from_sizes(recipe, execution, corpus)
        if estimate.value:
            tokens[corpus] = estimate
    return tokens


def tokens_from_samples(
    recipe: Recipe, execution: Execution, rows: Iterable[StageEpochs]
) -> dict[str, CorpusTokens]:
    """Return the tokens of corpora whose epochs may exceed the limit according to the sizes of
    their files, estimated from samples.

    Raises:
        DataError: a source cannot be read, or all documents of a sample are rejected.
    """
    from flows.steps.estimate_corpus import estimate_corpora

    max_epochs = recipe.training.max_epochs
    if max_epochs is None:
        return {}
    doubtful = [
        row.corpus
        for row in rows
        if row.tokens.origin == "file sizes"
        and row.epochs > _SAMPLED_SHARE * max_epochs
        and row.min_epochs <= max_epochs
    ]
    tokens = {}
    for corpus in dict.fromkeys(doubtful):
        ((_, sample),) = estimate_corpora(recipe, execution, corpus, _SAMPLE_MB)
        value = sample.num_train_tokens
        high = round(value * sample.num_tokens.high / max(1, sample.num_tokens.value))
        tokens[corpus] = CorpusTokens(value, max(value, high), "sample")
    return tokens


def _tokens_from_sizes(recipe: Recipe, execution: Execution, corpus: str) -> CorpusTokens:
    from components.data.raw_corpus import corpus_sources
    from components.data.sources.partitions import list_partitions

    sources = corpus_sources(recipe.data, corpus, execution.project_path)
    num_bytes = sum(
        partition.text_bytes * partition.source.epochs for partition in list_partitions(sources)
    )
    value = round(num_bytes * (1 - recipe.data.held_out_fraction) / _BYTES_PER_TOKEN)
    return CorpusTokens(value, round(value * _SIZE_TOLERANCE), "file sizes")


def stage_epochs(
    recipe: Recipe, stages: Iterable[str], tokens: Mapping[str, CorpusTokens]
) -> list[StageEpochs]:
    """Return the epochs of the stages whose corpora have a number of tokens."""
    rows = []
    for stage in stages:
        config, corpus = recipe.training.stages[stage], recipe.training.corpus_of(stage)
        if corpus in tokens:
            num_read = config.steps * config.global_batch_tokens
            size = tokens[corpus]
            epochs = num_read / max(1, size.value)
            rows.append(StageEpochs(stage, corpus, size, epochs, num_read / max(1, size.high)))
    return rows


def require_few_epochs(recipe: Recipe, rows: Sequence[StageEpochs]) -> None:
    """Check how often each stage would read its corpus.

    Raises:
        ConfigError: more often than the recipe allows; names every such stage.
    """
    max_epochs = recipe.training.max_epochs
    excessive = [row for row in rows if max_epochs is not None and row.min_epochs > max_epochs]
    if excessive:
        raise ConfigError(
            "; ".join(
                f"stage {row.stage} would read the {describe_tokens(row.tokens)} of the corpus "
                f"{row.corpus} {format_number(row.epochs)} times"
                for row in excessive
            ),
            expected=f"at most training.max_epochs, {max_epochs:g}, times (epochs)",
            fix="give the corpora more sources, lower training.stages.STAGE.steps, or raise "
            "training.max_epochs, which rebuilds nothing",
        )


def describe_tokens(tokens: CorpusTokens) -> str:
    """Return the number of tokens and its origin, if it is not exact."""
    origins = {"prepared": "", "assumed": " (assumed)"}
    origin = origins.get(tokens.origin, f" (estimated from {_origin_name(tokens.origin)})")
    return f"{tokens.value:,} training tokens{origin}"


def format_epochs(rows: Sequence[StageEpochs]) -> str:
    """Return the epochs of all stages in one line; the rows have the same origin of tokens."""
    origin = rows[0].tokens.origin
    source = "" if origin == "prepared" else f", estimated from {_origin_name(origin)}"
    numbers = ", ".join(f"{row.stage} {format_number(row.epochs)}" for row in rows)
    return f"epochs{source}: {numbers}"


def format_number(epochs: float) -> str:
    """Return epochs with two digits."""
    return f"{epochs:,.1f}" if epochs >= 10 else f"{epochs:.2g}"


def _origin_name(origin: Origin) -> str:
    return "a sample" if origin == "sample" else origin


def check_expected_epochs(context: FlowContext, stages: Sequence[str] | None) -> list[StageEpochs]:
    """Print the epochs of a recipe according to the sizes of files, and check those of stages.

    Args:
        context: the flow that prepares the corpora.
        stages: the stages that will be trained. None: nothing is trained, so nothing is refused.

    Returns:
        The epochs of the stages that will be trained.

    Raises:
        ConfigError: a stage would read its corpus too often.
        DataError: a source cannot be listed.
    """
    recipe = context.recipe
    trained = recipe.training.trained if stages is None else stages
    printed_stages = [
        stage for stage in trained if recipe.training.corpus_of(stage) in recipe.corpora
    ]
    tokens = tokens_from_sizes(recipe, context.execution, printed_stages)
    rows = stage_epochs(recipe, printed_stages, tokens)
    if rows:
        context.console.print(f"  {format_epochs(rows)}", soft_wrap=True, markup=False)
    if stages is None:
        return []
    require_few_epochs(recipe, rows)
    return rows


def check_sampled_epochs(
    context: FlowContext, expected: Sequence[StageEpochs], prepared: Mapping[str, Artifact]
) -> None:
    """Check the epochs of stages whose corpora are not prepared yet, if the sizes of their files
    leave a doubt.

    Args:
        context: the flow that prepares the corpora.
        expected: the epochs according to the sizes of files.
        prepared: the corpora that are prepared, by name.

    Raises:
        ConfigError: a stage would read its corpus too often.
        DataError: a source cannot be read.
    """
    recipe = context.recipe
    unknown = [row for row in expected if row.corpus not in prepared]
    if sampled := tokens_from_samples(recipe, context.execution, unknown):
        rows = stage_epochs(recipe, [row.stage for row in unknown], sampled)
        context.console.print(f"  {format_epochs(rows)}", soft_wrap=True, markup=False)
        require_few_epochs(recipe, rows)


def stages_to_estimate(
    recipe: Recipe, execution: Execution, assumed: Mapping[str, CorpusTokens]
) -> list[str]:
    """Return the stages whose corpora are on this machine, or in remote storage, and are not
    assumed. A preset that was not pulled is not.

    Raises:
        ConfigError: a corpus has neither sources nor a preset.
    """
    corpus_of = recipe.training.corpus_of
    stages = [stage for stage in recipe.training.trained if corpus_of(stage) not in assumed]
    recipe.require_corpora(dict.fromkeys(map(corpus_of, stages)))
    absent = recipe.preset_corpora
    if not absent or is_pulled(recipe, execution):
        return stages
    return [stage for stage in stages if corpus_of(stage) not in absent]


def find_tokens(
    recipe: Recipe, execution: Execution, stages: Sequence[str]
) -> dict[str, CorpusTokens]:
    """Return the tokens of the corpora of stages before a run: those of prepared corpora, or an
    estimate.

    Local files of more than 4 GB are not hashed to look for prepared corpora.

    Raises:
        DataError: a source cannot be read.
    """
    tokens: dict[str, CorpusTokens] = {}
    # A search for prepared corpora needs all corpora of the recipe.
    is_complete = stages == list(recipe.training.trained)
    has_preset = not recipe.preset_corpora or is_pulled(recipe, execution)
    if is_complete and has_preset and _local_bytes(recipe) <= _MAX_HASHED_BYTES:
        tokens = tokens_of_prepared(recipe, find_prepared_corpora(recipe, execution))
    unknown = [stage for stage in stages if recipe.training.corpus_of(stage) not in tokens]
    tokens |= tokens_from_sizes(recipe, execution, unknown)
    return tokens | tokens_from_samples(recipe, execution, stage_epochs(recipe, unknown, tokens))


def _local_bytes(recipe: Recipe) -> int:
    """Return the bytes of the local files among the sources of the recipe."""
    from components.data.sources.partitions import list_partitions

    sources = [source for items in recipe.data.declared_sources.values() for source in items]
    local = [source for source in sources if "://" not in source.uri]
    return sum(partition.size_bytes for partition in list_partitions(local))


def parse_tokens(text: str, recipe: Recipe) -> dict[str, CorpusTokens]:
    """Return assumed tokens from `nl=354e9,multi=119e9`; empty for an empty text.

    Raises:
        ConfigError: it has another form, or names no corpus of the recipe.
    """
    tokens = {}
    for item in filter(None, text.split(",")):
        corpus, _, number = item.partition("=")
        is_number = re.fullmatch(r"\d+(\.\d+)?(e\d{1,2})?", number.strip())
        value = round(float(number)) if is_number else 0
        if corpus.strip() not in recipe.trained_corpora or value < 1:
            raise ConfigError(
                f"--tokens has {item!r}",
                expected="CORPUS=TOKENS, separated by commas, for the corpora "
                f"{', '.join(recipe.trained_corpora)}",
                fix="use, e.g., --tokens "
                + ",".join(f"{name}=100e9" for name in recipe.trained_corpora),
            )
        tokens[corpus.strip()] = CorpusTokens(value, value, "assumed")
    return tokens
