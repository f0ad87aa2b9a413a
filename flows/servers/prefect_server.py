"""`python -m flows.servers.prefect_server PORT`: Prefect's API server on loopback, with two
changes.

1. `core.http_guard` checks Host and Origin of requests. The secret is Prefect's own: the API
   requires PREFECT_SERVER_API_AUTH_STRING, and the UI asks for it.
2. SQLite transactions begin IMMEDIATE. Prefect begins most of them DEFERRED: a transaction that
   reads and then writes fails at once ("database is locked") if another one wrote in between,
   whatever the timeout. IMMEDIATE transactions wait for each other (docs/decisions/0013).

It is also the temporary server of a command (`temporary_server`), which sends no notifications.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, get_current_settings
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from components.core.errors import ConfigError
from components.core.http_guard import LOOPBACK_NAMES, HttpGuard

_HOST = "127.0.0.1"


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


def main(port: int) -> None:
    """Serve until a signal arrives.

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
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url is not None and url.startswith("sqlite"):
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
