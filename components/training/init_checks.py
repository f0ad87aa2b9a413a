"""Can the first stage start from this model? Found in a second, before corpora are prepared and ranks are started.

One decision: the recipe says what is trained, and the model has to be that: its shape, its ids, and moments where they are
to be kept. Nothing is cut, padded or translated. Not covered: whether its weights are finite, which is found as they are
read, when the stage begins.
"""

from __future__ import annotations

from pathlib import Path

from components.core.errors import ConfigError
from components.model.config import ModelConfig
from components.model.huggingface import load_config
from components.tokenizer.compatibility import TokenizerSignature, first_mismatch, read_signature
from components.tokenizer.config import MAX_MERGES, TokenizerConfig
from components.training.config import TrainingConfig
from components.training.run_file import OPTIMIZER

_OTHER_MODEL = "start from a model with GPT-2's vocabulary and CodeGen's white space, or train from new weights"


def check_init_model(
    folder: Path, training: TrainingConfig, model: ModelConfig, tokenizer: TokenizerConfig
) -> None:
    """Check all that the recipe alone decides.

    Args:
        folder: the model that `training.initial` names.

    Raises:
        ConfigError: it has another shape than the recipe's model, another number of ids, or no moments to keep.
        ArtifactError: it is no complete model.
    """
    _require_shape(training, load_config(folder), model)
    _require_counts(training, read_signature(folder), tokenizer)
    stage = training.start_stage
    if training.first.optimizer_state == "kept" and not (folder / OPTIMIZER).is_file():
        raise ConfigError(
            f"training.initial {training.init_from} has no {OPTIMIZER}, and stage {stage} is to keep its optimizer",
            expected="a checkpoint of a stage that was trained for a next one that keeps the optimizer",
            fix=f"set training.stages.{stage}.optimizer to reset, or start from such a checkpoint",
        )


def require_same_ids(folder: Path, training: TrainingConfig, tokenizer_folder: Path) -> None:
    """Check that the model's tokenizer gives the ids of the recipe's, token by token.

    Raises:
        ConfigError: it gives others; the first one is named.
        ArtifactError: one of the two has no tokenizer.
    """
    if found := first_mismatch(read_signature(folder), read_signature(tokenizer_folder)):
        raise ConfigError(
            f"training.initial {training.init_from} has another tokenizer: {found}",
            expected="the ids of the recipe's tokenizer, which corpora are packed in",
            fix=_OTHER_MODEL,
        )


def _require_shape(training: TrainingConfig, theirs: ModelConfig, ours: ModelConfig) -> None:
    other = {
        name: (value, getattr(ours, name)) for name, value in theirs if value != getattr(ours, name)
    }
    if other:
        raise ConfigError(
            f"training.initial {training.init_from} has "
            + ", ".join(f"{name} {one:,}" for name, (one, _) in other.items()),
            expected="the recipe's model: "
            + ", ".join(f"{name} {one:,}" for name, (_, one) in other.items()),
            fix=f"give {' '.join(f'--set model.{name}={one}' for name, (one, _) in other.items())}, or choose another model "
            "or recipe",
        )


def _require_counts(
    training: TrainingConfig, theirs: TokenizerSignature, ours: TokenizerConfig
) -> None:
    num_merges = len(theirs.merges)
    if (num_merges, len(theirs.ids)) != (ours.num_merges, ours.num_ids):
        is_cut = (
            len(theirs.ids) - num_merges == ours.num_ids - ours.num_merges
            and num_merges <= MAX_MERGES
        )
        raise ConfigError(
            f"the tokenizer of training.initial {training.init_from} has {num_merges:,} merges and {len(theirs.ids):,} ids",
            expected=f"{ours.num_merges:,} merges and {ours.num_ids:,} ids, as the recipe's tokenizer",
            fix=f"give --set tokenizer.num_merges={num_merges}" if is_cut else _OTHER_MODEL,
        )
