"""The file with the servers' credentials, and which of them a client is given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from components.core.errors import ConfigError
from flows.settings.credentials import FILE, read, read_or_create, sign_in

SERVING = {
    "prefect": "http://127.0.0.1:4200",
    "mlflow": "http://127.0.0.1:5000",
    "owns_mlflow": True,
}
NAMES = (
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any of the variables; those that a test leaves are removed."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def variables() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_the_file_is_private_from_the_start_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0)
    try:
        made = read_or_create(tmp_path)
    finally:
        os.umask(before)
    status = (tmp_path / FILE).stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())
    assert len(made.password) == 43  # 32 bytes in base64.
    assert read_or_create(tmp_path) == made
    assert read(tmp_path) == made
    assert made.password not in repr(made)


def test_two_workspaces_have_different_passwords(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert read_or_create(tmp_path / "one") != read_or_create(tmp_path / "two")


def test_a_shell_can_load_it(tmp_path: Path) -> None:
    made = read_or_create(tmp_path)
    script = f". {tmp_path / FILE}; echo $PREFECT_API_AUTH_STRING $MLFLOW_TRACKING_USERNAME $MLFLOW_TRACKING_PASSWORD"
    printed = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [made.auth_string, made.user, made.password]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_followed(tmp_path: Path, exists: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    if exists:
        (tmp_path / "other").mkdir()
        read_or_create(tmp_path / "other")
        (tmp_path / "other" / FILE).rename(elsewhere)
    (tmp_path / FILE).symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"is a symbolic link(.|\n)*delete it"):
        read_or_create(tmp_path)
    assert elsewhere.exists() == exists


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


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).touch(0o600)
    with pytest.raises(ConfigError, match="has no line"):
        read_or_create(tmp_path)


def test_a_client_of_our_servers_signs_in(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    made = read_or_create(tmp_path)
    environment.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    environment.setenv("PREFECT_API_AUTH_STRING", "of:an-older-workspace")
    sign_in(tmp_path, SERVING, "http://127.0.0.1:5000/", runs=True)
    assert variables() == {
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "PREFECT_API_AUTH_STRING": made.auth_string,
        "MLFLOW_TRACKING_USERNAME": made.user,
        "MLFLOW_TRACKING_PASSWORD": made.password,
    }


@pytest.mark.parametrize(
    "serving", [None, {**SERVING, "mlflow": "https://mlflow.team.example", "owns_mlflow": False}]
)
def test_a_teams_server_gets_the_credentials_of_the_user(
    tmp_path: Path, environment: pytest.MonkeyPatch, serving: dict[str, object] | None
) -> None:
    if serving:
        read_or_create(tmp_path)
    given = {
        "PREFECT_API_URL": "https://prefect.team.example/api",
        "PREFECT_API_AUTH_STRING": "ada:lovelace",
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": "lovelace",
    }
    for name, value in given.items():
        environment.setenv(name, value)
    sign_in(tmp_path, serving, "https://mlflow.team.example", runs=True)
    assert variables() == given
    assert (tmp_path / FILE).exists() == bool(serving)


def test_a_server_of_a_profile_is_a_teams_server(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(
        'active = "team"\n[profiles.team]\nPREFECT_API_URL = "https://prefect.team.example/api"\n'
    )
    environment.setenv("PREFECT_PROFILES_PATH", str(profiles))
    sign_in(tmp_path, None, "sqlite:///mlflow.db", runs=True)
    assert variables() == {}


def test_a_temporary_server_has_a_password_of_its_own(
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
    sign_in(
        tmp_path, None, "sqlite:///mlflow.db", runs=True
    )  # In a process that the first one has started.
    assert variables() == first
    assert not (tmp_path / FILE).exists()
