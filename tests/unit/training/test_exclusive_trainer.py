"""Two trainers never write to the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import StageLockedError
from components.training.stage import exclusive_trainer


def test_a_second_trainer_is_refused_while_the_first_is_running(tmp_path: Path) -> None:
    work = tmp_path / "stage" / "work"
    with exclusive_trainer(work, rank=0), exclusive_trainer(work, rank=1):
        second = exclusive_trainer(work, rank=0, timeout_s=0)
        with pytest.raises(StageLockedError) as refused:
            second.__enter__()
    assert str(work.parent) in refused.value.got
    with exclusive_trainer(work, rank=0, timeout_s=0):
        pass
