"""What all tests share. That this file lies here puts `tests/` on the path, so helpers are imported
as `fixtures.*`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.archives import build_archives
from fixtures.projects import FixtureArchives, new_project
from fixtures.s3 import in_environment, s3_server
from hypothesis import settings

# How long an example takes is the machine's affair: beside other work a first one met the default
# of 200 ms.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


@pytest.fixture(scope="session")
def fixture_archives(tmp_path_factory: pytest.TempPathFactory) -> FixtureArchives:
    """The preset "tiny", made of small archives. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("archives")
    return FixtureArchives(folder, build_archives(folder))


@pytest.fixture(scope="session", autouse=True)
def _dvc_keeps_its_state_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """DVC's table of known hashes would otherwise lie in /var/tmp and outlive the tests."""
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
