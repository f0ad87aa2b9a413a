"""What a training stage is (identity), and where and how wide it runs (place).

`StageConfig` decides the weights and is part of the recipe. `TrainingPlace` decides only how the same work is spread
over processes; it is in no fingerprint. Another place gives the same batches in the same order, but sums them in another
order, so weights are bit-identical for one place and equal to rounding between two.

Defaults are those that CodeGen uses at every size (released code: salesforce/jaxformer; paper, section 2.2): Adam betas
0.9/0.999, eps 1e-8, weight decay 0.1, gradient clip 1.0, z-loss 1e-4. Precision is place: weights, moments and what is
handed on are fp32 everywhere; where the hardware multiplies bf16 faster, the products are bf16 (the paper's own setting).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from components.core.config import Config
from components.core.errors import ConfigError
from components.dataset.config import StreamingCacheConfig

Offload = Literal["none", "cpu", "nvme"]
StageName = Literal["nl", "multi", "mono"]


class StageConfig(Config):
    """One stage: how many optimizer steps, on how many tokens each, with which learning rates."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    tokens: int | None = Field(default=None, ge=1)
    """Given in the place of steps: as many steps as it takes to read so many tokens. It is turned into these at once."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear warm-up from zero to `learning_rate`."""
    decay_steps: int = Field(ge=1)
    """Steps of cosine decay after the warm-up; what is left of `steps` runs at `min_learning_rate`."""
    learning_rate: float = Field(gt=0)
    """The peak."""
    min_learning_rate: float = Field(ge=0)
    global_batch_tokens: int = Field(ge=1)
    """Tokens per optimizer step over all processes; a multiple of the context length."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled; matrices only, no biases and no LayerNorm parameters (assumption: the GPT-3 practice)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest global L2 norm of the gradient."""
    z_loss: float = Field(default=1e-4, ge=0)
    """Weight of log(Z)^2 in the loss."""
    mask_documents: bool = False
    """Documents that share a sequence do not attend to each other. In CodeGen they do (assumption: its released code has no
    such mask)."""
    optimizer_state: Literal["reset", "kept"] = "reset"
    """Of a stage that starts from another: Adam's moments begin at zero, as in CodeGen (assumption: its released code hands
    on weights alone), or go on from that stage's. The schedule begins anew either way."""
    max_skipped_steps: int = Field(default=10, ge=0)
    """Batches of the stage that may be left out, with no update, since their loss or gradient is not finite, or spikes. One
    more stops the stage and names its documents. 0: the first one does."""
    loss_spike_num_std: float | None = Field(default=None, gt=0)
    """A batch is left out as a spike where its loss is more than so many standard deviations above the mean of the last 128;
    OLMo-core uses 6. None: never, as in CodeGen."""

    @model_validator(mode="before")
    @classmethod
    def _steps_of_tokens(cls, values: Any) -> Any:
        given, global_batch_tokens = (
            (values.get(name) for name in ("tokens", "global_batch_tokens"))
            if isinstance(values, dict)
            else (0, 0)
        )
        if (
            type(given) is not int
            or type(global_batch_tokens) is not int
            or min(given, global_batch_tokens) < 1
        ):
            return values  # Nothing to do, or the fields' own rules say what is wrong.
        return values | {"steps": -(-given // global_batch_tokens), "tokens": None}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps below steps ({self.steps}); the whole stage would be warm-up"
            )
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(f"min_learning_rate at most learning_rate ({self.learning_rate})")
        return self


class Stages(Config):
    """The three stages, in the order in which weights are handed on."""

    nl: StageConfig
    multi: StageConfig
    mono: StageConfig


class TrainingConfig(Config):
    """Training's part of a recipe."""

    stages: Stages
    init_from: str | None = Field(default=None, min_length=1)
    """The model that the first stage starts from, by any name that `codegen eval` takes; its digest counts, not the name.
    None: new weights."""
    start_stage: StageName = "nl"
    """Earlier ones are left out; their settings play no part. Without `initial` it begins with new weights."""

    @property
    def first(self) -> StageConfig:
        """The settings of the first stage."""
        return self.trained[self.start_stage]

    @property
    def trained(self) -> dict[StageName, StageConfig]:
        """The stages that are trained, in their order."""
        names = get_args(StageName)
        return {name: getattr(self.stages, name) for name in names[names.index(self.start_stage) :]}


class TrainingExecution(Config):
    """How a stage is spread over processes, and how often it is saved."""

    world_size: int = Field(default=1, ge=1)
    """Ranks, those of all hosts together."""
    one_per_host: bool = True
    """Trainings of one user on one host take turns, however they were started; a second one waits and says so. false: side
    by side, where devices were divided by hand."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Ranks that share one copy of the model, each with a part of every block's heads and of its inner layer (AutoTP). They
    follow one another, so a host's ranks should be a multiple of it. Needs ZeRO 1 or 2."""
    sequence_parallel: int = Field(default=1, ge=1)
    """Ranks that share every sequence, each with a part of its positions (Ulysses). They follow one another as well."""
    launcher: Literal["local", "hostfile", "slurm", "environment"] = "local"
    """Who starts the ranks: this host; ssh on every host of a hostfile; srun, from inside an allocation; or somebody else
    (torchrun, Kubernetes), whom the flow waits for. But for local, all folders lie on a file system that all hosts share."""
    hostfile: str | None = None
    """DeepSpeed's: a line `HOST slots=RANKS` for every host."""
    master_port: int | None = Field(default=None, ge=1, le=65_535)
    """Where the ranks meet, on the first one's host. None: one that is free, or is tried."""
    threads_per_process: int = Field(default=1, ge=1)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Sequences per process and forward pass; the rest of the batch is accumulated. auto: the most that fit (`fitting`)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one. One rank a GPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of products and gradients. auto: bf16 where a probe finds it clearly faster, as the stage begins."""
    zero_stage: int = Field(default=1, ge=0, le=3)
    """What is partitioned over the ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too (ZeRO, arXiv
    1910.02054)."""
    offload_optimizer: Offload = "none"
    """Where the optimizer's state lives; ZeRO 1 to 3, nvme 3 only."""
    offload_parameters: Offload = "none"
    """Where weights live that are not in use; ZeRO 3."""
    nvme_folder: str | None = None
    """A folder on a fast local disk, for nvme."""
    activation_checkpoint_interval: int = Field(default=0, ge=0)
    """Activation checkpointing of every so many layers: their activations are computed again in the backward pass. 0: of
    none; 1: of all. The same bits, a third more work for such a layer."""
    compiled: bool | None = None
    """torch.compile on every layer. None: on cuda only, since on a CPU it needs a C++ compiler."""
    checkpoint_every_steps: int = Field(default=100, ge=1)
    """A killed stage loses at most this many steps of work, and those that are taken while a checkpoint is written."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints of a running stage that are kept, the newest."""
    keep_every_steps: int | None = Field(default=None, ge=1)
    """Besides, those of every so many steps, until the stage is finished. None: no others."""
    eval_interval: int = Field(default=200, ge=0)
    """Held-out documents are measured after every so many steps, and after the last one; the checkpoint of such a step that
    measured best is kept as well. 0: never."""
    evaluate_sequences: int = Field(default=4, ge=1)
    """Of each held-out split, at most."""
    streaming: StreamingCacheConfig | None = None
    """The cache for corpora of a store that is not on this machine, which are then not fetched as a whole; credentials come
    from the file system's own configuration. None: they are fetched."""

    @property
    def uses_gpu(self) -> bool:
        """Whether ranks compute on GPUs; asks NVIDIA's driver, without importing torch."""
        return self.device == "cuda" or (self.device == "auto" and Path("/dev/nvidiactl").exists())

    @property
    def num_sequences(self) -> int:
        """`micro_batch`, where it is settled.

        Raises:
            ConfigError: it is auto, and so not known before the stage begins.
        """
        if self.micro_batch == "auto":
            raise ConfigError(
                "micro_batch is auto, which is settled as the stage begins",
                expected="a number",
                fix="give one, --exec training.micro_batch=1; what a stage has used stands in its observed/deepspeed.json",
            )
        return self.micro_batch

    @property
    def ranks_per_replica(self) -> int:
        """Ranks that compute one copy of the model together, on the same sequences."""
        return self.tensor_parallel * self.sequence_parallel

    @property
    def num_replicas(self) -> int:
        """Copies of the model, over which a batch is divided."""
        return self.world_size // self.ranks_per_replica

    @model_validator(mode="after")
    def _can_be_cut(self) -> Self:
        if self.tensor_parallel > 1 and self.sequence_parallel > 1:
            raise ValueError("tensor_parallel or sequence_parallel above 1, not both")
        if self.world_size % self.ranks_per_replica:
            raise ValueError(
                f"world_size a multiple of tensor_parallel or sequence_parallel ({self.ranks_per_replica})"
            )
        if self.tensor_parallel > 1 and (
            self.zero_stage not in (1, 2) or self.offload_optimizer != "none"
        ):
            raise ValueError(
                "zero_stage 1 or 2 and nothing offloaded with tensor_parallel; other ways were not tried"
            )
        return self

    @model_validator(mode="after")
    def _can_be_launched(self) -> Self:
        if (self.launcher == "hostfile") != (self.hostfile is not None):
            raise ValueError("a hostfile with launcher hostfile, and with no other")
        return self

    @model_validator(mode="after")
    def _can_be_offloaded(self) -> Self:
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError(
                f"zero_stage 3 with offload_parameters, which ZeRO {self.zero_stage} keeps in place"
            )
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError("zero_stage 1, 2 or 3 with offload_optimizer")
        wants_nvme = "nvme" in (self.offload_optimizer, self.offload_parameters)
        if wants_nvme and (self.zero_stage != 3 or self.nvme_folder is None):
            raise ValueError("zero_stage 3 and an nvme_folder with nvme")
        return self
