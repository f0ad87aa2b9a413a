"""Which sequences each rank reads in each step.

The order of the corpus belongs to the tokenizer's reader; the batch of step s is positions (s - 1) * n to s * n - 1 of it,
whatever the number of ranks. Copy r of w of the model, one rank or several, takes rows r, r + w, r + 2w, ... of the batch, a
micro-batch at a time. A new stage begins at position 0: its data from the start (docs/paper.md section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.core.errors import ConfigError
from components.dataset.config import StreamingCacheConfig
from components.dataset.reader import PackedSplit
from components.dataset.shards import TRAIN
from components.training.config import TrainingExecution
from components.training.deepspeed_config import num_sequences_per_step
from components.training.run_file import StageRun


@dataclass(frozen=True)
class Batches:
    """The batches of one rank."""

    split: PackedSplit
    seed: int
    num_per_step: int
    """Sequences in a global batch."""
    micro_batch: int
    rank: int
    num_replicas: int
    """Copies of the model; the ranks of one copy read the same."""
    ranks_per_replica: int

    @classmethod
    def of_rank(cls, run: StageRun, place: TrainingExecution, rank: int) -> Batches:
        """Raises ConfigError where the corpus does not fit the model (see `open_split`)."""
        per_step = num_sequences_per_step(run.config, run.model.context_length)
        return cls(
            open_split(run, place.streaming),
            run.seed,
            per_step,
            place.num_sequences,
            rank,
            place.num_replicas,
            place.ranks_per_replica,
        )

    def of_step(self, step: int) -> list[Tensor]:
        """This rank's micro-batches of a step, each int64 of shape [micro_batch, context_length]."""
        num_micro = self.num_per_step // (self.num_replicas * self.micro_batch)
        return [self._read(self.sequences_of(step, self.rank, micro)) for micro in range(num_micro)]

    def sequences_of(self, step: int, rank: int, micro: int) -> list[int]:
        """The numbers, in the split, of the sequences that a rank reads in one micro-batch of a step."""
        own = self.sequences_of_step(step)[rank // self.ranks_per_replica :: self.num_replicas]
        return own[micro * self.micro_batch : (micro + 1) * self.micro_batch]

    def sequences_of_step(self, step: int) -> list[int]:
        """The numbers, in the split, of the sequences of the global batch of a step."""
        first = (step - 1) * self.num_per_step
        return [
            int(number)
            for number in self.split.shuffled_indices(self.seed, first, self.num_per_step)
        ]

    def _read(self, numbers: list[int]) -> Tensor:
        return torch.from_numpy(self.split.batch(numbers).astype(np.int64))


def open_split(run: StageRun, streaming: StreamingCacheConfig | None = None) -> PackedSplit:
    """The sequences that a stage is trained on.

    Raises:
        ConfigError: the corpus was packed for another context length, has ids that the model has no rows for, is too
            small for one sequence, or lies elsewhere and no sufficient cache is given.
    """
    split = PackedSplit(run.data.folder, TRAIN, streaming=streaming)
    if split.context_length != run.model.context_length:
        raise ConfigError(
            f"the corpus of stage {run.stage} is packed in sequences of {split.context_length} tokens",
            expected=f"the model's context_length, {run.model.context_length}",
            fix="use one context length for the model and the preparation of the corpus",
        )
    if split.num_ids > run.model.padded_vocab_size:
        raise ConfigError(
            f"the model has {run.model.padded_vocab_size:,} padded_vocab_size",
            expected=f"at least the {split.num_ids:,} ids of the tokenizer",
            fix=f"set padded_vocab_size to {-(-split.num_ids // 64) * 64} or more",
        )
    if not len(split):
        raise ConfigError(
            f"the corpus of stage {run.stage} has no full sequence of {split.context_length} tokens",
            expected="at least one",
            fix="add documents to the corpus, or use a shorter context_length",
        )
    return split
