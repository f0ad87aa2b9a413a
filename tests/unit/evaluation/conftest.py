"""Sandboxes and the MTPB file for tests; tests are skipped visibly if they are not available."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from components.core.errors import SandboxUnavailableError
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox import Sandbox, open_sandbox
from components.evaluation.sandbox.backends import find_jail


def _skip_without(kind: SandboxKind | None) -> None:
    try:
        find_jail(kind)
    except SandboxUnavailableError as error:
        pytest.skip(f"no such sandbox on this machine: {error.got}")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """The best available sandbox; a failed self-test is a failure of the test."""
    _skip_without(None)
    with open_sandbox(workers=2) as opened:
        yield opened


@pytest.fixture(scope="session", params=get_args(SandboxKind))
def sandbox_kind(request: pytest.FixtureRequest) -> SandboxKind:
    """Every available kind of isolation in turn."""
    kind: SandboxKind = request.param
    _skip_without(kind)
    return kind


@pytest.fixture(scope="session")
def every_sandbox(sandbox_kind: SandboxKind) -> Iterator[Sandbox]:
    """A sandbox of every kind in turn."""
    with open_sandbox(workers=2, kind=sandbox_kind) as opened:
        yield opened


@pytest.fixture(scope="session")
def problems_file() -> Path:
    if not os.environ.get("CODEGEN_MTPB"):
        pytest.skip("MTPB's file is missing: set CODEGEN_MTPB")
    return Path(os.environ["CODEGEN_MTPB"])
