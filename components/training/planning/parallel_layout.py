"""How a stage would be laid out over processes, as a plan is asked for it: `TrainingPlace` without what takes no memory.

One decision: it follows the same rules as a place and says them in the words of a plan, so that whatever is planned can be
run. No torch is imported here.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.core.config import Config
from components.core.errors import ConfigError

ZERO_STAGES = (0, 1, 2, 3)
LOWEST_STAGE_THAT_OFFLOADS = {"none": 0, "optimizer": 1, "all": 3}


class ParallelLayout(Config):
    """How a stage is laid out over processes. Fields carry the names of `TrainingPlace`, where that has them."""

    world_size: int = Field(default=1, ge=1)
    """One for each device; those that share a copy of the model count, too."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Processes that share the heads and inner layers of a copy's blocks; embedding, head and norms are whole on each."""
    sequence_parallel: int = Field(default=1, ge=1)
    """Processes that share the positions of a copy's sequences. ZeRO cuts over them as over data-parallel ones."""
    micro_batch: int = Field(default=1, ge=1)
    zero_stage: int = Field(default=1, ge=0, le=3)
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: weights, activations and gradients in bf16; master weights and optimizer in fp32 (docs/paper.md section 3)."""
    checkpoint_activations: bool = False
    """Keep only the input of each block, and compute the block again in the backward pass."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lies in the host's memory: optimizer state and reduced gradients, or (ZeRO 3) the weights too."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        # A ConfigError is no ValueError, so Pydantic lets it through as it is.
        self._require_shares()
        lowest = LOWEST_STAGE_THAT_OFFLOADS[self.offload]
        if self.zero_stage < lowest:
            raise ConfigError(
                f"zero_stage is {self.zero_stage} with offload {self.offload}",
                expected=f"at least {lowest}: what is to be offloaded has to be partitioned",
                fix=f"set zero_stage to {lowest}, or offload to none",
            )
        return self

    def _require_shares(self) -> None:
        """The rules of `TrainingPlace`, in the words of a plan."""
        sharing = f"tensor_parallel is {self.tensor_parallel} and sequence_parallel {self.sequence_parallel}"
        if self.tensor_parallel > 1 and self.sequence_parallel > 1:
            raise ConfigError(
                sharing, expected="only one of the two above 1", fix="set one of them to 1"
            )
        if self.world_size % self.ranks_per_replica:
            raise ConfigError(
                f"{sharing}, of {self.world_size} processes",
                expected="copies of the model that divide the processes",
                fix=f"give {self.world_size * self.ranks_per_replica} processes, or let fewer share a copy",
            )
        if self.tensor_parallel > 1 and (self.zero_stage not in (1, 2) or self.offload != "none"):
            raise ConfigError(
                f"{sharing}, with zero_stage {self.zero_stage} and offload {self.offload}",
                expected="zero_stage 1 or 2 and nothing offloaded with tensor_parallel",
                fix="set zero_stage to 1 or 2 and offload to none, or tensor_parallel to 1",
            )

    @property
    def ranks_per_replica(self) -> int:
        """Processes that compute one copy of the model together."""
        return self.tensor_parallel * self.sequence_parallel

    @property
    def num_replicas(self) -> int:
        """Copies of the model, over which a batch is divided."""
        return self.world_size // self.ranks_per_replica

    @property
    def weight_bytes(self) -> int:
        """W."""
        return 2 if self.precision == "bf16" else 4


def zero_stages(tensor_parallel: int, offload: str) -> list[int]:
    """Those that a setting may have."""
    if tensor_parallel > 1:
        return [1, 2] if offload == "none" else []
    return [one for one in ZERO_STAGES if one >= LOWEST_STAGE_THAT_OFFLOADS[offload]]
