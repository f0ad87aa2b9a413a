"""Connections to MLflow: health check, SQLite setup, and translation of MLflow's errors.

A server is probed once with a short timeout before anything expensive, because MLflow's own client
retries for minutes. A new SQLite file is published complete, with all of its tables, so that a
killed process leaves no part of a database. It is put into write-ahead mode before MLflow opens it,
so that readers never block a run that writes. `retry` handles outages after the first connection.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar, cast

import mlflow
import requests
from alembic.script import ScriptDirectory
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.environment_variables import (
    MLFLOW_TRACKING_CLIENT_CERT_PATH,
    MLFLOW_TRACKING_INSECURE_TLS,
    MLFLOW_TRACKING_SERVER_CERT_PATH,
)
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from requests import RequestException
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool
from urllib3.exceptions import HTTPError

from components.core.errors import TrackingError
from components.core.files import wrap_disk_full, write_atomic
from components.core.network import is_http_uri, redact_credentials
from components.core.sqlite import BUSY_TIMEOUT_S, sqlite_path, sqlite_url
from components.registry.client.relocation import relocate

T = TypeVar("T")

PROBE_TIMEOUT_S = 4.0
"""Timeout for connecting and for reading. Assumption: a healthy server answers in milliseconds."""

_LOCKED = "database is locked"
_DELETED = r"The (experiment|run) (\w+) must be in the 'active' state"
"""MLflow keeps deleted experiments and runs until `mlflow gc`, and refuses to write to them."""
_UNKNOWN_MODEL = r"Registered Model with name=(\S+) not found"
_BUSY_HINT = "reduce the number of concurrent writers, or use PostgreSQL: docs/scheduling.md"

_LOG_LEVELS = {
    "alembic": logging.WARNING,  # logs every migration of a new database
    "mlflow.store.db.utils": logging.CRITICAL,  # logs tracebacks of errors that it also raises
    "mlflow.system_metrics.system_metrics_monitor": logging.WARNING,  # logs each start and stop
}

_MAX_EXPERIMENTS = 1000
"""Of a search; more than a server has (assumption)."""


def absolute_uri(uri: str) -> str:
    """Return the URI with an absolute SQLite path, which is the same file for every process."""
    path = sqlite_path(uri)
    return uri if path is None else sqlite_url(path.resolve())


def connect(uri: str, artifacts: Path) -> MlflowClient:
    """Return a client of a server or database; create a new SQLite database.

    Args:
        uri: as `absolute_uri` returns it.
        artifacts: the folder of the workspace for files of runs, see `relocate`.

    Raises:
        TrackingError: no answer within `PROBE_TIMEOUT_S`, or the database cannot be used.
    """
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    with wrap_mlflow_errors(f"connecting to {redact_credentials(uri)}"):
        if is_http_uri(uri):
            _probe(uri)
        path = sqlite_path(uri)
        if path is None:
            return _open_client(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # Two processes must not create or relocate it concurrently.
            if not path.exists():
                _create_database(path)
            _enable_write_ahead_log(path)
            _require_current_schema(path)
            relocate(path, artifacts)
            return _open_client(uri)


def _create_database(path: Path) -> None:
    """Create MLflow's tables in memory and publish the file in one step.

    In memory it also takes half of the time: 4 instead of 10 s on a busy machine (measured).
    """
    from mlflow.store.db import utils
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401 - defines the tables

    engine = create_engine("sqlite://", poolclass=StaticPool)
    try:
        utils._initialize_tables(engine)
        with closing(engine.raw_connection()) as connection:
            database = cast(sqlite3.Connection, connection.driver_connection)
            write_atomic(path, database.serialize())
    finally:
        engine.dispose()


@contextmanager
def wrap_mlflow_errors(activity: str) -> Iterator[None]:
    """Convert MLflow's exceptions to `TrackingError` and a full disk to `DiskFullError`."""
    with wrap_disk_full(activity):
        try:
            yield
        except (MlflowException, RequestException, SQLAlchemyError, shutil.Error) as error:
            text = str(error)
            # SQLite and shutil.copytree report a full disk as text only, without the errno.
            no_space = os.strerror(errno.ENOSPC)
            if "disk is full" in text or no_space in text:
                raise OSError(errno.ENOSPC, no_space, "in MLflow's folder") from error
            if deleted := re.search(_DELETED, text):
                raise _deleted(deleted[1], deleted[2], activity) from error
            if unknown := re.search(_UNKNOWN_MODEL, text):
                raise TrackingError(
                    f"the registry has no model {unknown[1]}",
                    expected="the name of a registered model",
                    fix="choose one of `codegen models list`, or register one with "
                    "`codegen promote`",
                ) from error
            fix = (
                "fix the reported problem; for a database of an older MLflow: `codegen db upgrade`"
            )
            first_line = (text.strip() or type(error).__name__).splitlines()[0]
            raise TrackingError(
                f"MLflow failed while {activity}: {redact_credentials(first_line)}",
                expected="an MLflow server or database compatible with the installed MLflow",
                fix=_BUSY_HINT if _LOCKED in text else fix,
            ) from error


