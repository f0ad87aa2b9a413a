"""One sandbox for all tests that execute programs, and MTPB's file; skipped, visibly, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.evaluation.sandbox import Sandbox, open_sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """Open, with its self-test passed; where bubblewrap is there and it does not pass, that is a failure."""
    if shutil.which("bwrap") is None:
        pytest.skip("no sandbox on this machine: bubblewrap is not installed")
    with open_sandbox(workers=2) as opened:
        yield opened


@pytest.fixture(scope="session")
def problems_file() -> Path:
    if not os.environ.get("CODEGEN_MTPB"):
        pytest.skip("MTPB's file is not there: set CODEGEN_MTPB")
    return Path(os.environ["CODEGEN_MTPB"])
