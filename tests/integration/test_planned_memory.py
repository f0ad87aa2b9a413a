"""Planned memory against measured: real steps of the real model through DeepSpeed, on the CPU with gloo.

    python -m pytest -s tests/integration/test_planned_memory.py

prints every figure. What is compared and why is said in `fixtures.tensor_tracker`. ZeRO's bucket is taken off both sides: it
is 200 MB (100 in bf16) of memory that is the same for every model, and would hide an error in all the rest of a small one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.memory_probe import MemoryCase, MeasuredMemory

from components.core.network import free_port
from components.model.config import ModelConfig
from components.training.config import ParallelLayout
from components.training.deepspeed_config import BUCKET_ELEMENTS
from components.training.planning.memory import checkpoint_bytes, peak_memory

pytestmark = [pytest.mark.slow, pytest.mark.apart]

WORKER = Path(__file__).parents[1] / "fixtures" / "measured_memory.py"
TOLERANCE = 0.15

DEEP = ModelConfig(
    num_layers=8, num_heads=4, head_dim=16, rotary_dim=8, context_length=64, padded_vocab_size=256
)
"""Activations dominate, with four sequences."""
WIDE = ModelConfig(
    num_layers=2, num_heads=4, head_dim=32, rotary_dim=16, context_length=64, padded_vocab_size=4096
)
"""Embedding, head and the states of the optimizer dominate."""
NARROW = ModelConfig(
    num_layers=2, num_heads=4, head_dim=16, rotary_dim=8, context_length=64, padded_vocab_size=512
)
"""Small, since this machine's processor may compute bf16 in software."""


def case(
    model: ModelConfig, *, accumulation: int = 1, micro_batch: int = 1, **setting: object
) -> MemoryCase:
    """A case, named by what it measures."""
    asked = ParallelLayout.parse({"micro_batch": micro_batch, **setting})
    shape = {DEEP: "deep", WIDE: "wide", NARROW: "narrow"}[model]
    again = ", computed again" if asked.activation_checkpoint_interval else ""
    shared = (
        ", heads shared"
        if asked.tensor_parallel > 1
        else ", positions shared"
        if asked.sequence_parallel > 1
        else ""
    )
    name = f"{shape}, {asked.world_size} ranks, ZeRO {asked.zero_stage}, {asked.precision}, {accumulation} micro"
    return MemoryCase(name=name + again + shared, model=model, setting=asked, accumulation=accumulation)


CASES = [
    case(DEEP, micro_batch=4, world_size=1, zero_stage=0),
    case(DEEP, micro_batch=4, world_size=1, zero_stage=1),
    case(
        DEEP, micro_batch=4, world_size=1, zero_stage=1, accumulation=2, checkpoint_activations=True
    ),
    case(DEEP, micro_batch=4, world_size=2, zero_stage=1),
    case(
        DEEP, micro_batch=4, world_size=2, zero_stage=1, accumulation=2, checkpoint_activations=True
    ),
    case(DEEP, micro_batch=4, world_size=2, zero_stage=2),
    case(DEEP, micro_batch=4, world_size=2, zero_stage=3),
    case(WIDE, world_size=1, zero_stage=0, accumulation=2),
    case(WIDE, world_size=1, zero_stage=1),
    case(WIDE, world_size=1, zero_stage=2, accumulation=2),
    case(WIDE, world_size=2, zero_stage=0, accumulation=2),
    case(WIDE, world_size=2, zero_stage=1),
    case(WIDE, world_size=2, zero_stage=1, accumulation=2),
    case(WIDE, world_size=2, zero_stage=2, accumulation=2),
    case(WIDE, world_size=2, zero_stage=3, accumulation=2),
    case(DEEP, micro_batch=4, world_size=2, zero_stage=1, sequence_parallel=2),
    case(WIDE, world_size=2, zero_stage=2, accumulation=2, sequence_parallel=2),
    case(DEEP, micro_batch=4, world_size=2, zero_stage=1, tensor_parallel=2),
    case(WIDE, world_size=2, zero_stage=1, accumulation=2, tensor_parallel=2),
    case(NARROW, world_size=2, zero_stage=1, accumulation=2, precision="bf16"),
    case(NARROW, world_size=2, zero_stage=3, accumulation=2, precision="bf16"),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MeasuredMemory]:
    """By name of the case. Those of a number of ranks are measured by the same processes, one after the other.

    But for those that share heads: DeepSpeed settles once for a process who does.
    """
    found: dict[str, MeasuredMemory] = {}
    for ranks, sharing in ((1, 1), (2, 1), (2, 2)):
        folder = tmp_path_factory.mktemp("memory")
        cases = folder / "cases.json"
        asked = [
            one
            for one in CASES
            if (one.setting.world_size, one.setting.tensor_parallel) == (ranks, sharing)
        ]
        cases.write_text(json.dumps([one.model_dump() for one in asked]))
        port = str(free_port())
        processes = [_start([str(cases), str(folder)], rank, ranks, port) for rank in range(ranks)]
        outputs = [process.communicate()[0] for process in processes]
        assert not any(process.returncode for process in processes), outputs[0][-3000:]
        found |= {
            name: MeasuredMemory.parse(one)
            for name, one in json.loads((folder / "measured.json").read_text()).items()
        }
    return found


def _start(arguments: list[str], rank: int, ranks: int, port: str) -> subprocess.Popen[str]:
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "PYTHONPATH": os.pathsep.join([str(WORKER.parents[1]), *sys.path]),
    }
    command = [sys.executable, str(WORKER), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env={**os.environ, **variables}, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("one", CASES, ids=[one.name for one in CASES])
def test_planned_memory_is_what_is_measured(one: MemoryCase, measured: dict[str, MeasuredMemory]) -> None:
    planned = peak_memory(one.model, one.setting, one.accumulation)
    total, peak = planned.total_bytes, measured[one.name].peak_bytes
    bucket = BUCKET_ELEMENTS * one.setting.weight_bytes
    if planned.buffers_bytes < bucket:
        bucket = 0
    difference = (total - bucket) / (peak - bucket) - 1
    print(
        f"\n{one.name:<52} {peak / 1e6:8.2f} MB measured, {total / 1e6:8.2f} planned, {difference:+.1%} without the bucket"
    )
    assert abs(difference) <= TOLERANCE


@pytest.mark.parametrize("one", CASES, ids=[one.name for one in CASES])
def test_the_planned_size_of_a_checkpoint_is_what_is_measured(
    one: MemoryCase, measured: dict[str, MeasuredMemory]
) -> None:
    planned = checkpoint_bytes(one.model, one.setting)
    assert planned == pytest.approx(measured[one.name].checkpoint_bytes, rel=TOLERANCE)
