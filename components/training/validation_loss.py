"""Bits per byte on the held-out documents of a stage's corpus, evaluated during training.

The metric is that of the evaluation of the finished checkpoint: nats of all predicted tokens over
the bytes of their text. It is computed through DeepSpeed's engine, because with ZeRO 3 no rank has
the whole model: model replica r of w scores every w-th sequence, and all ranks call the engine
equally often. The evaluated sequences are evenly spaced and the same in every evaluation.

Shapes: B sequences, T tokens of a sequence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from components.dataset.reader import PackedSplit
from components.dataset.shards import HELD_OUT_PREFIX
from components.tokenizer.encoder import Encoder
from components.training.config import TrainingExecution
from components.training.distributed import gather_values
from components.training.run_file import StageRun


class HeldOutEvaluator:
    """Evaluates the model on the held-out splits of a stage's corpus."""

    def __init__(self, run: StageRun, execution: TrainingExecution) -> None:
        """Open the held-out splits and read the byte lengths of the tokenizer's tokens."""
        self._num_replicas = execution.num_replicas
        self._ranks_per_replica = execution.ranks_per_replica
        encoder = Encoder(Path(run.tokenizer.folder))
        self._token_num_bytes = torch.from_numpy(encoder.token_num_bytes)
        self._splits: dict[str, tuple[PackedSplit, npt.NDArray[np.int64]]] = {}
        index = PackedSplit(run.data.folder, streaming=execution.streaming).index
        for name in sorted(index.splits):
            if not name.startswith(HELD_OUT_PREFIX):
                continue
            split = PackedSplit(run.data.folder, name, streaming=execution.streaming)
            sequences = split.evenly_spaced(execution.eval_sequences)
            if len(sequences):
                self._splits[name.removeprefix(HELD_OUT_PREFIX)] = (split, sequences)

    def num_bytes(self, tokens_BT: Tensor) -> int:
        """Bytes of the text of all tokens but the first of every sequence."""
        return int(self._token_num_bytes[tokens_BT[:, 1:]].sum())

    @torch.no_grad()
    def bits_per_byte(self, engine: Any, device: torch.device) -> dict[str, float | None]:
        """Bits per byte by language, None if not finite. All ranks call this together."""
        engine.eval()
        scores = {
            language: self._score(engine, device, split, sequences)
            for language, (split, sequences) in self._splits.items()
        }
        engine.train()
        return scores

    def _score(
        self,
        engine: Any,
        device: torch.device,
        split: PackedSplit,
        sequences: npt.NDArray[np.int64],
    ) -> float | None:
        replica = dist.get_rank() // self._ranks_per_replica
        replica_sequences = sequences[replica :: self._num_replicas]
        nats = torch.zeros((), dtype=torch.float64)
        num_bytes = 0
        for index in range(math.ceil(len(sequences) / self._num_replicas)):
            # A replica without a sequence left computes the first sequence and ignores the result.
            is_counted = index < len(replica_sequences)
            sequence = replica_sequences[index] if is_counted else sequences[0]
            tokens_1T = torch.from_numpy(split.batch([sequence]).astype(np.int64))
            mean_nats = engine(tokens_1T.to(device), z_loss=0.0)
            if is_counted:
                nats += mean_nats.double().cpu() * (tokens_1T.shape[1] - 1)
                num_bytes += self.num_bytes(tokens_1T)
        # Ranks of a replica repeat nats and bytes equally often, which cancels in the quotient.
        totals = torch.tensor([float(nats), float(num_bytes)], dtype=torch.float64, device=device)
        nats_by_rank, bytes_by_rank = zip(*gather_values(totals), strict=True)
        all_bytes = math.fsum(bytes_by_rank)
        if not all_bytes:
            return None
        score = math.fsum(nats_by_rank) / math.log(2) / all_bytes
        return score if math.isfinite(score) else None
