"""Freed memory that stays with the process: seen by the page faults of work that allocates the same again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from components.core.host_memory import tune_malloc_thresholds
if sys.argv[1] == "keep":
    assert tune_malloc_thresholds()
def work():
    for _ in range(20):
        np.ones(6_000_000)  # 48 MB: glibc maps and unmaps that by default, however often it is done
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(
        subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_the_same_array_again_is_not_mapped_again() -> None:
    assert faults("keep") < 1000 < 5000 < faults("leave")
