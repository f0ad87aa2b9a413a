"""The schema check of Prefect's database, and `codegen db upgrade`: migrates the databases of a
workspace to the installed MLflow and Prefect.

Each database is copied with SQLite's backup API, migrated by the tool's own command, and restored
if the migration fails. The store needs no upgrade: later versions read earlier manifests. Databases
other than SQLite are not upgraded; their administrators back them up.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, cast

from components.core.errors import ConfigError, DiskFullError
from components.core.files import require_disk_space
from components.core.network import is_http_uri
from components.core.sqlite import sqlite_path, sqlite_url
from flows.settings.execution import Execution, running_servers

_DATABASE_URL = "PREFECT_API_DATABASE_CONNECTION_URL"
_MAX_OUTPUT_CHARS = 300
"""Characters at the end of the output of a failed migration that an error shows."""


class DatabaseUpgrade(NamedTuple):
    """The result for a database."""

    name: str
    database: Path
    old_revision: str
    """Schema revision before the upgrade."""
    new_revision: str
    """Schema revision after the upgrade; the same if the database was current."""
    backup: Path | None
    """Copy of the database before the upgrade; None if the database was current."""


def workspace_database() -> Path | None:
    """Return the path of Prefect's database in the workspace; None if Prefect is configured to use
    another database."""
    database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    url = os.environ.get(_DATABASE_URL) or _prefect_url(database)
    return database if url == _prefect_url(database) else None


def require_current_schema() -> None:
    """Check the schema of Prefect's database, if it exists, before a server starts: the server
    would migrate it without a backup.

    Raises:
        ConfigError: the schema belongs to another version.
    """
    database = workspace_database()
    if database is None or not database.exists():
        return
    revision = schema_revision(database)
    if not revision:
        return
    package = Path(cast(str, cast(ModuleSpec, find_spec("prefect")).origin)).parent
    migrations = package / "server" / "database" / "_migrations"
    scripts = migrations / "versions" / "sqlite"
    # Names of scripts contain date and revision. Alembic would read a hundred files.
    if revision in max(script.name for script in scripts.glob("*.py")):
        return
    from alembic.script import ScriptDirectory

    head = ScriptDirectory(str(migrations), version_locations=[str(scripts)]).get_current_head()
    if revision != head:
        raise ConfigError(
            f"Prefect's database {database} has schema {revision}, of another version of Prefect",
            expected=f"schema {head}, of Prefect {version('prefect')}",
            fix="stop servers and runs, then run `codegen db upgrade`, which keeps a backup",
        )


def _prefect_url(database: Path) -> str:
    return sqlite_url(database, "aiosqlite")


def _run_python(arguments: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def _last_output(result: subprocess.CompletedProcess[str]) -> str:
    return (result.stderr or result.stdout).strip()[-_MAX_OUTPUT_CHARS:]


def upgrade(execution: Execution) -> Iterator[DatabaseUpgrade]:
    """Upgrade the existing databases of the workspace.

    Raises:
        ConfigError: servers or flow runs use the workspace, the tracking database is not SQLite, or
            a migration failed, and the database was restored.
        DiskFullError: a backup does not fit on the disk.
    """
    _require_idle(execution)
    prefect = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    # Migrate the file that is copied, even if Prefect is configured to use another database.
    settings = {_DATABASE_URL: _prefect_url(prefect)}
    yield from _upgrade_database(
        "Prefect", prefect, ["prefect", "server", "database", "upgrade", "--yes"], settings
    )
    uri = execution.resolved_tracking_uri
    if is_http_uri(uri):  # The administrator of the server upgrades its database.
        return
    yield from _upgrade_database(
        "MLflow", _database_path(uri), ["mlflow", "db", "upgrade", uri], {}
    )


def _require_idle(execution: Execution) -> None:
    from flows.runtime.stale_runs import active_run_ids

    users = [f"flow run {run_id}" for run_id in active_run_ids(execution)]
    if servers := running_servers(execution):
        users.insert(0, f"servers ({servers['prefect']})")
    if users:
        raise ConfigError(
            f"the workspace is in use: {', '.join(users)}",
            expected="no running servers or flow runs",
            fix="stop them, or wait until they end",
        )


def _database_path(uri: str) -> Path:
    path = sqlite_path(uri)
    if path is None:
        raise ConfigError(
            f"the tracking database is {uri.split(':', 1)[0]}, not SQLite",
            expected="an SQLite file, which can be copied",
            fix="back it up with its own tools, then run `mlflow db upgrade` on it",
        )
    return path


def _upgrade_database(
    name: str, database: Path, arguments: list[str], settings: dict[str, str]
) -> Iterator[DatabaseUpgrade]:
    """Back up and migrate a database, if it exists."""
    if not database.exists():
        return
    old_revision = schema_revision(database)
    backup = _back_up(database)
    result = _run_python(["-m", *arguments], settings)
    if result.returncode:
        _copy_database(backup, database)
        raise ConfigError(
            f"the upgrade of {name}'s database failed: {_last_output(result)}",
            expected=f"a database that {name} {old_revision or 'of any version'} wrote",
            fix=f"the database was restored and {backup} is a copy; install the version that wrote "
            "it, or report this error",
        )
    new_revision = schema_revision(database)
    if new_revision == old_revision:
        backup.unlink()
    yield DatabaseUpgrade(
        name, database, old_revision, new_revision, backup if new_revision != old_revision else None
    )


def schema_revision(database: Path) -> str:
    """Return the schema revision; empty for a database of a version before revisions."""
    with closing(sqlite3.connect(database)) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:  # No such table.
            return ""
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{database} is not a database: {error}",
                expected="an SQLite file",
                fix="move the file away; the next run creates a new database",
            ) from error
    return str(row[0]) if row else ""


def _back_up(database: Path) -> Path:
    """Copy a database beside itself, including its write-ahead log.

    Raises:
        DiskFullError: the copy does not fit on the disk.
    """
    require_disk_space(database.parent, database.stat().st_size, f"a copy of {database.name}")
    backup = database.with_name(f"{database.name}.before-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    try:
        _copy_database(database, backup)
    except sqlite3.OperationalError as error:
        raise DiskFullError(
            f"{backup} cannot be written: {error}",
            expected="disk space for a copy of the database",
            fix="free disk space",
        ) from error
    return backup


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)
