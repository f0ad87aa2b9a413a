"""`python -m flows.servers.prefect_server PORT`: Prefect's API server on loopback, with two
changes.

1. `core.http_guard` checks Host and Origin of requests. The secret is Prefect's own: the API
   requires PREFECT_SERVER_API_AUTH_STRING, and the UI asks for it.
2. SQLite transactions begin IMMEDIATE. Prefect begins most of them DEFERRED: a transaction that
   reads and then writes fails at once ("database is locked") if another one wrote in between,
   whatever the timeout. IMMEDIATE transactions wait for each other (docs/decisions/0013).

It creates the workspace's database in a folder of its own and moves it when it is complete, so that
a killed process leaves no part of a database. It does not migrate an existing database, whose
schema `flows.servers.db_upgrade` checked before.

It is also the temporary server of a command (`temporary_server`), which sends no notifications.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_DATABASE_MIGRATE_ON_START,
    get_current_settings,
    temporary_settings,
)
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from components.core.errors import ConfigError
from components.core.http_guard import LOOPBACK_NAMES, HttpGuard
from components.core.locks import exclusive_lock
from components.core.sqlite import sqlite_path, sqlite_url
from flows.servers.db_upgrade import schema_revision

_HOST = "127.0.0.1"
_UNFINISHED = ".creating-"
"""Prefix of the folder of a database that is being created, or that a killed process left."""


class ImmediateTransactions(AioSqliteConfiguration):
    """SQLite configuration of Prefect with IMMEDIATE transactions."""

    @asynccontextmanager
    async def begin_transaction(
        self,
        session: AsyncSession,
        with_for_update: bool = False,  # noqa: ARG002 - Prefect passes it
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Begin a transaction that may write."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def create_database(database: Path) -> None:
    """Create Prefect's database unless it exists; concurrent processes create it once."""
    if database.exists():
        return
    with exclusive_lock(database.with_name("prefect.db.lock"), "creating Prefect's database"):
        if database.exists():
            return
        for unfinished in database.parent.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            dir=database.parent, prefix=_UNFINISHED, ignore_cleanup_errors=True
        ) as folder:
            new = Path(folder) / database.name
            config = AioSqliteConfiguration(connection_url=sqlite_url(new, "aiosqlite"))
            with dependencies.temporary_database_config(config):
                asyncio.run(dependencies.provide_database_interface().create_db())
            with closing(sqlite3.connect(new)) as connection:
                connection.execute("PRAGMA journal_mode=DELETE")  # A single file can be moved.
            new.rename(database)


def main(port: int) -> None:
    """Create the database if necessary, and serve until a signal arrives.

    Raises:
        ConfigError: the secret is not set.
    """
    settings = get_current_settings().server
    if not (settings.api.auth_string and settings.api.auth_string.get_secret_value()):
        raise ConfigError(
            "PREFECT_SERVER_API_AUTH_STRING is not set",
            expected="USER:PASSWORD, which every request to Prefect's API must send",
            fix="start the server with `codegen ui` or `codegen serve`, which generate it",
        )
    url = PREFECT_API_DATABASE_CONNECTION_URL.value() or ""
    database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    is_migrated = False  # Prefect migrates a database that the user configured.
    if sqlite_path(url) == database:
        create_database(database)
        is_migrated = bool(schema_revision(database))
    if url.startswith("sqlite"):
        dependencies.MODELS_DEPENDENCIES["database_config"] = ImmediateTransactions(
            connection_url=url
        )
    # The same settings as `prefect server start`. The guard wraps the application from outside,
    # since the application calls itself in memory under another Host.
    guarded = HttpGuard(
        create_app(final=True),
        names=LOOPBACK_NAMES,
        origins=settings.api.cors_allowed_origins.split(","),
    )
    gc.freeze()
    gc.enable()
    with temporary_settings({PREFECT_API_DATABASE_MIGRATE_ON_START: not is_migrated}):
        uvicorn.run(
            guarded,
            host=_HOST,
            port=port,
            timeout_keep_alive=settings.api.keepalive_timeout,
            ws_ping_interval=settings.api.websocket_ping_interval,
            ws_ping_timeout=settings.api.websocket_ping_timeout,
            log_level=settings.logging_level.lower(),
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
