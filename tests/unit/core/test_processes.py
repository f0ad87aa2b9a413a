"""The watchdog ends all descendants of a killed process, and no other process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

# A detached child that ignores SIGTERM and whose parent has exited: it is in no process tree.
_PARENT = """
import os, signal, subprocess, sys
from components.core.processes import reap_children_on_exit
reap_children_on_exit()
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
middle = (
    "import subprocess, sys; quiet = subprocess.DEVNULL; "
    "child = [sys.executable, '-c', sys.argv[1]]; "
    "print(subprocess.Popen(child, start_new_session=True, stdout=quiet, stderr=quiet).pid)"
)
print(subprocess.check_output([sys.executable, "-c", middle, sleeper], text=True), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(60)
def test_descendants_of_a_killed_process_end_and_no_other_process() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL
        try:
            descendant = psutil.Process(int(done.stdout))
        except psutil.NoSuchProcess:
            descendant = None
        if descendant:
            descendant.wait(30)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert "CODEGEN_RUN_OF" not in os.environ
