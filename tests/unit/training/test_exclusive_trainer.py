"""Two trainers never write to one folder together."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import TrainingError
from components.training.stage import exclusive_trainer


def test_a_second_trainer_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    work = tmp_path / "stage" / "work"
    with exclusive_trainer(work, rank=0), exclusive_trainer(work, rank=1):
        second = exclusive_trainer(work, rank=0, wait_s=0)
        with pytest.raises(TrainingError, match=f"another trainer is at work in {work.parent}"):
            second.__enter__()
    with exclusive_trainer(work, rank=0, wait_s=0):
        pass
