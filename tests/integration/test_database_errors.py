"""What errors of PostgreSQL say."""

from __future__ import annotations

import traceback

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from libs.common.adapters.postgres.database import open_database
from libs.common.domain.errors import DatabaseUnavailable, Deadlocked, OutcomeUnknown
from tests.support import servers

SECRET = "https://hooks.example/?token=k-0123456789abcdef"


async def test_what_a_statement_was_given_is_no_part_of_its_error(database_url: str) -> None:
    """Webhooks' addresses, names and payloads went into the log with whatever PostgreSQL refused."""
    async with open_database(database_url) as database:
        with pytest.raises(DBAPIError) as failed:
            await database.query_text("SELECT 1 / CAST(:zero AS int), CAST(:secret AS text)", zero=0, secret=SECRET)
    told = "".join(traceback.format_exception(failed.value))
    assert "division by zero" in told
    assert SECRET not in told


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("55P03", DatabaseUnavailable),  # lock_timeout
        ("58030", DatabaseUnavailable),  # could not read a file: Input/output error
        ("40P01", Deadlocked),
        ("40001", Deadlocked),  # could not serialize
        ("25P03", OutcomeUnknown),  # idle_in_transaction_session_timeout
        ("25P04", OutcomeUnknown),  # transaction_timeout
    ],
)
async def test_what_a_server_in_trouble_says_is_an_outage_on_both_ways(
    database_url: str, code: str, meaning: type[Exception]
) -> None:
    """It was taken for a fault of ours: creates got 500, and attempts whose ends it met were lost, outputs and all."""
    trouble = f"DO $$ BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{code}'; END $$"
    async with open_database(database_url) as database:
        with pytest.raises(meaning):
            await database.query_text(trouble)
        with pytest.raises(meaning):
            async with database.transaction() as transaction:
                await transaction._connection.execute(trouble)


async def test_an_administrators_lock_timeout_is_an_outage_while_a_table_is_locked(database_url: str) -> None:
    other = await asyncpg.connect(database_url)
    impatient = servers.with_options(database_url, lock_timeout="100")
    try:
        async with open_database(impatient) as database, other.transaction():
            await other.execute("LOCK TABLE model IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseUnavailable):
                await database.query_text("SELECT 1 FROM model")
            with pytest.raises(DatabaseUnavailable):
                async with database.transaction() as transaction:
                    await transaction._connection.execute("SELECT 1 FROM model")
    finally:
        await other.close()


async def test_an_administrators_isolation_is_not_ours(database_url: str) -> None:
    """Lanes are locked by one statement and counted by the next one, which must see what others have committed."""
    serializable = servers.with_options(database_url, default_transaction_isolation="serializable")
    async with open_database(serializable) as database:
        asked = "SELECT current_setting('transaction_isolation')"
        assert (await database.query_text(asked))[0][0] == "read committed"
        async with database.transaction() as transaction:
            assert await transaction._connection.fetchval(asked) == "read committed"
