"""Updates the records of a workspace that was moved or copied.

MLflow stores absolute paths of files. In a workspace, `mlflow/mlflow.db` is beside
`mlflow/artifacts`, the location of its experiments. If an experiment names another folder, the
workspace was moved or copied: every text of the database that contains the path of the old
workspace gets the path of the new one. So a copy never writes into the original. The manifests of
the store need no update.

Several workspaces may share a database outside of them. Its experiments move with a workspace if
their folder is gone and the workspace has files of their runs.

Limits: only SQLite databases are updated. A copy of a workspace with a database outside of it
shares the experiments of the original, whose files stay where they are.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.core.sqlite import BUSY_TIMEOUT_S

logger = logging.getLogger(__name__)


def relocate(database: Path, artifacts: Path) -> None:
    """Replace the path of the old workspace in a moved or copied database.

    Args:
        database: the database, with MLflow's current schema.
        artifacts: the folder of the workspace for files of runs.
    """
    with closing(sqlite3.connect(database, timeout=BUSY_TIMEOUT_S)) as connection:
        for old_artifacts in _other_locations(connection, database, artifacts):
            old, new = old_artifacts.parents[1], artifacts.parents[1]
            with connection:
                _replace_paths(connection, old, new)
            message = "the workspace was moved or copied from %s; its MLflow records now name %s"
            logger.warning(message, old, new)


def _other_locations(
    connection: sqlite3.Connection, database: Path, artifacts: Path
) -> Iterator[Path]:
    """Yield the former folders for files of runs."""
    try:
        rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    except sqlite3.OperationalError:  # MLflow has not created the tables yet.
        return
    is_outside = database.parent != artifacts.parent
    for (location,) in rows:
        url = urlsplit(location or "")
        folder = Path(unquote(url.path))
        is_workspace = url.scheme == "file" and folder.parts[-2:] == artifacts.parts[-2:]
        if not is_workspace or folder == artifacts:
            continue
        if is_outside:
            if not folder.exists() and _has_files_of(connection, location, artifacts):
                yield folder
            continue
        # The same folder under two paths needs no update. If the old folder has no database, two
        # workspaces may use this database on purpose.
        old_database = folder.parent / database.name
        is_copy = old_database.exists() and not old_database.samefile(database)
        if is_copy or not folder.exists():
            yield folder


def _has_files_of(connection: sqlite3.Connection, location: str, artifacts: Path) -> bool:
    """Return whether a folder has files of a run of the experiments at a location."""
    run_ids = connection.execute(
        "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) "
        "WHERE artifact_location = ?",
        (location,),
    )
    return any((artifacts / run_id).exists() for (run_id,) in run_ids)


def _replace_paths(connection: sqlite3.Connection, old: Path, new: Path) -> None:
    """Replace the path of a folder in every text column, plain and in URIs."""
    prefixes = {
        f"{old}/": f"{new}/",
        f"{old.as_uri()}/": f"{new.as_uri()}/",
        f"sqlite:///{old}/": f"sqlite:///{new}/",
    }
    # A path starts after a character that cannot be a part of it; in one pass, since the new path
    # can contain the old path.
    path = re.compile(rf"(?<![\w/.-])(?:{'|'.join(map(re.escape, prefixes))})")
    connection.create_function(
        "relocated", 1, lambda text: path.sub(lambda match: prefixes[match[0]], text)
    )
    for table, column in _text_columns(connection):
        connection.execute(
            f'UPDATE "{table}" SET "{column}" = relocated("{column}") '  # noqa: S608
            f'WHERE instr("{column}", ?) OR instr("{column}", ?)',
            (f"{old}/", f"{old.as_uri()}/"),
        )


def _text_columns(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    query = (
        "SELECT tables.name, columns.name FROM sqlite_master tables, "
        "pragma_table_info(tables.name) columns WHERE tables.type = 'table' "
        "AND (columns.type LIKE '%CHAR%' OR columns.type LIKE '%TEXT%')"
    )
    yield from connection.execute(query).fetchall()
