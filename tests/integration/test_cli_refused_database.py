"""A database that answers "no" ends a command with one line and exit code 3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.servers import clone
from tests.support.shell import Shell


def to(url: str, **parts: str) -> Shell:
    """A shell that is told of another database, another role, or another host."""
    named = urlsplit(url)
    host = parts.get("host") or (f"{named.hostname}:{named.port}" if named.port else f"{named.hostname}")
    user = f"{parts['user']}:secret" if "user" in parts else named.netloc.rpartition("@")[0]
    there = named._replace(netloc=f"{user}@{host}", path=f"/{parts.get('database', named.path[1:])}")
    return Shell({"SLUICEWAY_DATABASE_URL": there.geturl(), "SLUICEWAY_REDIS_URL": "redis://127.0.0.1:1/0"})


@pytest.fixture(scope="session")
def empty_database(postgres_server: str) -> Iterator[str]:
    with clone(postgres_server, "template0") as url:
        yield url


@pytest.fixture
async def powerless(house_database: str) -> AsyncIterator[str]:
    """A role that may connect and nothing else."""
    connection = await asyncpg.connect(house_database)
    await connection.execute("CREATE ROLE powerless LOGIN PASSWORD 'secret'")
    yield "powerless"
    await connection.execute("DROP ROLE powerless")
    await connection.close()


@pytest.mark.parametrize("command", ["overview", "keys list --tenant 1", "topics"])
async def test_a_database_without_our_tables(empty_database: str, command: str) -> None:
    ran = await to(empty_database).ran(*command.split())
    assert (ran.code, "sluiceway migrate" in ran.err) == (3, True), ran


@pytest.mark.parametrize("command", ["overview", "tenants list"])  # hot statements, and the others
async def test_a_database_that_is_not_there(house_database: str, command: str) -> None:
    ran = await to(house_database, database="typo").ran(*command.split())
    assert (ran.code, "SLUICEWAY_DATABASE_URL" in ran.err, '"typo"' in ran.err) == (3, True, True), ran


@pytest.mark.parametrize("command", ["overview", "tenants list"])
async def test_a_host_that_nobody_knows_lost_no_answer(house_database: str, command: str) -> None:
    ran = await to(house_database, host="no-such-host.invalid").ran(*command.split())
    assert (ran.code, "SLUICEWAY_DATABASE_URL" in ran.err, "lost" in ran.err) == (3, True, False), ran


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "a newer one made it"),
        ("DROP TABLE alembic_version", "a backup was restored without"),
        ("ALTER ROLE CURRENT_USER IN DATABASE {name} SET default_transaction_read_only = on", "name the primary"),
    ],
)
async def test_tables_that_cannot_be_upgraded_are_left_alone(database_url: str, damage: str, said: str) -> None:
    name = urlsplit(database_url).path[1:]
    connection = await asyncpg.connect(database_url)
    if "{name}" in damage:  # something to write: what is at this version already is only read
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.execute(damage.format(name=name))
    await connection.close()
    ran = await to(database_url).ran("migrate")
    assert (ran.code, said in ran.err, "Traceback" in ran.err) == (3, True, False), ran


async def test_a_role_that_is_not_there(house_database: str) -> None:
    ran = await to(house_database, user="nobody").ran("overview")
    assert (ran.code, "SLUICEWAY_DATABASE_URL" in ran.err) == (3, True), ran


async def test_a_role_that_may_nothing(house_database: str, powerless: str) -> None:
    ran = await to(house_database, user=powerless).ran("pause", "--tenant", "1")
    assert (ran.code, "the role may not" in ran.err) == (3, True), ran


async def test_an_audit_of_a_wrong_database_says_so_in_its_document(empty_database: str, house_database: str) -> None:
    ran = await to(empty_database).ran("audit", "--json")
    assert (ran.code, ran.json["violations"], "migrate" in ran.json["unchecked"]["postgres"]) == (3, [], True)
    ran = await to(house_database, database="typo").ran("audit")
    assert (ran.code, "SLUICEWAY_DATABASE_URL" in ran.err) == (3, True)
