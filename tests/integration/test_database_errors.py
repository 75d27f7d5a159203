"""What errors of PostgreSQL say."""

from __future__ import annotations

import traceback

import pytest
from sqlalchemy.exc import DBAPIError

from libs.common.adapters.postgres.database import open_database

SECRET = "https://hooks.example/?token=k-0123456789abcdef"


async def test_what_a_statement_was_given_is_no_part_of_its_error(database_url: str) -> None:
    """Webhooks' addresses, names and payloads went into the log with whatever PostgreSQL refused."""
    async with open_database(database_url) as database:
        with pytest.raises(DBAPIError) as failed:
            await database.query_text("SELECT 1 / CAST(:zero AS int), CAST(:secret AS text)", zero=0, secret=SECRET)
    told = "".join(traceback.format_exception(failed.value))
    assert "division by zero" in told
    assert SECRET not in told
