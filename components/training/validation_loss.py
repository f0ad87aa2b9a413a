"""Bits per byte on the held-out documents of a stage's own corpus, while it is trained.

The measure is the one that the evaluation of the finished checkpoint uses: nats of all predicted tokens over the bytes that
they stand for. Here it is computed through DeepSpeed's engine, since with ZeRO 3 no rank has the whole model: each copy of
the model scores every w-th sequence, and all ranks call the engine equally often. Evenly spaced sequences, always the same.

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


class HeldOut:
    """The held-out splits of one stage, as one rank reads them."""

    def __init__(self, run: StageRun, place: TrainingExecution) -> None:
        """Open the corpus' held-out splits and look up how long the tokenizer's tokens are."""
        self._num_replicas, self._ranks_per_replica = place.num_replicas, place.ranks_per_replica
        self._token_num_bytes = torch.from_numpy(
            Encoder(Path(run.tokenizer.folder)).token_num_bytes
        )
        self._splits: dict[str, tuple[PackedSplit, npt.NDArray[np.int64]]] = {}
        for name in sorted(PackedSplit(run.data.folder, streaming=place.streaming).index.splits):
            if name.startswith(HELD_OUT_PREFIX):
                split = PackedSplit(run.data.folder, name, streaming=place.streaming)
                chosen = split.evenly_spaced(place.evaluate_sequences)
                if len(chosen):
                    self._splits[name.removeprefix(HELD_OUT_PREFIX)] = (split, chosen)

    def num_bytes(self, tokens_BT: Tensor) -> int:
        """Bytes of text that all but the first token of every sequence stand for."""
        return int(self._token_num_bytes[tokens_BT[:, 1:]].sum())

    @torch.no_grad()
    def bits_per_byte(self, engine: Any, device: torch.device) -> dict[str, float | None]:
        """By language, None where it is not finite; all ranks call it together."""
        engine.eval()
        scores = {name: self._score(engine, device, *split) for name, split in self._splits.items()}
        engine.train()
        return scores

    def _score(
        self, engine: Any, device: torch.device, split: PackedSplit, chosen: npt.NDArray[np.int64]
    ) -> float | None:
        own = chosen[dist.get_rank() // self._ranks_per_replica :: self._num_replicas]
        nats, num_bytes = torch.zeros((), dtype=torch.float64), 0
        for number in range(math.ceil(len(chosen) / self._num_replicas)):
            # A copy that has no sequence left goes along with the split's first one, and counts nothing.
            is_own = number < len(own)
            tokens_1T = torch.from_numpy(
                split.batch([own[number] if is_own else chosen[0]]).astype(np.int64)
            )
            mean_nats = engine(tokens_1T.to(device), z_loss=0.0)
            if is_own:
                nats += mean_nats.double().cpu() * (tokens_1T.shape[1] - 1)
                num_bytes += self.num_bytes(tokens_1T)
        # Ranks of one copy count the same bytes again, and their losses (or the slices' shares) as often: it cancels.
        both = torch.tensor([float(nats), float(num_bytes)], dtype=torch.float64, device=device)
        all_nats, all_bytes = (
            math.fsum(values) for values in zip(*gather_values(both), strict=True)
        )
        score = all_nats / math.log(2) / all_bytes if all_bytes else math.nan
        return score if math.isfinite(score) else None
