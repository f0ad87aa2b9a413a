"""The losses of the first 20 steps of the tiny recipe equal the golden file, to the last bit.

The sequences are generated here. Environment variables make the libraries compute alike on every
x86-64 processor. The file names the processor vendors for which it is exact; on others the losses
must agree to 1e-6. `python tests/integration/test_golden_losses.py` writes a new file.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fixtures.training import toy_run, train_losses, write_corpus

from components.training.config import TrainingExecution
from components.training.run_file import ArtifactInput, StageRun
from flows.settings.recipes import recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_losses.json"
STEPS = 20
PORTABLE_ARITHMETIC = {
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
EXECUTION = TrainingExecution(micro_batch=2, zero_stage=1, precision="fp32", eval_interval=0)
NUM_SEQUENCES = 40


def test_losses_equal_the_golden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PORTABLE_ARITHMETIC.items():
        monkeypatch.setenv(name, value)
    golden = json.loads(GOLDEN.read_text())
    actual = train_losses(tmp_path / "stage", tiny_run(tmp_path), EXECUTION)
    assert actual[-1] < actual[0] - 0.5, "the model must learn"
    if cpu_vendor() in golden["exact_on"]:
        assert [loss.hex() for loss in actual] == golden["losses"]
    else:
        np.testing.assert_allclose(
            actual, [float.fromhex(loss) for loss in golden["losses"]], rtol=1e-6
        )


def tiny_run(folder: Path) -> StageRun:
    """20 steps of the tiny recipe's NL stage, on sequences with a rule for the next number."""
    tiny = recipe("tiny")
    columns = [np.arange(NUM_SEQUENCES) * 7]
    for _ in range(tiny.model.context_length - 1):
        columns.append((columns[-1] * 5 + 3) % 293)
    corpus = write_corpus(folder / "corpus", {"train": np.stack(columns, axis=1)})
    return toy_run(folder / "inputs").replace(
        config=tiny.training.stages["nl"].replace(steps=STEPS),
        model=tiny.model,
        seed=tiny.seed,
        data=ArtifactInput(folder=str(corpus), digest="corpus"),
    )


def cpu_vendor() -> str:
    match = re.search(r"^vendor_id\s*: (\w+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else "unknown"


if __name__ == "__main__":
    os.environ.update(PORTABLE_ARITHMETIC)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        losses = train_losses(folder / "stage", tiny_run(folder), EXECUTION)
    golden = {"exact_on": [cpu_vendor()], "losses": [loss.hex() for loss in losses]}
    json.dump(golden, sys.stdout, indent=1)
