"""Which sequences each rank reads in each step.

The batch of step s is positions (s - 1) * n to s * n - 1 of the dataset reader's shuffled order,
for any number of ranks. Model replica r of w reads rows r, r + w, r + 2w, ... of the batch. Every
stage starts at position 0 (docs/paper.md section 3).
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
    """The batches of a rank."""

    split: PackedSplit
    seed: int
    num_per_step: int
    """Sequences in a global batch."""
    micro_batch: int
    rank: int
    num_replicas: int
    ranks_per_replica: int

    @classmethod
    def for_rank(cls, run: StageRun, execution: TrainingExecution, rank: int) -> Batches:
        """The batches of a rank. Raises ConfigError like `open_split`."""
        return cls(
            split=open_split(run, execution.streaming),
            seed=run.seed,
            num_per_step=num_sequences_per_step(run.config, run.model.context_length),
            micro_batch=execution.resolved_micro_batch,
            rank=rank,
            num_replicas=execution.num_replicas,
            ranks_per_replica=execution.ranks_per_replica,
        )

    def read_step(self, step: int) -> list[Tensor]:
        """This rank's micro-batches of a step, each int64 [micro_batch, context_length]."""
        num_micro_batches = self.num_per_step // (self.num_replicas * self.micro_batch)
        micro_batches = []
        for index in range(num_micro_batches):
            tokens = self.split.batch(self.micro_batch_sequences(step, self.rank, index))
            micro_batches.append(torch.from_numpy(tokens.astype(np.int64)))
        return micro_batches

    def micro_batch_sequences(self, step: int, rank: int, index: int) -> list[int]:
        """Indices in the split of the sequences of a rank's micro-batch `index` of a step."""
        replica = rank // self.ranks_per_replica
        replica_sequences = self.step_sequences(step)[replica :: self.num_replicas]
        return replica_sequences[index * self.micro_batch : (index + 1) * self.micro_batch]

    def step_sequences(self, step: int) -> list[int]:
        """Indices in the split of the sequences of a step's global batch."""
        start = (step - 1) * self.num_per_step
        indices = self.split.shuffled_indices(self.seed, start, self.num_per_step)
        return [int(index) for index in indices]


def open_split(run: StageRun, streaming: StreamingCacheConfig | None = None) -> PackedSplit:
    """Open the train split of a stage.

    Raises:
        ConfigError: the corpus was packed for another context length, has ids without a row in the
            model, has no full sequence, or is remote without a sufficient streaming cache.
    """
    split = PackedSplit(run.data.folder, TRAIN, streaming=streaming)
    if split.context_length != run.model.context_length:
        raise ConfigError(
            f"the corpus of stage {run.stage} is packed in sequences of {split.context_length} "
            "tokens",
            expected=f"the model's context_length, {run.model.context_length}",
            fix="use the same context_length for the model and to prepare the corpus",
        )
    if split.num_ids > run.model.padded_vocab_size:
        raise ConfigError(
            f"padded_vocab_size is {run.model.padded_vocab_size:,}",
            expected=f"at least the {split.num_ids:,} ids of the tokenizer",
            fix=f"set padded_vocab_size to {-(-split.num_ids // 64) * 64} or more",
        )
    if not len(split):
        raise ConfigError(
            f"the corpus of stage {run.stage} has no full sequence of {split.context_length} "
            "tokens",
            expected="at least one sequence",
            fix="add documents to the corpus, or use a shorter context_length",
        )
    return split
