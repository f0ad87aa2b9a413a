"""Transactions of our Prefect server: a transaction that has read may write after another write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from flows.servers.prefect_server import ImmediateTransactions

SECOND_WRITER_TIMEOUT_S = 1.0
"""Time for the second writer to finish first. IMMEDIATE transactions use all of it."""


async def two_read_then_write(config: AioSqliteConfiguration) -> int:
    """Return the number of rows after two overlapping transactions that each read, then write."""
    engine = await config.engine()

    async def add(*, first: bool) -> None:
        async with await config.session(engine) as session, config.begin_transaction(session):
            await session.execute(text("SELECT count(*) FROM numbers"))
            if first:
                second = asyncio.create_task(add(first=False))
                tasks.append(second)
                await asyncio.wait({second}, timeout=SECOND_WRITER_TIMEOUT_S)
            await session.execute(text("INSERT INTO numbers VALUES (1)"))

    tasks: list[asyncio.Task[None]] = []
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE numbers (number)"))
        await add(first=True)
        await asyncio.gather(*tasks)
        async with await config.session(engine) as session:
            return int((await session.execute(text("SELECT count(*) FROM numbers"))).scalar_one())
    finally:
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.dispose()


def test_immediate_transactions_wait_for_each_other(tmp_path: Path) -> None:
    config = ImmediateTransactions(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    assert asyncio.run(two_read_then_write(config)) == 2


def test_prefects_own_configuration_fails_with_a_locked_database(tmp_path: Path) -> None:
    """If this fails after an upgrade of Prefect, `ImmediateTransactions` may be removed."""
    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(
            two_read_then_write(
                AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
            )
        )
