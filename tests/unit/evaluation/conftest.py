"""Sandboxes and the MTPB file for tests; tests are skipped visibly if they are not available."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import cast, get_args

import pytest

from components.core.errors import SandboxUnavailableError
from components.evaluation.config import SandboxKind
from components.evaluation.sandbox import Sandbox, open_sandbox
from components.evaluation.sandbox.backends import find_jail
from components.evaluation.scoring.program_executor import ProgramExecutor


def _skip_without(kind: SandboxKind | None) -> None:
    try:
        find_jail(kind)
    except SandboxUnavailableError as error:
        pytest.skip(f"no such sandbox on this machine: {error.got}")


OpenSandbox = Callable[[SandboxKind, int], Sandbox]


@pytest.fixture(scope="session")
def open_shared_sandbox() -> Iterator[OpenSandbox]:
    """Opens a sandbox of a kind and a number of workers once: its self-test takes seconds."""
    with ExitStack() as stack:

        @cache
        def open_once(kind: SandboxKind, workers: int) -> Sandbox:
            return stack.enter_context(open_sandbox(workers, kind=kind))

        yield open_once


@pytest.fixture(scope="session")
def sandbox(open_shared_sandbox: OpenSandbox) -> Sandbox:
    """The best available sandbox; a failed self-test is a failure of the test."""
    _skip_without(None)
    return open_shared_sandbox(cast(SandboxKind, find_jail(None).kind), 2)


@pytest.fixture(scope="session")
def executor() -> Iterator[ProgramExecutor]:
    """An executor that tests share, as the evaluations of a flow do."""
    _skip_without(None)
    with ProgramExecutor(workers=2) as opened:
        yield opened


@pytest.fixture(scope="session", params=get_args(SandboxKind))
def sandbox_kind(request: pytest.FixtureRequest) -> SandboxKind:
    """Every available kind of isolation in turn."""
    kind: SandboxKind = request.param
    _skip_without(kind)
    return kind


@pytest.fixture(scope="session")
def every_sandbox(sandbox_kind: SandboxKind, open_shared_sandbox: OpenSandbox) -> Sandbox:
    """A sandbox of every kind in turn."""
    return open_shared_sandbox(sandbox_kind, 2)


@pytest.fixture(scope="session")
def single_jail(sandbox_kind: SandboxKind, open_shared_sandbox: OpenSandbox) -> Sandbox:
    """A sandbox of a single jail, of every kind in turn: one program runs after another."""
    return open_shared_sandbox(sandbox_kind, 1)


@pytest.fixture(scope="session")
def problems_file() -> Path:
    if not os.environ.get("CODEGEN_MTPB"):
        pytest.skip("MTPB's file is missing: set CODEGEN_MTPB")
    return Path(os.environ["CODEGEN_MTPB"])
