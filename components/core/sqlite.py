"""SQLAlchemy URLs of SQLite files, as MLflow and Prefect read them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, quote, unquote

BUSY_TIMEOUT_S = 20.0
"""How long a connection waits for another writer; MLflow's own sessions wait as long."""
_FILE_URL = "sqlite:///"


def sqlite_url(path: Path, driver: str = "pysqlite") -> str:
    """Return the URL of a database.

    SQLAlchemy takes `?` for the start of options and has no escape for it. A path with `?` is
    therefore written as a URI of SQLite itself, with an explicit driver: MLflow creates the folder
    of a URL without a driver, and would take `file:` for a folder.
    """
    if "?" in str(path):
        return f"sqlite+{driver}:///file:{quote(str(path))}?uri=true"
    prefix = _FILE_URL if driver == "pysqlite" else f"sqlite+{driver}:///"
    return f"{prefix}{path}"


def sqlite_path(url: str) -> Path | None:
    """Return the path of a database, or None if the URL is not that of an SQLite file."""
    scheme, separator, rest = url.partition(":///")
    if not separator or scheme.partition("+")[0] != "sqlite":
        return None
    database, _, options = rest.partition("?")
    if database.startswith("file:") and parse_qs(options).get("uri") == ["true"]:
        database = unquote(database.removeprefix("file:"))
    return Path(database)
