"""Rows that somebody keeps locked, as an operator's client does with autocommit off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import asyncpg


class Stored(Protocol):
    """Whatever knows where its database is."""

    database_url: str


@asynccontextmanager
async def kept_by(stored: Stored, update: str, rows: int = 1) -> AsyncIterator[None]:
    """Meanwhile these rows have an UPDATE that nobody commits."""
    connection = await asyncpg.connect(stored.database_url)
    try:
        async with connection.transaction():
            assert await connection.execute(f"UPDATE {update}") == f"UPDATE {rows}"
            yield
    finally:
        await connection.close()
