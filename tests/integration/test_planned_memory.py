"""Planned memory compared with measurements: training steps with DeepSpeed on the CPU with gloo.

    python -m pytest -s tests/integration/test_planned_memory.py

prints all values. `fixtures.tensor_tracker` explains the measurement. ZeRO's bucket is subtracted
from both sides: 200 MB (100 in bf16) for any model would hide errors in the rest of a small model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from fixtures.memory_probe import MeasuredMemory, MemoryCase

from components.core.network import free_port
from components.model.config import ModelConfig
from components.training.config import ParallelLayout
from components.training.deepspeed_config import BUCKET_ELEMENTS
from components.training.launch.rank_process import RankEnv
from components.training.planning.memory import checkpoint_bytes, peak_memory

pytestmark = [pytest.mark.slow, pytest.mark.process_heavy]

WORKER = Path(__file__).parents[1] / "fixtures" / "memory_probe.py"
TOLERANCE = 0.15

DEEP = ModelConfig(
    num_layers=8, num_heads=4, head_dim=16, rotary_dim=8, context_length=64, padded_vocab_size=256
)
"""Activations dominate, with four sequences."""
WIDE = ModelConfig(
    num_layers=2, num_heads=4, head_dim=32, rotary_dim=16, context_length=64, padded_vocab_size=4096
)
"""Embedding, head and optimizer state dominate."""
NARROW = ModelConfig(
    num_layers=2, num_heads=4, head_dim=16, rotary_dim=8, context_length=64, padded_vocab_size=512
)
"""Small, because the processor may emulate bf16."""


def make_case(
    model: ModelConfig, *, accumulation: int = 1, micro_batch: int = 1, **fields: object
) -> MemoryCase:
    """A case with a descriptive name."""
    values = {"micro_batch": micro_batch, "precision": "fp32", **fields}
    layout = ParallelLayout.parse(values)
    shape = {DEEP: "deep", WIDE: "wide", NARROW: "narrow"}[model]
    name = f"{shape}, {layout.world_size} ranks, ZeRO {layout.zero_stage}, {layout.precision}"
    name += f", {accumulation} micro"
    if layout.activation_checkpoint_interval:
        name += ", recomputed"
    if layout.tensor_parallel > 1:
        name += ", tensor parallel"
    if layout.sequence_parallel > 1:
        name += ", sequence parallel"
    return MemoryCase(name=name, model=model, layout=layout, accumulation=accumulation)


deep = partial(make_case, DEEP, micro_batch=4)
wide = partial(make_case, WIDE)
narrow = partial(make_case, NARROW, precision="bf16")
CASES = [
    deep(world_size=1, zero_stage=0),
    deep(world_size=1, zero_stage=1),
    deep(world_size=1, zero_stage=1, accumulation=2, activation_checkpoint_interval=1),
    deep(world_size=2, zero_stage=1),
    deep(world_size=2, zero_stage=1, accumulation=2, activation_checkpoint_interval=1),
    deep(world_size=2, zero_stage=2),
    deep(world_size=2, zero_stage=3),
    wide(world_size=1, zero_stage=0, accumulation=2),
    wide(world_size=1, zero_stage=1),
    wide(world_size=1, zero_stage=2, accumulation=2),
    wide(world_size=2, zero_stage=0, accumulation=2),
    wide(world_size=2, zero_stage=1),
    wide(world_size=2, zero_stage=1, accumulation=2),
    wide(world_size=2, zero_stage=2, accumulation=2),
    wide(world_size=2, zero_stage=3, accumulation=2),
    deep(world_size=2, zero_stage=1, sequence_parallel=2),
    wide(world_size=2, zero_stage=2, accumulation=2, sequence_parallel=2),
    deep(world_size=2, zero_stage=1, tensor_parallel=2),
    wide(world_size=2, zero_stage=1, accumulation=2, tensor_parallel=2),
    narrow(world_size=2, zero_stage=1, accumulation=2),
    narrow(world_size=2, zero_stage=3, accumulation=2),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MeasuredMemory]:
    """Measurements by case. The same processes measure all cases of a number of ranks.

    Tensor parallel cases need processes of their own: DeepSpeed sets it up once per process.
    """
    measurements: dict[str, MeasuredMemory] = {}
    for num_ranks, tensor_parallel in ((1, 1), (2, 1), (2, 2)):
        folder = tmp_path_factory.mktemp("memory")
        cases = folder / "cases.json"
        selected = [
            case
            for case in CASES
            if (case.layout.world_size, case.layout.tensor_parallel) == (num_ranks, tensor_parallel)
        ]
        cases.write_text(json.dumps([case.model_dump() for case in selected]))
        port = free_port()
        ranks = [RankEnv(rank, rank, num_ranks, "127.0.0.1", port) for rank in range(num_ranks)]
        processes = [_start([str(cases), str(folder)], rank_env) for rank_env in ranks]
        outputs = [process.communicate()[0] for process in processes]
        assert not any(process.returncode for process in processes), outputs[0][-3000:]
        measurements |= {
            name: MeasuredMemory.parse(values)
            for name, values in json.loads((folder / "measured.json").read_text()).items()
        }
    return measurements


def _start(arguments: list[str], rank_env: RankEnv) -> subprocess.Popen[str]:
    python_path = os.pathsep.join([str(WORKER.parents[1]), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(WORKER), *arguments],
        env={**os.environ, **rank_env.variables(), "PYTHONPATH": python_path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_planned_memory_agrees_with_the_measurement(
    case: MemoryCase, measured: dict[str, MeasuredMemory]
) -> None:
    planned = peak_memory(case.model, case.layout, case.accumulation)
    total, peak = planned.total_bytes, measured[case.name].peak_bytes
    bucket = BUCKET_ELEMENTS * case.layout.weight_bytes
    if planned.buffers_bytes < bucket:
        bucket = 0
    difference = (total - bucket) / (peak - bucket) - 1
    print(
        f"\n{case.name:<52} {peak / 1e6:8.2f} MB measured, {total / 1e6:8.2f} planned, "
        f"{difference:+.1%} without the bucket"
    )
    assert abs(difference) <= TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_planned_size_of_a_checkpoint_agrees_with_the_measurement(
    case: MemoryCase, measured: dict[str, MeasuredMemory]
) -> None:
    planned = checkpoint_bytes(case.model, case.layout)
    assert planned == pytest.approx(measured[case.name].checkpoint_bytes, rel=TOLERANCE)
