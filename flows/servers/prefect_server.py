"""`python -m flows.servers.prefect_server server start ...`: Prefect's own server, whose transactions on SQLite begin as writers.

Design decision: Prefect begins most transactions DEFERRED. One that has read and then wants to write is refused at once
("database is locked") where another has written in between, whatever time-out is set; an event is dropped after four such
refusals, and with it a notification. Begun IMMEDIATE they wait for one another instead, as Prefect does itself where it asks
for a row to update. Measured in docs/figures.md. Not covered: a run's temporary server, which tells nobody anything.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.cli import app
from prefect.server.database import dependencies
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


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


def main() -> None:
    """Run a command of Prefect's."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url is not None and url.startswith("sqlite"):
        dependencies.MODELS_DEPENDENCIES["database_config"] = ImmediateTransactions(
            connection_url=url
        )
    app()


if __name__ == "__main__":
    main()
