"""Configuration of training: stages (identity) and execution (processes, memory, checkpoints).

`TrainingConfig` decides the weights and is part of the recipe. `TrainingExecution` decides how the
work is spread over processes and is in no fingerprint: the batches are the same, so weights are
bit-identical for the same execution config, and agree to rounding otherwise.

Defaults are CodeGen's at every size (released code: salesforce/jaxformer; paper, section 2.2):
Adam betas 0.9/0.999, eps 1e-8, weight decay 0.1, gradient clip 1.0, z-loss 1e-4. Weights, optimizer
state and published checkpoints are fp32; `precision` is that of products and gradients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from components.core.config import NAME_RULE, Config, is_name
from components.core.errors import ConfigError
from components.dataset.config import StreamingCacheConfig
from components.training.deepspeed_merge import Options, read_options, requested_precision

OffloadDevice = Literal["none", "cpu", "nvme"]
Offload = Literal["none", "optimizer", "all"]
Precision = Literal["fp32", "bf16", "fp16"]

ZERO_STAGES = (0, 1, 2, 3)
MIN_ZERO_STAGE: dict[Offload, int] = {"none": 0, "optimizer": 1, "all": 3}
"""The lowest ZeRO stage that supports an offload setting."""


class StageConfig(Config):
    """A training stage: corpus, steps, batch size, learning rate schedule, optimizer and loss."""

    corpus: str | None = None
    """Corpus to train on. None: the corpus with the name of the stage."""
    init_stage: str | None = None
    """Stage whose weights are the initial weights. None for the first stage."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    tokens: int | None = Field(default=None, ge=1)
    """Alternative to `steps`: tokens to train on, converted to steps and rounded up."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear warm-up from zero to `learning_rate`."""
    decay_steps: int = Field(ge=1)
    """Steps of cosine decay after the warm-up. Remaining steps use `min_learning_rate`."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    min_learning_rate: float = Field(ge=0)
    """Learning rate after the decay."""
    global_batch_tokens: int = Field(ge=1)
    """Tokens per optimizer step over all processes; a multiple of the context length."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices. Biases and LayerNorm parameters have none (assumption:
    the GPT-3 practice)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Maximum global L2 norm of the gradient."""
    z_loss: float = Field(default=1e-4, ge=0)
    """Weight of log(Z)^2 in the loss."""
    mask_documents: bool = False
    """Mask attention between documents in the same sequence. CodeGen does not (assumption: its
    released code has no such mask)."""
    optimizer_state: Literal["reset", "inherit"] = "reset"
    """Adam's moments at the start of the stage: zero as in CodeGen (assumption: its released code
    passes on weights only), or those of the previous stage. The schedule starts at step 1."""
    max_skipped_steps: int = Field(default=10, ge=0)
    """Batches that may be skipped because their loss or gradient is not finite, or their loss is a
    spike. The stage stops at the next such batch and names its documents."""
    loss_spike_num_std: float | None = Field(default=None, gt=0)
    """Skip a batch if its loss is more than this number of standard deviations above the mean of
    the last 128 (OLMo-core uses 6). None: no spike detection, as in CodeGen."""

    @model_validator(mode="before")
    @classmethod
    def _convert_tokens_to_steps(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        tokens = values.get("tokens")
        batch_tokens = values.get("global_batch_tokens")
        if (
            type(tokens) is not int
            or type(batch_tokens) is not int
            or min(tokens, batch_tokens) < 1
        ):
            return values  # Field validation reports invalid values.
        return values | {"steps": -(-tokens // batch_tokens), "tokens": None}

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps below steps ({self.steps})")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(f"min_learning_rate at most learning_rate ({self.learning_rate})")
        return self


class TrainingConfig(Config):
    """The training section of a recipe."""

    schema_version: ClassVar[int] = 2

    stages: Annotated[dict[str, StageConfig], Field(min_length=1)]
    """By name. `init_stage` of each decides the order, which a JSON database may not keep: a single
    first stage, and any number of stages that start from the weights of another."""
    init_from: str | None = Field(default=None, min_length=1)
    """Model that the first stage starts from, by any name that `codegen eval` accepts. Identified
    by its digest, not its name. None: new weights."""
    max_epochs: float | None = Field(default=4.0, gt=0)
    """How often a stage may read the training split of its corpus at most. Up to four times is
    nearly as good as new data (arXiv 2305.16264). None: no limit."""
    start_stage: str | None = None
    """First stage to train; stages that it does not lead to are not trained. Without `init_from` it
    starts from new weights. None: the stage without `init_stage`."""

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        for name, stage in self.stages.items():
            if not is_name(name):
                raise ValueError(
                    f"stages with names of {NAME_RULE}, since folders and models are named after "
                    f"them; not {name!r}"
                )
            if stage.init_stage is not None and stage.init_stage not in self.stages:
                raise ValueError(
                    f"stages.{name}.init_stage among the stages; {stage.init_stage!r} is not"
                )
        roots = sorted(name for name, stage in self.stages.items() if stage.init_stage is None)
        if len(roots) != 1 or len(self.all_stages) != len(self.stages):
            raise ValueError(
                "stages of which exactly one has no init_stage and leads to all others; without "
                f"one: {', '.join(roots) or 'none'}"
            )
        if self.start_stage is not None and self.start_stage not in self.stages:
            raise ValueError(f"start_stage among the stages: {', '.join(self.all_stages)}")
        return self

    @property
    def all_stages(self) -> tuple[str, ...]:
        """The names of all stages, each after its `init_stage`; then by name."""
        names = [name for name in sorted(self.stages) if self.stages[name].init_stage is None]
        for name in names:  # Grows while it is read.
            names += [child for child in sorted(self.stages) if self._parent(child) == name]
        return tuple(names)

    @property
    def first_stage(self) -> str:
        """The name of the first trained stage."""
        return self.start_stage or self.all_stages[0]

    @property
    def trained(self) -> dict[str, StageConfig]:
        """The trained stages: the first stage and all that it leads to, in order."""
        return {
            name: self.stages[name]
            for name in self.all_stages
            if self.first_stage in self.stages_up_to(name)
        }

    def stages_up_to(self, name: str) -> tuple[str, ...]:
        """The stages that lead to a stage, from the first trained stage to the stage itself; from
        the first of all stages if the first trained stage does not lead to it."""
        path = [name]
        while path[0] != self.start_stage and (parent := self._parent(path[0])):
            path.insert(0, parent)
        return tuple(path)

    def corpus_of(self, stage: str) -> str:
        """The name of the corpus that a stage trains on."""
        return self.stages[stage].corpus or stage

    def _parent(self, stage: str) -> str | None:
        return self.stages[stage].init_stage


class ParallelLayout(Config):
    """How a stage is spread over processes: the settings that decide the memory of a process."""

    world_size: int = Field(default=1, ge=1)
    """Number of ranks on all hosts, each with a device."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Consecutive ranks that share a model replica by attention heads and MLP columns (AutoTP).
    Requires ZeRO 1 or 2."""
    sequence_parallel: int = Field(default=1, ge=1)
    """Consecutive ranks that share every sequence by positions (Ulysses). ZeRO partitions over
    these ranks too."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Sequences per process and forward pass; gradients of the batch are accumulated. auto: the
    largest micro-batch that fits into memory."""
    zero_stage: int = Field(default=1, ge=0, le=3)
    """What is partitioned over the ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights
    too (ZeRO, arXiv 1910.02054)."""
    precision: Literal["auto", Precision] = "auto"
    """Of products and gradients. auto: bf16 if a probe at the start of the stage measures it to be
    clearly faster. fp16 uses DeepSpeed's loss scaling."""
    offload_optimizer: OffloadDevice = "none"
    """Device of the optimizer state. Requires ZeRO 1 to 3; nvme requires ZeRO 3."""
    offload_parameters: OffloadDevice = "none"
    """Device of weights that are not in use. Requires ZeRO 3."""
    activation_checkpoint_interval: int = Field(default=0, ge=0)
    """Activation checkpointing of every n-th layer: its activations are recomputed in the backward
    pass, about a third more compute for the layer. 0: no layer; 1: every layer."""

    @property
    def ranks_per_replica(self) -> int:
        """Ranks that compute a model replica together, on the same sequences."""
        return self.tensor_parallel * self.sequence_parallel

    @property
    def num_replicas(self) -> int:
        """Model replicas, over which a batch is divided."""
        return self.world_size // self.ranks_per_replica

    @property
    def offload(self) -> Offload:
        """What is offloaded: nothing, the optimizer state, or the weights too."""
        if self.offload_parameters != "none":
            return "all"
        return "none" if self.offload_optimizer == "none" else "optimizer"

    @property
    def resolved_micro_batch(self) -> int:
        """`micro_batch` as a number.

        Raises:
            ConfigError: it is auto, which is resolved when the stage starts.
        """
        if self.micro_batch == "auto":
            raise ConfigError(
                "micro_batch is auto, which is resolved when the stage starts",
                expected="a number",
                fix="set --exec training.micro_batch=1; observed/deepspeed.json of a stage "
                "contains the micro-batch that it used",
            )
        return self.micro_batch

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight, activation or gradient. Raises ConfigError if precision is auto."""
        if self.precision == "auto":
            raise ConfigError(
                "precision is auto, which is resolved when the stage starts",
                expected="fp32, bf16 or fp16",
                fix="set --exec training.precision=fp32, bf16 or fp16",
            )
        return 4 if self.precision == "fp32" else 2

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        # Pydantic passes a ConfigError through, because it is no ValueError.
        got = (
            f"tensor_parallel is {self.tensor_parallel}, sequence_parallel {self.sequence_parallel}"
        )
        if self.tensor_parallel > 1 and self.sequence_parallel > 1:
            raise ConfigError(
                got, expected="at most one of the two above 1", fix="set one of them to 1"
            )
        if self.world_size % self.ranks_per_replica:
            raise ConfigError(
                f"{got}, world_size {self.world_size}",
                expected=f"a world_size that is a multiple of {self.ranks_per_replica}",
                fix=f"set world_size to {self.world_size * self.ranks_per_replica}, "
                "or use fewer ranks per replica",
            )
        allowed_stages = allowed_zero_stages(self.tensor_parallel, self.offload)
        if self.tensor_parallel > 1 and self.zero_stage not in allowed_stages:
            raise ConfigError(
                f"{got}, zero_stage {self.zero_stage}, offload {self.offload}",
                expected="zero_stage 1 or 2 and no offloading with tensor_parallel",
                fix="set zero_stage to 1 or 2 and offload nothing, or set tensor_parallel to 1",
            )
        return self

    @model_validator(mode="after")
    def _check_offload(self) -> Self:
        min_stage = MIN_ZERO_STAGE[self.offload]
        if "nvme" in (self.offload_optimizer, self.offload_parameters):
            min_stage = 3
        if self.zero_stage < min_stage:
            raise ConfigError(
                f"zero_stage is {self.zero_stage}, offload_optimizer {self.offload_optimizer}, "
                f"offload_parameters {self.offload_parameters}",
                expected=f"zero_stage {min_stage} or higher: only partitioned state is offloaded",
                fix=f"set zero_stage to {min_stage}, or offload to none",
            )
        return self


class Budget(Config):
    """Limits of the training of all stages of a recipe, over all attempts.

    A stage that would exceed a limit in its next step saves a checkpoint and stops.
    """

    hours: float | None = Field(default=None, gt=0)
    """Hours of the clock. None: no limit."""
    price: float | None = Field(default=None, gt=0)
    """Price of all devices, in the currency of `price_per_hour`. None: no limit."""
    price_per_hour: float | None = Field(default=None, gt=0)
    """Price of a device per hour."""

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by field."""
        values = {"hours": self.hours, "price": self.price}
        return {name: limit for name, limit in values.items() if limit is not None}

    @model_validator(mode="after")
    def _check_price(self) -> Self:
        if (self.price is None) != (self.price_per_hour is None):
            raise ValueError("price and price_per_hour, the price of a device per hour, together")
        return self


