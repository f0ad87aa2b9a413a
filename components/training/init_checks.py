"""Checks that the first stage can start from a model, before corpora are prepared.

The model must have the shape and token ids of the recipe, and the optimizer state if the stage
inherits it. Nothing is truncated, padded or converted. Not covered: whether the weights are finite,
which is checked when the stage starts.
"""

from __future__ import annotations

from pathlib import Path

from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.model.huggingface import load_config
from components.tokenizer.compatibility import TokenizerSignature, first_mismatch, read_signature
from components.tokenizer.config import MAX_MERGES, TokenizerConfig
from components.training.config import TrainingConfig
from components.training.run_file import OPTIMIZER_FILE

_USE_ANOTHER_MODEL = (
    "start from a model with GPT-2's vocabulary and CodeGen's white space tokens, or from new "
    "weights"
)


def check_init_model(
    folder: Path, training: TrainingConfig, model: ModelConfig, tokenizer: TokenizerConfig
) -> None:
    """Check the model of `training.init_from`, in `folder`, against the recipe.

    Raises:
        ConfigError: another shape or number of ids than the recipe's, or no optimizer state.
        ArtifactError: the model is incomplete.
    """
    _check_shape(training, load_config(folder), model)
    _check_num_ids(training, read_signature(folder), tokenizer)
    stage = training.first_stage
    inherits = training.stages[stage].optimizer_state == "inherit"
    if inherits and not (folder / OPTIMIZER_FILE).is_file():
        raise ConfigError(
            f"training.init_from {training.init_from} has no {OPTIMIZER_FILE}, and stage {stage} "
            "inherits the optimizer state",
            expected="a checkpoint that was trained for a next stage that inherits the optimizer "
            "state",
            fix=f"set training.stages.{stage}.optimizer_state to reset, or start from such a "
            "checkpoint",
        )


def check_same_ids(folder: Path, training: TrainingConfig, tokenizer_folder: Path) -> None:
    """Check that the model's tokenizer has the ids of the recipe's tokenizer, token by token.

    Raises:
        ConfigError: an id differs.
        ArtifactError: a tokenizer is absent.
    """
    mismatch = first_mismatch(read_signature(folder), read_signature(tokenizer_folder))
    if mismatch:
        raise ConfigError(
            f"training.init_from {training.init_from} has another tokenizer: {mismatch}",
            expected="the token ids of the recipe's tokenizer, which the corpora are packed in",
            fix=_USE_ANOTHER_MODEL,
        )


def _check_shape(training: TrainingConfig, actual: ModelConfig, expected: ModelConfig) -> None:
    differing = [name for name, value in actual if value != getattr(expected, name)]
    if not differing:
        return
    sets = " ".join(f"--set model.{name}={getattr(actual, name)}" for name in differing)
    raise ConfigError(
        f"training.init_from {training.init_from} has {_format_fields(actual, differing)}",
        expected=f"the recipe's model: {_format_fields(expected, differing)}",
        fix=f"add {sets}, or choose another model or recipe",
    )


def _format_fields(model: ModelConfig, names: list[str]) -> str:
    return ", ".join(f"{name} {getattr(model, name):,}" for name in names)


def _check_num_ids(
    training: TrainingConfig, actual: TokenizerSignature, expected: TokenizerConfig
) -> None:
    num_merges = len(actual.merges)
    num_ids = len(actual.ids)
    if (num_merges, num_ids) == (expected.num_merges, expected.num_ids):
        return
    has_same_base = num_ids - num_merges == expected.num_ids - expected.num_merges
    is_codegen = has_same_base and num_merges <= MAX_MERGES
    raise ConfigError(
        f"the tokenizer of training.init_from {training.init_from} has {num_merges:,} merges and "
        f"{num_ids:,} ids",
        expected=f"{expected.num_merges:,} merges and {expected.num_ids:,} ids, like the recipe's "
        "tokenizer",
        fix=f"add --set tokenizer.num_merges={num_merges}" if is_codegen else _USE_ANOTHER_MODEL,
    )
