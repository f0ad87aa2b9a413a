"""Generates, stores and loads the credentials of the Prefect and MLflow servers that we start.

The first `codegen ui` or `codegen serve` creates `servers.env` in the workspace; later starts reuse
it. The file is a shell script that users can read or load (`. var/servers.env`). Processes get the
credentials through environment variables only: never as arguments, in `servers.json`, or in data of
Prefect or MLflow. Servers that we did not start keep their own.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import ConfigError
from components.core.files import write_atomic
from components.core.locks import exclusive_lock

FILE = "servers.env"
"""In the workspace."""
_USER = "codegen"
_PASSWORD_BYTES = 32
"""256 bits, the default of Python's `secrets`."""
_MODE = 0o600
_MAX_BYTES = 10_000
"""More than ten times the size of the file."""
_NO_ORIGIN = "none"
"""An origin that no page has. With Prefect's default, `*`, every page can read responses of the
server."""
_TEMPLATE = """\
# The credentials of the Prefect and MLflow servers that `codegen ui` and `codegen serve` start.
# The Prefect UI asks for a password: enter the whole first value. The MLflow UI asks for the user
# name and the password.
# For commands in another shell: . servers.env
# To replace them: stop the servers, delete this file, start the servers.
export PREFECT_API_AUTH_STRING={user}:{password}
export MLFLOW_TRACKING_USERNAME={user}
export MLFLOW_TRACKING_PASSWORD={password}
"""


class Credentials(NamedTuple):
    """User name and password of a client of the two servers."""

    user: str
    password: str

    @property
    def auth_string(self) -> str:
        """`USER:PASSWORD`, the form that Prefect reads."""
        return f"{self.user}:{self.password}"

    @classmethod
    def parse(cls, auth_string: str) -> Credentials:
        """Read Prefect's form."""
        user, _, password = auth_string.partition(":")
        return cls(user, password)

    def __repr__(self) -> str:
        """Without the password, so that no log or traceback shows it."""
        return f"Credentials(user={self.user!r}, password='***')"


def generate() -> Credentials:
    """Return new random credentials."""
    return Credentials(_USER, secrets.token_urlsafe(_PASSWORD_BYTES))


def read_or_create(workspace: Path) -> Credentials:
    """Return the credentials of a workspace; generate and store them if there are none.

    Raises:
        ConfigError: the file is a link, readable by others, another user's, or malformed.
        DiskFullError: the disk is full.
    """
    with suppress(FileNotFoundError):
        return read(workspace)
    # Another process may start servers at the same time.
    with exclusive_lock(workspace / f"{FILE}.lock", "create the credentials of the servers"):
        with suppress(FileNotFoundError):
            return read(workspace)
        credentials = generate()
        text = _TEMPLATE.format(user=credentials.user, password=credentials.password)
        write_atomic(workspace / FILE, text, _MODE)
    return credentials


def read(workspace: Path) -> Credentials:
    """Return the stored credentials of a workspace.

    Raises:
        FileNotFoundError: there are none.
        ConfigError: the file is a link, readable by others, another user's, or malformed.
    """
    path = workspace / FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:  # O_NOFOLLOW reports ELOOP for a link.
        is_link = path.is_symlink()
        reason = "is a symbolic link" if is_link else f"cannot be opened ({error.strerror})"
        raise _unsafe(path, reason) from None
    try:
        _require_private(path, os.fstat(descriptor))
        text = os.read(descriptor, _MAX_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)
    match = re.search(r"^export PREFECT_API_AUTH_STRING=([\w-]+):([\w-]+)$", text, re.MULTILINE)
    if match is None:
        raise _unsafe(path, "has no line `export PREFECT_API_AUTH_STRING=USER:PASSWORD`")
    return Credentials(match[1], match[2])


def _require_private(path: Path, status: os.stat_result) -> None:
    """Check that an open file is a regular file that only this user can read and change."""
    if not stat.S_ISREG(status.st_mode):
        raise _unsafe(path, "is not a regular file")
    if status.st_uid != os.geteuid():
        raise _unsafe(path, f"belongs to user {status.st_uid}, not to {os.geteuid()}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise _unsafe(path, f"can be read or changed by others (mode {mode:o})")


def _unsafe(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path}, which holds the credentials of the servers, {reason}",
        expected=f"a regular file of this user with mode {_MODE:o}",
        fix="stop the servers, delete the file and start the servers: they generate new "
        "credentials",
    )


def sign_in(
    workspace: Path, servers: Mapping[str, Any] | None, tracking_uri: str, *, runs: bool
) -> None:
    """Set the environment variables that sign in the clients of Prefect and MLflow, for this
    process and its children.

    Nothing is set for a server that we did not start, so the user's own variables hold.

    Args:
        workspace: the folder with the credentials.
        servers: addresses of the servers that run over this workspace, if any.
        tracking_uri: the MLflow tracking URI of the run.
        runs: whether flow runs may follow. Prefect starts a temporary server for them if no server
            is configured.
    """
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if servers:
        try:
            credentials = read(workspace)
        except FileNotFoundError:  # It was deleted while the servers run; they refuse this client.
            return
        if url == f"{servers['prefect']}/api":
            use(credentials)
        if servers["owns_mlflow"] and tracking_uri.rstrip("/") == servers["mlflow"]:
            os.environ["MLFLOW_TRACKING_USERNAME"] = credentials.user
            os.environ["MLFLOW_TRACKING_PASSWORD"] = credentials.password
    elif runs and not url and not _prefect_server_is_configured():
        _protect_temporary_server()


def use(credentials: Credentials) -> None:
    """Sign in Prefect's client, in this process and its children, to the server of the
    workspace."""
    os.environ["PREFECT_API_AUTH_STRING"] = credentials.auth_string
    os.environ.pop("PREFECT_SERVER_API_AUTH_STRING", None)
    refresh_prefect()


def _prefect_server_is_configured() -> bool:
    """Return whether the environment, a profile, or a file in the working directory names a Prefect
    server."""
    from prefect.settings.models.root import Settings

    return bool(Settings().api.url)


def _protect_temporary_server() -> None:
    """Set a secret for the temporary server that Prefect starts for a run; it expires with this
    process."""
    secret = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if not secret or secret != os.environ.get("PREFECT_API_AUTH_STRING"):
        secret = generate().auth_string
    os.environ["PREFECT_API_AUTH_STRING"] = secret
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = secret
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = _NO_ORIGIN
    refresh_prefect()


def refresh_prefect() -> None:
    """Make Prefect read the environment again if it is imported; it reads the environment once, at
    import."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
