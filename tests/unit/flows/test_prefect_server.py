"""Prefect's database as our servers open it: a transaction that has read may still write, whoever wrote in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from flows.servers.prefect_server import ImmediateTransactions

A_WHILE_S = 1.0
"""How long another writer is given a chance to be first. It is only lost time where that has to wait anyway."""


async def two_read_then_write(config: AioSqliteConfiguration) -> int:
    """One transaction reads, a second one reads and writes as far as it can, then the first writes; the rows in the end."""
    engine = await config.engine()

    async def add(*, first: bool) -> None:
        async with await config.session(engine) as session, config.begin_transaction(session):
            await session.execute(text("SELECT count(*) FROM numbers"))
            if first:
                second = asyncio.create_task(add(first=False))
                others.append(second)
                await asyncio.wait({second}, timeout=A_WHILE_S)
            await session.execute(text("INSERT INTO numbers VALUES (1)"))

    others: list[asyncio.Task[None]] = []
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE numbers (number)"))
        await add(first=True)
        await asyncio.gather(*others)
        async with await config.session(engine) as session:
            return int((await session.execute(text("SELECT count(*) FROM numbers"))).scalar_one())
    finally:
        await asyncio.gather(*others, return_exceptions=True)
        await engine.dispose()


def test_writers_wait_for_one_another(tmp_path: Path) -> None:
    config = ImmediateTransactions(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
    assert asyncio.run(two_read_then_write(config)) == 2


def test_prefects_own_configuration_refuses_one_of_them(tmp_path: Path) -> None:
    """Why there is another one. Where this fails after an upgrade of Prefect, it may be dropped."""
    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(
            two_read_then_write(
                AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")
            )
        )
