"""One sandbox for all tests that execute programs; skipped, visibly, where nothing isolates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from components.evaluation.sandbox import Sandbox, open_sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """Open, with its self-test passed; where bubblewrap is there and it does not pass, that is a failure."""
    if shutil.which("bwrap") is None:
        pytest.skip("no sandbox on this machine: bubblewrap is not installed")
    with open_sandbox(workers=2) as opened:
        yield opened
