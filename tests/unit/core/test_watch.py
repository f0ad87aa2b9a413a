"""What a killed process has started ends soon after it, also what it lost sight of; nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

# A child in a session of its own that ignores SIGTERM, whose own parent is gone at once: no process tree leads to it.
_PARENT = """
import os, signal, subprocess, sys
from components.core.processes import reap_children_on_exit
reap_children_on_exit()
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
middle = (
    "import subprocess, sys; quiet = subprocess.DEVNULL; "
    "print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True, stdout=quiet, stderr=quiet).pid)"
)
print(subprocess.check_output([sys.executable, "-c", middle, sleeper], text=True), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(60)
def test_what_a_killed_process_started_ends_and_nothing_else() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL
        try:
            left = psutil.Process(int(done.stdout))
        except psutil.NoSuchProcess:
            left = None
        if left:
            left.wait(30)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert "CODEGEN_RUN_OF" not in os.environ