def _deleted(kind: str, object_id: str, activity: str) -> TrackingError:
    uri = shlex.quote(redact_credentials(mlflow.get_tracking_uri()))
    fix = f"restore it: `MLFLOW_TRACKING_URI={uri} mlflow {kind}s restore --{kind}-id {object_id}`"
    if kind == "run":
        fix += "; if its whole experiment is deleted, use `mlflow experiments restore`"
    return TrackingError(
        f"{activity} failed: the MLflow {kind} {object_id} is deleted",
        expected=f"an active {kind}",
        fix=fix,
    )


def none_if_deleted(call: Callable[[], T]) -> T | None:
    """Return the result of a call, or None if the object no longer exists (`mlflow gc`)."""
    try:
        return call()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def list_experiment_ids(client: MlflowClient, view_type: int = ViewType.ACTIVE_ONLY) -> list[str]:
    """Return the ids of all experiments of a server."""
    experiments = client.search_experiments(max_results=_MAX_EXPERIMENTS, view_type=view_type)
    return [experiment.experiment_id for experiment in experiments]


def read_pages(read_page: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    """Yield the items of all pages of a search.

    Args:
        read_page: returns the page with a token; None is the token of the first page.
    """
    page = read_page(None)
    yield from page
    while page.token:
        page = read_page(page.token)
        yield from page


def _open_client(uri: str) -> MlflowClient:
    """Return a client that has completed a request.

    Raises:
        TrackingError: the database driver is not installed.
    """
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"the tracking database {redact_credentials(uri)} needs the package {error.name}, "
            "which is not installed",
            expected="a database whose driver is installed, or an MLflow server",
            fix="install the driver, or use sqlite:///var/mlflow/mlflow.db",
        ) from error
    return client


def is_healthy(uri: str) -> bool:
    """Whether a server answers its health check within twice `PROBE_TIMEOUT_S`.

    True for a database.
    """
    try:
        if is_http_uri(uri):
            _probe(uri)
    except TrackingError:
        return False
    return True


def _probe(uri: str) -> None:
    """Request `/health` once.

    Raises:
        TrackingError: no connection, a timeout, or the response of another service.
    """
    # The library and certificates of MLflow's client, so that both reach the same servers.
    verify = not MLFLOW_TRACKING_INSECURE_TLS.get() and (
        MLFLOW_TRACKING_SERVER_CERT_PATH.get() or True
    )
    try:
        with requests.get(
            f"{uri.rstrip('/')}/health",
            timeout=PROBE_TIMEOUT_S,
            stream=True,
            verify=verify,
            cert=MLFLOW_TRACKING_CLIENT_CERT_PATH.get(),
        ) as response:
            body = next(response.iter_content(64), b"").decode(errors="replace").strip()
    # urllib3's HTTPError: an invalid host name; OSError: a missing certificate file.
    except (RequestException, HTTPError, OSError) as error:
        raise _unhealthy(uri, f"does not answer ({_root_cause(error)})") from None
    if response.status_code in (401, 403):
        return  # Authentication is required, so the server runs; the first request fails clearly.
    if not response.ok:
        body = f"HTTP {response.status_code}"
    if body != "OK":
        raise _unhealthy(uri, f"answers {body!r} to /health")


def _root_cause(error: BaseException) -> str:
    """Return the innermost message; the HTTP libraries wrap it several times."""
    while inner := error.__context__:
        error = inner
    return redact_credentials(str(error) or type(error).__name__)


def _unhealthy(uri: str, problem: str) -> TrackingError:
    return TrackingError(
        f"the tracking server {redact_credentials(uri)} {problem}",
        expected=f"an MLflow server that answers /health with OK within {PROBE_TIMEOUT_S:.0f} s",
        fix="start the server or correct tracking_uri; sqlite:///var/mlflow/mlflow.db needs none",
    )


def _enable_write_ahead_log(path: Path) -> None:
    """Set the journal mode, which is stored in the file.

    Raises:
        TrackingError: the file is not a database, or it cannot be written.
    """
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        fix = "correct its permissions, or move the file away to start with an empty database"
        raise TrackingError(
            f"the tracking database {path} cannot be used: {error}",
            expected="a SQLite database with write permission",
            fix=_BUSY_HINT if _LOCKED in str(error) else fix,
        ) from error


def _require_current_schema(path: Path) -> None:
    """Refuse an older database, which MLflow would migrate in place without a copy.

    Raises:
        TrackingError: another version of MLflow wrote the database.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:  # a database without tables, which MLflow creates
            return
    if row and row[0] != _installed_schema():
        raise TrackingError(
            f"another version of MLflow wrote the tracking database {path} (schema {row[0]})",
            expected=f"schema {_installed_schema()} of MLflow {mlflow.__version__}",
            fix="stop all users of the database, then run `codegen db upgrade`, which keeps a copy",
        )


@functools.cache
def _installed_schema() -> str | None:
    """Return the newest schema of the installed MLflow; cached because each flow connects."""
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    return ScriptDirectory(str(migrations)).get_current_head()
