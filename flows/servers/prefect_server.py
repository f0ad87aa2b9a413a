"""`python -m flows.servers.prefect_server PORT`: Prefect's API server on loopback, with two changes.

1. Requests are admitted by `core.http_guard` (Host and Origin). The secret is Prefect's own: its API answers only requests
   that carry PREFECT_SERVER_API_AUTH_STRING, and its page asks for it.
2. Transactions on SQLite begin as writers. Prefect begins most transactions DEFERRED. A transaction that has read and then
   writes is refused at once ("database is locked") if another one has written in between, whatever time-out is set; an event
   is dropped after four such refusals, and with it a notification. Begun IMMEDIATE, transactions wait for one another, as
   Prefect does itself if it asks for a row to update. Measured in docs/figures.md.

Not covered: the temporary server of a single run, which sends no notifications. It requires a secret, too
(`flows.settings.credentials`), but does not check the Host.
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
    """SQLite, in which no transaction becomes a writer half-way."""

    @asynccontextmanager
    async def begin_transaction(
        self,
        session: AsyncSession,
        with_for_update: bool = False,  # noqa: ARG002 - what Prefect asks for where it knows that it will write.
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """As Prefect's, always with the right to write."""
        async with super().begin_transaction(session, with_for_update=True) as transaction:
            yield transaction


def main(port: int) -> None:
    """Serve until a signal arrives.

    Raises:
        ConfigError: no secret is set.
    """
    settings = get_current_settings().server
    if not (settings.api.auth_string and settings.api.auth_string.get_secret_value()):
        raise ConfigError(
            "PREFECT_SERVER_API_AUTH_STRING is not set",
            expected="USER:PASSWORD, which every request to Prefect's API must carry",
            fix="start the server with `codegen ui` or `codegen serve`, which generate it",
        )
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url is not None and url.startswith("sqlite"):
        dependencies.MODELS_DEPENDENCIES["database_config"] = ImmediateTransactions(
            connection_url=url
        )
    # As `prefect server start` does. The guard is outside of Prefect's application, which calls itself in memory under
    # another Host.
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
