"""Fixtures of all tests. pytest puts the folder of this file on the path, so that tests import
`fixtures.*`."""

from __future__ import annotations

import gc
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.archives import build_archives
from fixtures.projects import FixtureArchives, new_project
from fixtures.s3 import in_environment, s3_server
from hypothesis import settings

# The garbage collector would traverse a million objects of imported modules again and again: 5.7 of
# the 23 s of processor time in which pytest collects the tests.
gc.disable()


def pytest_collection_finish() -> None:
    """Start the garbage collector, and exempt the objects of the imported modules."""
    gc.freeze()
    gc.enable()


# On a busy machine, a first example took longer than Hypothesis's limit of 200 ms.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

# A shell starts background jobs of a script with SIGINT ignored, and child processes inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fixture_archives(tmp_path_factory: pytest.TempPathFactory) -> FixtureArchives:
    """The preset "tiny", made of small archives. Tests must not change it."""
    folder = tmp_path_factory.mktemp("archives")
    return FixtureArchives(folder, build_archives(folder))


@pytest.fixture(scope="session", autouse=True)
def _private_dvc_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep DVC's table of known hashes, by default in /var/tmp, in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        yield


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty folder under DVC, not under git."""
    return new_project(tmp_path / "project")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server that all tests of a process share."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def _s3(s3_endpoint: str) -> Iterator[str]:
    with in_environment(s3_endpoint, "team") as bucket:
        yield bucket


@pytest.fixture
def s3(_s3: str) -> str:
    """A root of its own in a real S3 bucket, as `s3://bucket/prefix`."""
    return f"{_s3}/{uuid.uuid4().hex}"
