"""Training speed of this project's model against CodeGen of transformers, both with DeepSpeed and
the same settings.

    python tests/benchmarks/training.py [--recipe starter] [--device cuda] [--out figures.json]

For every shape the two models are trained alternately in separate processes, on the same tokens,
with initial weights of the same distribution and the DeepSpeed configuration of a stage (ZeRO 1,
AdamW, clipping, accumulation). A step is timed from its first forward pass to the end of the
optimizer step. The peak of matrix products is measured in the same process just before. On a GPU it
needs PyTorch, DeepSpeed, pydantic and transformers. Prints a table, and writes JSON with `--out`.

Not covered: reading data and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # From a copy of the tree, where nothing is installed.

from components.core.network import free_port
from components.model.config import ModelConfig
from flows.settings.recipes import recipe

MODELS = ("codegen", "transformers")


@dataclass(frozen=True)
class Case:
    """A recipe's model, a batch, and the execution settings."""

    recipe: str
    micro_batch: int
    accumulation: int
    steps: int
    """Timed steps, after one that is not timed."""
    rounds: int = 3
    num_layers: int | None = None
    """If memory is too small for all."""
    context_length: int | None = None
    """If memory is too small for the recipe's."""
    precision: str = "fp32"
    device: str = "cpu"
    ranks: int = 1
    threads: int = 1
    """Per rank."""
    zero_stage: int = 1
    offload: str = "none"
    activation_checkpoint_interval: int = 0
    models: tuple[str, ...] = MODELS

    @property
    def model(self) -> ModelConfig:
        """The model config with the changes of this case."""
        shape = recipe(self.recipe).model
        changes = {"num_layers": self.num_layers, "context_length": self.context_length}
        return shape.replace(
            **{name: value for name, value in changes.items() if value is not None}
        )


CASES = {
    # The starter as `make run` trains it; 350M with as many layers, or as many tokens, as fit in
    # memory with transformers.
    "cpu": (
        Case("starter", micro_batch=2, accumulation=1, steps=40, rounds=5, ranks=2),
        Case("350m", micro_batch=1, accumulation=2, steps=3, num_layers=6, threads=2),
        Case(
            "350m",
            micro_batch=1,
            accumulation=2,
            steps=1,
            rounds=1,
            context_length=1024,
            threads=2,
            zero_stage=0,
        ),
    ),
    "cuda": (
        Case("350m", micro_batch=8, accumulation=4, steps=8, rounds=2),
        Case("2b", micro_batch=4, accumulation=4, steps=6, rounds=2),
        Case(
            "6b",
            micro_batch=2,
            accumulation=2,
            steps=2,
            rounds=1,
            offload="cpu",
            activation_checkpoint_interval=1,
            models=("codegen",),
        ),
    ),
}