class TrainingExecution(ParallelLayout):
    """How a stage is executed: parallel layout, launcher, hardware, checkpoints, evaluation and
    budget."""

    one_per_host: bool = True
    """Run a single training per user and host; others wait. Set to false to assign devices
    yourself."""
    launcher: Literal["local", "hostfile", "slurm", "environment"] = "local"
    """Starts the ranks: local on this host; hostfile over ssh; slurm with srun in an allocation;
    environment waits for ranks of another launcher (torchrun, Kubernetes). All but local require
    folders on a shared file system."""
    hostfile: str | None = None
    """DeepSpeed hostfile: a line `HOST slots=RANKS` per host."""
    master_port: int | None = Field(default=None, ge=1, le=65_535)
    """Rendezvous port on the host of rank 0. None: a free port, or on other hosts a random port."""
    threads_per_process: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if the machine has a GPU. Each rank needs a GPU."""
    nvme_folder: str | None = None
    """Folder on a fast local disk, for offloading to nvme."""
    compiled: bool | None = None
    """Compile every layer with torch.compile. None: on cuda only, because a CPU needs a C++
    compiler."""
    checkpoint_every_steps: int = Field(default=100, ge=1)
    """Steps between checkpoints inside a stage. An interrupted stage repeats at most these, and the
    steps that were computed while the last checkpoint was written."""
    stall_factor: float | None = Field(default=50.0, gt=0)
    """End a stage as stalled if no rank makes progress for this number of median step times, but at
    least for `stall_min_s`. None: never."""
    stall_min_s: float = Field(default=300.0, gt=0)
    """Minimum time without progress in a step before a stage counts as stalled (assumption)."""
    stall_phase_s: float = Field(default=3600.0, gt=0)
    """The same for start, loading, first step (compilation), evaluation, saving and writing the
    result (assumption: the largest model over a network)."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints inside a stage to retain."""
    keep_every_steps: int | None = Field(default=None, ge=1)
    """Also retain the checkpoints of every n-th step until the stage is finished."""
    eval_interval: int = Field(default=200, ge=0)
    """Steps between evaluations on held-out documents; the last step is always evaluated. The best
    evaluated checkpoint is retained. 0: no evaluation."""
    eval_sequences: int = Field(default=4, ge=1)
    """Maximum sequences to evaluate per held-out split."""
    budget: Budget = Budget()
    """Most hours or highest price of the training."""
    deepspeed_config: Options | None = None
    """DeepSpeed options to merge into the configuration of a stage: monitors, profiler, loss
    scaling, buckets of ZeRO. On the command line also the path of a JSON file with them."""
    streaming: StreamingCacheConfig | None = None
    """Cache to stream corpora from a remote store, with the credentials of the file system's own
    configuration. None: corpora are downloaded."""

    @property
    def uses_gpu(self) -> bool:
        """Whether ranks compute on GPUs. Looks for NVIDIA's driver, without importing torch."""
        has_driver = Path("/dev/nvidiactl").exists()
        return self.device == "cuda" or (self.device == "auto" and has_driver)

    @property
    def deepspeed_options(self) -> Options:
        """The user's DeepSpeed options."""
        return self.deepspeed_config or {}

    @model_validator(mode="before")
    @classmethod
    def _read_deepspeed_config(cls, values: Any) -> Any:
        """Replace a path by the content of the file, and precision auto by the user's precision.

        The file is read here, so that records, deployments and ranks have its content.
        """
        if not isinstance(values, dict) or values.get("deepspeed_config") is None:
            return values
        options = read_options(values["deepspeed_config"])
        values = values | {"deepspeed_config": options or None}
        precision = requested_precision(options)
        if precision and values.get("precision", "auto") == "auto":
            values["precision"] = precision
        return values

    @model_validator(mode="after")
    def _check_required_paths(self) -> Self:
        if (self.launcher == "hostfile") != (self.hostfile is not None):
            raise ValueError("a hostfile with launcher hostfile, and with no other launcher")
        uses_nvme = "nvme" in (self.offload_optimizer, self.offload_parameters)
        if uses_nvme and self.nvme_folder is None:
            raise ValueError("an nvme_folder with offloading to nvme")
        return self


def allowed_zero_stages(tensor_parallel: int, offload: Offload) -> list[int]:
    """The ZeRO stages that support a layout."""
    if tensor_parallel > 1:
        return [1, 2] if offload == "none" else []
    return [stage for stage in ZERO_STAGES if stage >= MIN_ZERO_STAGE[offload]]


def offload_fields(offload: str) -> dict[str, str]:
    """The fields of `ParallelLayout` that offload to the host: none, optimizer or all.

    Raises:
        ConfigError: another value.
    """
    if offload not in MIN_ZERO_STAGE:
        raise ConfigError(
            f"offload is {offload!r}",
            expected=f"one of {', '.join(MIN_ZERO_STAGE)}",
            fix="set --offload to one of these",
        )
    return {
        "offload_optimizer": "none" if offload == "none" else "cpu",
        "offload_parameters": "cpu" if offload == "all" else "none",
    }
