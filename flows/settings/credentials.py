"""The credentials of the Prefect and MLflow servers that we start: generated, kept in a private file, given to clients.

`codegen ui` and `codegen serve` create `servers.env` in the workspace at the first start and reuse it afterwards. It is a
shell script, so that a person can read the credentials or load them (`. var/servers.env`). Processes receive them through
their environment only: never as arguments, in `servers.json`, or in anything that Prefect or MLflow store.
If PREFECT_API_URL names a server that we did not start, nothing here applies.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.core.errors import ConfigError
from components.core.files import wrap_disk_full

FILE = "servers.env"
"""In the workspace."""
_USER = "codegen"
_PASSWORD_BYTES = 32
"""256 bits, so that it cannot be guessed. The default of Python's `secrets`."""
_MODE = 0o600
_NO_ORIGIN = "none"
"""No page has this origin. Prefect's default, `*`, lets every page read what its server answers."""
_TEXT = """\
# The credentials of the Prefect and MLflow servers that `codegen ui` and `codegen serve` start over this workspace.
# Prefect's page asks for a password: type the whole first value. MLflow's page asks for the user name and the password.
# For commands in another shell: . servers.env
# To replace them: stop the servers, delete this file, start the servers.
export PREFECT_API_AUTH_STRING={user}:{password}
export MLFLOW_TRACKING_USERNAME={user}
export MLFLOW_TRACKING_PASSWORD={password}
"""


class Credentials(NamedTuple):
    """What a client of the two servers signs in with."""

    user: str
    password: str

    @property
    def auth_string(self) -> str:
        """Both in one text, as Prefect takes them."""
        return f"{self.user}:{self.password}"

    def __repr__(self) -> str:
        """Without the password, so that no log or traceback shows it."""
        return f"Credentials(user={self.user!r}, password='***')"


def generate() -> Credentials:
    """New credentials, which exist nowhere else."""
    return Credentials(_USER, secrets.token_urlsafe(_PASSWORD_BYTES))


def read_or_create(workspace: Path) -> Credentials:
    """The credentials of a workspace; generated if there are none yet.

    Raises:
        ConfigError: the file is a link, readable by others, another user's, or not in the expected form.
        StorageFull: no room for the file.
    """
    path, made = workspace / FILE, generate()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, _MODE)
    except FileExistsError:
        return read(workspace)
    with wrap_disk_full(f"writing {FILE}"), os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_TEXT.format(user=made.user, password=made.password))
    return made


def read(workspace: Path) -> Credentials:
    """The credentials of a workspace.

    Raises:
        FileNotFoundError: none were generated.
        ConfigError: the file is a link, readable by others, another user's, or not in the expected form.
    """
    path = workspace / FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:  # ELOOP is what O_NOFOLLOW reports for a link.
        raise _unsafe(
            path, "is a symbolic link" if path.is_symlink() else str(error.strerror)
        ) from None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _unsafe(path, "is not a regular file")
        if status.st_uid != os.geteuid():
            raise _unsafe(path, f"belongs to user {status.st_uid}, not to {os.geteuid()}")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise _unsafe(path, f"can be read or changed by others (mode {mode:o})")
        found = re.search(
            r"^export PREFECT_API_AUTH_STRING=([\w-]+):([\w-]+)$", file.read(), re.MULTILINE
        )
    if found is None:
        raise _unsafe(path, "has no line `export PREFECT_API_AUTH_STRING=USER:PASSWORD`")
    return Credentials(found[1], found[2])


def _unsafe(path: Path, fact: str) -> ConfigError:
    return ConfigError(
        f"{path}, which holds the credentials of the servers, {fact}",
        expected=f"a regular file of this user with mode {_MODE:o}",
        fix="stop the servers, delete it, and start the servers: they generate new credentials",
    )


def sign_in(
    workspace: Path, serving: Mapping[str, Any] | None, tracking_uri: str, *, runs: bool
) -> None:
    """Set the environment variables with which Prefect's and MLflow's clients sign in, here and in child processes.

    For a server that we did not start nothing is set, so that the user's own variables hold.

    Args:
        workspace: the folder with the credentials.
        serving: addresses of the servers that run over this workspace, if any.
        tracking_uri: of MLflow, as the run uses it.
        runs: whether flow runs may follow, for which Prefect starts a temporary server if none is configured.
    """
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if serving:
        try:
            known = read(workspace)
        except FileNotFoundError:  # Servers of an earlier version, which asked for none.
            return
        if url == f"{serving['prefect']}/api":
            use(known)
        if serving.get("owns_mlflow") and tracking_uri.rstrip("/") == serving["mlflow"]:
            os.environ["MLFLOW_TRACKING_USERNAME"] = known.user
            os.environ["MLFLOW_TRACKING_PASSWORD"] = known.password
    elif runs and not url and not _prefect_server_is_configured():
        _protect_temporary_server()


def use(credentials: Credentials) -> None:
    """Let Prefect's client, here and in child processes, sign in to the workspace's server, which PREFECT_API_URL names."""
    os.environ["PREFECT_API_AUTH_STRING"] = credentials.auth_string
    os.environ.pop("PREFECT_SERVER_API_AUTH_STRING", None)
    _refresh_prefect()


def _prefect_server_is_configured() -> bool:
    """Whether Prefect finds the address of a server in the environment, a profile, or a file in the working directory."""
    from prefect.settings.models.root import Settings

    return bool(Settings().api.url)


def _protect_temporary_server() -> None:
    """Give the temporary server that Prefect starts for a run a secret of its own, which ends with this process."""
    there = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if not there or there != os.environ.get("PREFECT_API_AUTH_STRING"):
        there = generate().auth_string
    os.environ["PREFECT_API_AUTH_STRING"] = there
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = there
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = _NO_ORIGIN
    _refresh_prefect()


def _refresh_prefect() -> None:
    """Let Prefect read the environment again if it is imported already: it does so once, as it is imported."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
