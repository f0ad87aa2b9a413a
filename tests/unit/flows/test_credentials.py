"""The credentials file of the servers, and the credentials that clients get."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.core.errors import ConfigError
from flows.settings.credentials import FILE, read, read_or_create, sign_in

SERVERS = {
    "prefect": "http://127.0.0.1:4200",
    "mlflow": "http://127.0.0.1:5000",
    "owns_mlflow": True,
}
VARIABLES = (
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without the variables; removes them again after the test."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def variables() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_the_file_is_created_private_and_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    umask = os.umask(0)
    try:
        credentials = read_or_create(tmp_path)
    finally:
        os.umask(umask)
    status = (tmp_path / FILE).stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())
    assert len(credentials.password) == 43  # 32 bytes in base64.
    assert read_or_create(tmp_path) == credentials
    assert read(tmp_path) == credentials
    assert credentials.password not in repr(credentials)


def test_servers_that_start_at_the_same_time_get_the_same_password(tmp_path: Path) -> None:
    workspaces = [tmp_path / str(index) for index in range(50)]
    with ThreadPoolExecutor(8) as pool:
        for workspace in workspaces:
            workspace.mkdir()
            assert len(set(pool.map(read_or_create, [workspace] * 8))) == 1
            assert {path.name for path in workspace.iterdir()} == {FILE, f"{FILE}.lock"}


def test_a_folder_or_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_or_create(tmp_path)
    (tmp_path / FILE).rmdir()
    (tmp_path / FILE).touch(0o600)
    (tmp_path / FILE).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="has no line"):
        read_or_create(tmp_path)


def test_two_workspaces_have_different_passwords(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert read_or_create(tmp_path / "a") != read_or_create(tmp_path / "b")


def test_a_shell_can_load_the_file(tmp_path: Path) -> None:
    credentials = read_or_create(tmp_path)
    names = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    script = f". {tmp_path / FILE}; echo {' '.join(f'${name}' for name in names)}"
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [
        credentials.auth_string,
        credentials.user,
        credentials.password,
    ]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_followed(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "target"
    if exists:
        (tmp_path / "other").mkdir()
        read_or_create(tmp_path / "other")
        (tmp_path / "other" / FILE).rename(target)
    (tmp_path / FILE).symlink_to(target)
    with pytest.raises(ConfigError, match=r"is a symbolic link(.|\n)*delete the file"):
        read_or_create(tmp_path)
    assert target.exists() == exists


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    read_or_create(tmp_path)
    (tmp_path / FILE).chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:o}"):
        read_or_create(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    read_or_create(tmp_path)
    os.chown(tmp_path / FILE, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        read(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).touch(0o600)
    with pytest.raises(ConfigError, match="has no line"):
        read_or_create(tmp_path)


def test_a_client_of_our_servers_gets_the_credentials_of_the_workspace(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    credentials = read_or_create(tmp_path)
    environment.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    environment.setenv("PREFECT_API_AUTH_STRING", "of:an-older-workspace")
    sign_in(tmp_path, SERVERS, "http://127.0.0.1:5000/", runs=True)
    assert variables() == {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "PREFECT_API_AUTH_STRING": credentials.auth_string,
        "MLFLOW_TRACKING_USERNAME": credentials.user,
        "MLFLOW_TRACKING_PASSWORD": credentials.password,
    }


@pytest.mark.parametrize(
    "servers", [None, {**SERVERS, "mlflow": "https://mlflow.team.example", "owns_mlflow": False}]
)
def test_a_client_of_another_server_keeps_the_credentials_of_the_user(
    tmp_path: Path, environment: pytest.MonkeyPatch, servers: dict[str, object] | None
) -> None:
    if servers:
        read_or_create(tmp_path)
    user_variables = {
        "PREFECT_API_URL": "https://prefect.team.example/api",
        "PREFECT_API_AUTH_STRING": "ada:lovelace",
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": "lovelace",
    }
    for name, value in user_variables.items():
        environment.setenv(name, value)
    sign_in(tmp_path, servers, "https://mlflow.team.example", runs=True)
    assert variables() == user_variables
    assert (tmp_path / FILE).exists() == bool(servers)


def test_a_server_of_a_prefect_profile_gets_no_generated_credentials(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(
        'active = "team"\n[profiles.team]\nPREFECT_API_URL = "https://prefect.team.example/api"\n'
    )
    environment.setenv("PREFECT_PROFILES_PATH", str(profiles))
    sign_in(tmp_path, None, "sqlite:///mlflow.db", runs=True)
    assert variables() == {}


def test_a_temporary_server_gets_its_own_password(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.chdir(tmp_path)
    environment.setenv("PREFECT_API_AUTH_STRING", "of:a-server-that-ended")
    sign_in(tmp_path, None, "sqlite:///mlflow.db", runs=True)
    first = variables()
    assert (
        first["PREFECT_API_AUTH_STRING"]
        == first["PREFECT_SERVER_API_AUTH_STRING"]
        != "of:a-server-that-ended"
    )
    assert first["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] != "*"
    # A child process of the first run.
    sign_in(tmp_path, None, "sqlite:///mlflow.db", runs=True)
    assert variables() == first
    assert not (tmp_path / FILE).exists()
