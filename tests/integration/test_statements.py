"""Every SQL statement prepares against a migrated database; tenants stay apart in what the API reaches."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from libs.common.adapters.postgres import statements
from libs.common.adapters.postgres.statements import load_statements

SQL = Path(statements.__file__).parent / "sql"
#: Statements that serve workers and the command line: they go by id, by token or over everything, never for a caller.
WORKER_FILES = (
    "dispatch.sql", "events.sql", "executors.sql", "sweeps.sql", "audit.sql", "import.sql", "secrets.sql", "series.sql",
    "control.sql", "jobs.sql", "replay.sql", "deliveries.sql",
)  # fmt: skip
#: Reached by the API but owned by no tenant: the look-up of a key, caches, and what goes by unguessable ids.
WITHOUT_TENANT = {
    "find_key",
    "revoke_key",
    "models_by_id",
    "models_changed",
    "lanes_changed",
    "server_began",
    "database_now",
    # what operators alone see, and what goes by a lane that was found inside its tenant
    "place_of",
    "lane_facts",
    "lane_waits",
    "recent_ends",
    "executors_live",
    "executors_models",
    "processes_seen",
    "outbox_channels",
    "overview_counts",
    "series_rows",
}


def _numbered(text: str) -> str:
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match.group(1), len(names) + 1)}"

    return re.sub(r"(?<!:):([a-z_]+)", number, text)


async def test_every_statement_prepares(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    broken = {}
    try:
        for name, text in load_statements().items():
            try:
                await connection.prepare(_numbered(text))
            except asyncpg.PostgresError as error:
                broken[name] = str(error)
    finally:
        await connection.close()
    assert not broken


async def test_statements_need_rights_to_rows_and_sequences_alone(database_url: str) -> None:
    """What docs/operations.md grants to services whose tables are another role's."""
    role = f"services_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(database_url)
    if connection.get_server_version().major < 16:
        await connection.close()
        pytest.skip("EXPLAIN (GENERIC_PLAN) came with PostgreSQL 16")
    refused = {}
    try:
        await connection.execute(f"CREATE ROLE {role}")
        for right in (
            "USAGE ON SCHEMA public",
            "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public",
            "USAGE ON ALL SEQUENCES IN SCHEMA public",
        ):
            await connection.execute(f"GRANT {right} TO {role}")
        await connection.execute(f"SET ROLE {role}")
        for name, text in load_statements().items():
            try:
                await connection.execute(f"EXPLAIN (GENERIC_PLAN) {_numbered(text)}")
            except asyncpg.InsufficientPrivilegeError as error:
                refused[name] = str(error)
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()
    assert set(refused) == {"raise_sequences"}  # of the import alone


def test_every_statement_says_what_it_promises() -> None:
    for file in SQL.glob("*.sql"):
        for block in re.split(r"^-- name: ", file.read_text(), flags=re.MULTILINE)[1:]:
            name, promise = block.splitlines()[:2]
            assert promise.startswith("-- "), f"{file.name}: {name} has no sentence"


def test_what_the_api_reaches_names_the_tenant() -> None:
    for file in SQL.glob("*.sql"):
        if file.name in WORKER_FILES:
            continue
        for block in re.split(r"^-- name: ", file.read_text(), flags=re.MULTILINE)[1:]:
            name = block.splitlines()[0].strip()
            if name not in WITHOUT_TENANT:
                assert "tenant_id" in block, f"{file.name}: {name} does not name the tenant"


def test_no_index_of_the_task_table_names_what_the_end_writes() -> None:
    schema = (SQL.parent / "migrations/versions/0001_foundation.sql").read_text()
    written = {
        "status",
        "attempt",
        "retries",
        "version",
        "executor",
        "started_at",
        "finished_at",
        "oss_file",
        "file_type",
        "file_size",
        "files",
        "error_code",
        "error_message",
    }
    indexes = re.findall(r"CREATE (?:UNIQUE )?INDEX \w+ ON task ([^;]*);", schema)
    assert indexes
    for index in indexes:
        assert not written & set(re.findall(r"\w+", index)), f"an index on task names a column of the end: {index}"
