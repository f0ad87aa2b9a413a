"""The way to a tracking server: does it answer, is the SQLite file usable, and errors in our own words.

Design decision: a server is asked once, with a short deadline and before anything expensive, because MLflow's own client
retries for minutes. A SQLite file is put into write-ahead mode before MLflow opens it, so that a page that reads it never
blocks a run that writes. What happens when a server goes away later is told in `patience`.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import mlflow
import requests
from alembic.script import ScriptDirectory
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.environment_variables import (
    MLFLOW_TRACKING_CLIENT_CERT_PATH,
    MLFLOW_TRACKING_INSECURE_TLS,
    MLFLOW_TRACKING_SERVER_CERT_PATH,
)
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError
from urllib3.exceptions import HTTPError

from components.core.errors import TrackingError
from components.core.files import wrap_disk_full
from components.core.network import is_http_uri, redact_credentials

T = TypeVar("T")

PROBE_TIMEOUT_S = 4.0
"""How long a server may take to accept, and again to answer. Assumption: a healthy one needs milliseconds."""

_SQLITE = "sqlite:///"
_BUSY_TIMEOUT_S = 20.0
"""How long a writer waits for another; MLflow's own sessions wait as long."""
_LOCKED, _BUSY_HINT = (
    "database is locked",
    "let fewer runs write at a time, or use PostgreSQL: docs/scheduling.md",
)
"""What SQLite says then, and what helps."""

_LOG_LEVELS = {
    "alembic": logging.WARNING,  # It tells every migration of a new database's schema.
    "mlflow.store.db.utils": logging.CRITICAL,  # It prints the traceback of errors that it raises, and we report.
    "mlflow.system_metrics.system_metrics_monitor": logging.WARNING,  # It tells every start and end.
}


def absolute(uri: str) -> str:
    """The URI with a relative SQLite path made absolute, so that it means the same file in every process."""
    return f"{_SQLITE}{sqlite_path(uri).resolve()}" if uri.startswith(_SQLITE) else uri


def sqlite_path(uri: str) -> Path:
    """The file of a `sqlite:///` URI."""
    return Path(uri.removeprefix(_SQLITE))


def connect(uri: str) -> MlflowClient:
    """A client of the server or database behind `uri`; a new SQLite database gets its tables.

    Raises:
        TrackingError: the server does not answer within `PROBE_TIMEOUT_S`, or the database cannot be used.
    """
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    with wrap_mlflow_errors(f"connecting to {redact_credentials(uri)}"):
        if is_http_uri(uri):
            _probe(uri)
        if not uri.startswith(_SQLITE):
            return _remote(uri)
        sqlite_path(uri).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(
            f"{sqlite_path(uri)}.lock"
        ):  # Two processes must not create the tables at once.
            _prepare(sqlite_path(uri))
            _require_current_schema(sqlite_path(uri))
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
            return client


@contextmanager
def wrap_mlflow_errors(doing: str) -> Iterator[None]:
    """Turn what MLflow raises inside into a `TrackingError`, and a full disk into a `StorageFull`."""
    with wrap_disk_full(doing):
        try:
            yield
        except (MlflowException, RequestException, SQLAlchemyError, shutil.Error) as error:
            # SQLite's words, wrapped by MLflow or not (while it makes its tables), or the system's collected by
            # shutil.copytree: the number is lost in all of them.
            if "disk is full" in str(error) or os.strerror(errno.ENOSPC) in str(error):
                raise OSError(
                    errno.ENOSPC, os.strerror(errno.ENOSPC), "in MLflow's folder"
                ) from error
            said = redact_credentials((str(error).strip() or type(error).__name__).splitlines()[0])
            raise TrackingError(
                f"MLflow refused while {doing}: {said}",
                expected="an MLflow server or database of a version that fits the installed one",
                fix=_BUSY_HINT
                if _LOCKED in str(error)
                else "mend what it says; for an old database: `codegen upgrade` copies it and brings it up to date",
            ) from error