def main() -> None:
    """Measure the cases of a device, or run as a measured process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--recipe", help="only this recipe's model")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="fp32 on the CPU, bf16 on a GPU"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    parser.add_argument(
        "--worker", nargs=2, metavar=("MODEL", "CASE"), help="run as a measured process"
    )
    arguments = parser.parse_args()
    if arguments.worker:
        model_name, case = arguments.worker
        print("\n" + json.dumps(worker(model_name, Case(**json.loads(case)))))
        return
    precision = arguments.precision or ("bf16" if arguments.device == "cuda" else "fp32")
    results = [
        measure(
            replace(
                case,
                device=arguments.device,
                precision=precision,
                rounds=arguments.rounds or case.rounds,
            )
        )
        for case in CASES[arguments.device]
        if arguments.recipe in (None, case.recipe)
    ]
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": machine(), "cases": results}, indent=1))


def measure(case: Case) -> dict[str, Any]:
    """Measure both models alternately, `rounds` times; print and return the medians."""
    name = f"{case.recipe}, {case.model.num_layers} layers, {case.model.context_length:,} tokens"
    runs: dict[str, list[dict[str, float]]] = {model_name: [] for model_name in case.models}
    for _ in range(case.rounds):
        for model_name in case.models:
            runs[model_name].append(run_worker(model_name, case))
    rows = {
        model_name: {
            key: statistics.median(record[key] for record in records) for key in records[0]
        }
        for model_name, records in runs.items()
    }
    for model_name, row in rows.items():
        print(
            f"{name} {case.precision} {model_name:12}: {row['tokens_per_s']:9,.0f} tokens/s, MFU "
            f"{row['mfu']:.1%} of "
            f"{row['peak_flops'] / 1e12:.3f} TFLOP/s, {row['peak_bytes'] / 1e9:.2f} GB, loss "
            f"{row['loss']:.3f}"
        )
    result: dict[str, Any] = {"case": asdict(case), "medians": rows, "runs": runs}
    if len(case.models) == len(MODELS):
        ratios = sorted(
            codegen["tokens_per_s"] / transformers["tokens_per_s"]
            for codegen, transformers in zip(
                *(runs[model_name] for model_name in MODELS), strict=True
            )
        )
        result["speed_ratios"] = ratios
        result["memory_ratio"] = rows["codegen"]["peak_bytes"] / rows["transformers"]["peak_bytes"]
        print(
            f"  {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}), memory "
            f"{result['memory_ratio']:.2f}x"
        )
    return result


def run_worker(model_name: str, case: Case) -> dict[str, float]:
    """Run all ranks of one model; return the figures of rank 0 with the memory of all ranks."""
    environment = os.environ | {
        "WORLD_SIZE": str(case.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": str(case.threads),
    }
    if case.device == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    command = [sys.executable, __file__, "--worker", model_name, json.dumps(asdict(case))]
    ranks = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(case.ranks)
    ]
    outputs = [rank.communicate() for rank in ranks]
    for rank, (output, errors) in zip(ranks, outputs, strict=True):
        if rank.returncode:
            sys.exit(f"{model_name} failed on {case.recipe}:\n{output[-2000:]}\n{errors[-4000:]}")
    figures: list[dict[str, float]] = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    return figures[0] | {"peak_bytes": sum(rank_figures["peak_bytes"] for rank_figures in figures)}


def worker(model_name: str, case: Case) -> dict[str, float]:
    """Train on one rank; return tokens per second, MFU and the peak memory of the process."""
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # DeepSpeed's autotuner would import it.
    import torch

    from components.training.config import StageConfig, TrainingExecution
    from components.training.deepspeed_config import deepspeed_config
    from components.training.distributed import build_engine, init_process_group
    from components.training.hardware import measure_hardware

    on_gpu = case.device == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    execution = TrainingExecution.parse(
        {
            "world_size": case.ranks,
            "micro_batch": case.micro_batch,
            "precision": case.precision,
            "offload_optimizer": case.offload,
            "activation_checkpoint_interval": case.activation_checkpoint_interval,
            "zero_stage": case.zero_stage,
        }
    )
    context = case.model.context_length
    global_batch_tokens = case.ranks * case.micro_batch * case.accumulation * context
    stage = StageConfig(
        steps=10,
        warmup_steps=1,
        decay_steps=8,
        learning_rate=1e-4,
        min_learning_rate=1e-5,
        global_batch_tokens=global_batch_tokens,
    )
    init_process_group(device)
    torch.set_num_threads(case.threads)
    peak_flops = measure_hardware(execution, device).peak_flops
    config = deepspeed_config(stage, execution, context, on_gpu=on_gpu, precision=case.precision)
    model, loss_of = MODEL_BUILDERS[model_name](case)
    engine = build_engine(model, stage.weight_decay, config)
    generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
    seconds, loss = [], torch.tensor(0.0)
    for _ in range(case.steps + 1):
        shape = (case.accumulation, case.micro_batch, context)
        batches = torch.randint(case.model.padded_vocab_size - 64, shape, generator=generator).to(
            device
        )
        started = time.monotonic()
        for tokens_BT in batches:
            loss = loss_of(engine, tokens_BT)
            engine.backward(loss)
            engine.step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    tokens_per_s = global_batch_tokens / statistics.median(
        seconds[1:]
    )  # The first step allocates or compiles.
    peak_bytes = (
        torch.cuda.max_memory_allocated()
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    mfu = tokens_per_s * case.model.flops_per_token / peak_flops
    return {
        "tokens_per_s": tokens_per_s,
        "mfu": mfu,
        "peak_flops": peak_flops,
        "peak_bytes": peak_bytes,
        "loss": float(loss),
    }


def build_codegen(case: Case) -> tuple[Any, Any]:
    """Return this project's model as a stage prepares it, and its loss function."""
    from components.model.transformer import CodeGen

    model = CodeGen(case.model, seed=0)
    model.activation_checkpoint_interval = case.activation_checkpoint_interval
    if case.device == "cuda":
        for block in model.blocks:
            block.compile()
    return model, lambda engine, tokens_BT: engine(tokens_BT, z_loss=1e-4)


def build_transformers(case: Case) -> tuple[Any, Any]:
    """Return the model of transformers without dropout, as in CodeGen, and its loss function."""
    from transformers import CodeGenConfig, CodeGenForCausalLM

    shape = case.model
    config = CodeGenConfig(
        vocab_size=shape.padded_vocab_size,
        n_positions=shape.context_length,
        n_ctx=shape.context_length,
        n_embd=shape.d_model,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        rotary_dim=shape.rotary_dim,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    return CodeGenForCausalLM(
        config
    ), lambda engine, tokens_BT: engine(input_ids=tokens_BT, labels=tokens_BT).loss


MODEL_BUILDERS = {"codegen": build_codegen, "transformers": build_transformers}


def machine() -> dict[str, Any]:
    """Return the processor, the number of cores, the GPU and the Python version."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    processor = next(
        (
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {
        "processor": processor.partition(": ")[2],
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
