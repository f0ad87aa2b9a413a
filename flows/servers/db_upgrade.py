"""`codegen upgrade`: databases of a workspace that earlier versions of MLflow and Prefect wrote, for the installed ones.

One decision: each is copied first, by SQLite's own means, and put back where its upgrade fails; both upgrades are those of
the tools themselves. The store needs none: a manifest is read by every later version (a test reads the first one's). Not
covered: databases other than SQLite, whose administrators have backups of their own.
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
from flows.settings.execution import Execution, running_servers

_SQLITE = "sqlite:///"
_QUOTED = 300
"""Characters of a tool's last words that are shown."""


class DatabaseUpgrade(NamedTuple):
    """What became of one database."""

    name: str
    database: Path
    before: str
    after: str
    """Revisions of its schema; the same where nothing was to be done."""
    backup: Path | None
    """As it was before; None where nothing was to be done."""


def require_current_schema() -> None:
    """Check that Prefect's database is the installed version's: a server that starts would change it, without a copy.

    Raises:
        ConfigError: it is another version's; says what to do.
    """
    database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    elsewhere = os.environ.get("PREFECT_API_URL") or os.environ.get(
        "PREFECT_API_DATABASE_CONNECTION_URL"
    )
    if elsewhere or not database.exists() or not (found := _revision(database)):
        return
    package = Path(cast(str, cast(ModuleSpec, find_spec("prefect")).origin)).parent
    migrations = package / "server" / "database" / "_migrations"
    scripts = migrations / "versions" / "sqlite"
    if found in max(
        one.name for one in scripts.glob("*.py")
    ):  # Named by date and revision. Alembic reads a hundred files.
        return
    from alembic.script import ScriptDirectory

    head = ScriptDirectory(str(migrations), version_locations=[str(scripts)]).get_current_head()
    if found != head:
        raise ConfigError(
            f"Prefect's database {database} was written by another version of Prefect (schema {found})",
            expected=f"schema {head}, that of Prefect {version('prefect')}",
            fix="end what uses it, then run `codegen upgrade`: it keeps a copy, and brings it up to date",
        )


def upgrade(execution: Execution) -> Iterator[DatabaseUpgrade]:
    """Bring each database of the workspace that is there to the schema of the installed version.

    Raises:
        ConfigError: servers or flows run over the workspace, the tracking database is no SQLite, or an upgrade failed; then
            the database is as it was.
        StorageFull: no room for a copy.
    """
    from flows.runtime.stale_runs import active_run_ids

    at_work = [f"servers ({serving['prefect']})"] if (serving := running_servers(execution)) else []
    at_work += [f"the flow run {one}" for one in active_run_ids(execution)]
    if at_work:
        raise ConfigError(
            f"at work on this workspace: {', '.join(at_work)}",
            expected="nobody at work on it",
            fix="end what is, or wait",
        )
    prefect = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    # The very file that was copied, whatever database Prefect is told to use otherwise.
    this = {"PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{prefect}"}
    yield from _upgrade_database(
        "Prefect", prefect, ["prefect", "server", "database", "upgrade", "--yes"], this
    )
    uri = execution.resolved_tracking_uri
    if not is_http_uri(uri):  # A server's database is upgraded where the server is.
        yield from _upgrade_database(
            "MLflow", _tracking_file(uri), ["mlflow", "db", "upgrade", uri], {}
        )


def _tracking_file(uri: str) -> Path:
    if not uri.startswith(_SQLITE):
        raise ConfigError(
            f"the tracking database is not SQLite but {uri.split(':', 1)[0]}",
            expected="one that can be copied as a file",
            fix="back it up with its own tools, then run `mlflow db upgrade` on it",
        )
    return Path(uri.removeprefix(_SQLITE))


def _upgrade_database(
    name: str, database: Path, command: list[str], told: dict[str, str]
) -> Iterator[DatabaseUpgrade]:
    if not database.exists():
        return
    before, backup = _revision(database), _copy(database)
    command = [sys.executable, "-m", *command]
    done = subprocess.run(
        command, env=os.environ | told, capture_output=True, text=True, check=False
    )
    if done.returncode:
        _put_back(backup, database)
        raise ConfigError(
            f"the upgrade of {name}'s database failed: {(done.stderr or done.stdout).strip()[-_QUOTED:]}",
            expected=f"a database that {name} {before or 'of any version'} wrote",
            fix=f"it is as it was before, and a copy is {backup}; install the version that wrote it, or report this",
        )
    after = _revision(database)
    if after == before:
        backup.unlink()
    yield DatabaseUpgrade(name, database, before, after, backup if after != before else None)


def _revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        try:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:  # Before its makers kept count.
            return ""
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{database} is no database: {error}",
                expected="a SQLite file",
                fix="move it away; the next run makes another",
            ) from error
    return str(found[0]) if found else ""


def _copy(database: Path) -> Path:
    """A consistent copy beside the database, what lies in its write-ahead log included.

    Raises:
        StorageFull: there is no room for it.
    """
    require_disk_space(database.parent, database.stat().st_size, f"a copy of {database.name}")
    backup = database.with_name(f"{database.name}.before-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as target:
        try:
            source.backup(target)
        except sqlite3.OperationalError as error:
            raise DiskFullError(
                f"{backup} cannot be written: {error}",
                expected="room for a copy of the database",
                fix="free some room",
            ) from error
    return backup


def _put_back(backup: Path, database: Path) -> None:
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(database)) as target:
        source.backup(target)