def none_if_deleted(call: Callable[[], T]) -> T | None:
    """What a call gives; None where what it asks for is gone for good, as runs are after `mlflow gc`."""
    try:
        return call()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _remote(uri: str) -> MlflowClient:
    """A client of a server, or of a database whose driver is installed.

    Raises:
        TrackingError: the driver is not installed.
    """
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"the tracking database {redact_credentials(uri)} needs the package {error.name}, which is not installed",
            expected="a database whose driver is installed, or an MLflow server",
            fix="install a driver for it into this environment, or use sqlite:///var/mlflow/mlflow.db",
        ) from error
    return client


def is_healthy(uri: str) -> bool:
    """Whether an MLflow server is well, told within twice `PROBE_TIMEOUT_S`; a database always is."""
    try:
        if is_http_uri(uri):
            _probe(uri)
    except TrackingError:
        return False
    return True


def _probe(uri: str) -> None:
    """Ask an MLflow server for its health, once.

    Raises:
        TrackingError: no connection, no answer in time, or the answer of something else.
    """
    # With MLflow's own library and certificates: what it reaches, with USER:PASSWORD@ say, is reached here.
    trusted = not MLFLOW_TRACKING_INSECURE_TLS.get() and (
        MLFLOW_TRACKING_SERVER_CERT_PATH.get() or True
    )
    own = MLFLOW_TRACKING_CLIENT_CERT_PATH.get()
    health = f"{uri.rstrip('/')}/health"
    try:
        with requests.get(
            health, timeout=PROBE_TIMEOUT_S, stream=True, verify=trusted, cert=own
        ) as response:
            answer = next(response.iter_content(64), b"").decode(errors="replace").strip()
    # HTTPError is urllib3's, for a name that no host can have; OSError for a file of certificates that is not there.
    except (RequestException, HTTPError, OSError) as error:
        raise _no_answer(uri, f"does not answer ({_reason(error)})") from None
    if response.status_code in (401, 403):
        return  # Someone guards the server: it is there. The first real request will say what is missing.
    if not response.ok:
        answer = f"HTTP {response.status_code}"
    if answer != "OK":
        raise _no_answer(uri, f"answers {answer!r} to /health")


def _reason(error: BaseException) -> str:
    """What the system said, which libraries wrap several times."""
    while inner := error.__context__:
        error = inner
    return redact_credentials(str(error) or type(error).__name__)


def _no_answer(uri: str, said: str) -> TrackingError:
    return TrackingError(
        f"the tracking server {redact_credentials(uri)} {said}",
        expected=f"an MLflow server that answers /health with OK within {PROBE_TIMEOUT_S:.0f} s",
        fix="start the server or mend the tracking URI; sqlite:///var/mlflow/mlflow.db needs no server",
    )


def _prepare(path: Path) -> None:
    """Write-ahead logging is a property of the file and stays; setting it also shows whether it is a database."""
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise TrackingError(
            f"the tracking database {path} cannot be used: {error}",
            expected="a SQLite database that this user may write",
            fix=_BUSY_HINT
            if _LOCKED in str(error)
            else "mend its permissions, or move the file away to start with an empty one",
        ) from error


def _require_current_schema(path: Path) -> None:
    """MLflow changes an older database's schema as it opens it, mostly; that is to be asked for, and copied first.

    Raises:
        TrackingError: another version of MLflow wrote the database.
    """
    with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)) as connection:
        try:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:  # A new one, which MLflow fills.
            return
    if found and found[0] != _own_schema():
        raise TrackingError(
            f"the tracking database {path} was written by another version of MLflow (schema {found[0]})",
            expected=f"schema {_own_schema()}, that of MLflow {mlflow.__version__}",
            fix="end what uses it, then run `codegen upgrade`: it keeps a copy, and brings it up to date",
        )


@functools.cache
def _own_schema() -> str | None:
    """The newest schema that the installed MLflow knows; looked up once, since each flow of a run connects anew."""
    return ScriptDirectory(
        str(Path(mlflow.__file__).parent / "store" / "db_migrations")
    ).get_current_head()
