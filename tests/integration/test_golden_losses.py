"""The losses of the first 20 steps of the tiny recipe are those that were written down, to the last bit.

The sequences are made here, so that no corpus decides. The libraries are told to compute in the way that every x86-64
processor computes alike; should a processor differ all the same, the file says for which makers' it is exact, and on others
the losses have to agree to 1e-6. `python tests/integration/test_golden_losses.py` writes the file anew.
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
from fixtures.training import toy_run

from components.training.config import TrainingExecution
from components.training.launch.launcher import train_stage
from components.training.metrics import StepMetrics
from components.training.run_file import StageRun
from flows.settings.recipes import recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_losses.json"
STEPS = 20
SAME_EVERYWHERE = {
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
PLACE = TrainingExecution(micro_batch=2, zero_stage=1, precision="fp32", eval_interval=0)
NUM_SEQUENCES = 40


def test_they_are_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SAME_EVERYWHERE.items():
        monkeypatch.setenv(name, value)
    golden = json.loads(GOLDEN.read_text())
    found = losses(tmp_path)
    assert found[-1] < found[0] - 0.5, "it has to learn, or equal losses mean little"
    if maker() in golden["exact_on"]:
        assert [one.hex() for one in found] == golden["losses"]
    else:
        np.testing.assert_allclose(
            found, [float.fromhex(one) for one in golden["losses"]], rtol=1e-6
        )


def losses(folder: Path) -> list[float]:
    seen: list[StepMetrics] = []
    (folder / "stage").mkdir()
    train_stage(folder / "stage", tiny_run(folder), PLACE, seen.append)
    return [one.loss for one in seen if one.loss is not None]


def tiny_run(folder: Path) -> StageRun:
    """The tiny recipe's NL stage, 20 steps of it, on sequences in which every number follows from the one before."""
    tiny = recipe("tiny")
    toy = toy_run(folder / "inputs")
    corpus, context = Path(toy.data.folder), tiny.model.context_length
    columns = [np.arange(NUM_SEQUENCES) * 7]
    for _ in range(context - 1):
        columns.append((columns[-1] * 5 + 3) % 293)
    np.stack(columns, axis=1).astype("<u2").tofile(corpus / "train" / "00000.bin")
    train = {
        "shards": [{"path": "train/00000.bin", "num_sequences": NUM_SEQUENCES}],
        "num_sequences": NUM_SEQUENCES,
    }
    index = {
        "corpus": "nl",
        "context_length": context,
        "eot_id": 256,
        "num_ids": 295,
        "splits": {"train": train},
    }
    (corpus / "index.json").write_text(json.dumps(index))
    return toy.replace(
        config=tiny.training.stages.nl.replace(steps=STEPS), model=tiny.model, seed=tiny.seed
    )


def maker() -> str:
    found = re.search(r"^vendor_id\s*: (\w+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


if __name__ == "__main__":
    os.environ.update(SAME_EVERYWHERE)
    with tempfile.TemporaryDirectory() as place:
        json.dump(
            {"exact_on": [maker()], "losses": [one.hex() for one in losses(Path(place))]},
            sys.stdout,
            indent=1,
        )
