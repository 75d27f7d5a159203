"""Each embedded server starts, stops, survives kills and keeps what it promises to keep."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from libs.common.embedded import kafka_jars
from libs.common.embedded.child import ChildFailed
from libs.common.embedded.kafka import EmbeddedKafka
from libs.common.embedded.ports import is_free
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.produce import READY_TOPIC
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.server_process import ServerProcess
from libs.common.embedded.tansu import EmbeddedTansu
from tests.support import servers
from tests.support.processes import alive, offspring

Make = Callable[..., ServerProcess]
with_java = pytest.mark.skipif(not kafka_jars.can_fetch(), reason="needs Maven and a JDK")


@pytest.fixture
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes servers whose processes and files are gone after the test."""
    made: list[ServerProcess] = []
    with servers.servers_folder() as folder:

        def build(kind: type[ServerProcess], **options: Any) -> ServerProcess:
            made.append(kind(folder / f"server-{len(made)}", **options))
            return made[-1]

        yield build
        for server in made:
            await server.kill()


@pytest.mark.parametrize(
    "kind",
    [
        EmbeddedPostgres,
        EmbeddedRedis,
        EmbeddedTansu,
        pytest.param(EmbeddedKafka, marks=[with_java, pytest.mark.long]),
    ],
)
async def test_a_server_serves_at_one_address_through_stops_and_kills(kind: type[ServerProcess], make: Make) -> None:
    server = make(kind)
    address = server.address
    assert server.pid is None

    for end in (server.stop, server.kill):
        await server.start()
        first = server.pid
        assert first is not None
        await server.start()  # a second start changes nothing
        assert server.pid == first
        family = offspring(first)
        await end()
        assert server.pid is None
        assert alive(family) == set()
        assert is_free(server.port)

    await server.start()
    assert await server.probe()
    assert server.address == address


async def test_postgres_keeps_what_was_committed_through_a_kill(make: Make) -> None:
    server = make(EmbeddedPostgres)
    await server.start()
    connection = await asyncpg.connect(server.address)
    await connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    await server.kill()
    await server.start()
    again = await asyncpg.connect(server.address)
    try:
        assert await again.fetchval("SELECT n FROM kept") == 7
    finally:
        await again.close()
        await connection.close(timeout=1)


async def test_postgres_whose_first_start_was_interrupted_starts(make: Make) -> None:
    """By Ctrl-C, by kill -9 or by a power cut: half a cluster looks like one and never starts."""
    server = make(EmbeddedPostgres)
    first = asyncio.create_task(server.start())
    while not list(server.folder.glob("*/PG_VERSION")):
        await asyncio.sleep(0.001)
        assert not first.done()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await server.start()
    left = {path.name for path in server.folder.iterdir() if not path.name.startswith("programs-")}
    assert left == {"cluster", "password", "postgres.log"}


async def test_postgres_that_cuts_off_who_asks_does_not_serve(make: Make) -> None:
    """It is stopping, or dies: nobody may take that for the end of the process that asks."""
    server = make(EmbeddedPostgres)
    await server.start()
    template = await asyncpg.connect(server.database_url("template1"))  # while it is used, no database can be made
    await template.execute("DROP DATABASE sluiceway")
    asking = asyncio.create_task(server.probe())
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%'"
    while not await template.fetchval(cut):
        await asyncio.sleep(0.01)
    assert not await asking
    await template.close()
    assert await server.probe()


async def test_postgres_refuses_who_does_not_know_the_password(make: Make) -> None:
    server = make(EmbeddedPostgres)
    await server.start()
    assert (server.folder / "password").stat().st_mode & 0o077 == 0
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://sluiceway:wrong@127.0.0.1:{server.port}/sluiceway")


@with_java
@pytest.mark.long
async def test_kafka_keeps_records_through_restart_and_kill(make: Make) -> None:
    server = make(EmbeddedKafka)
    for end in (server.restart, server.kill):
        await server.start()
        await _send(server.address, end.__name__.encode())
        await end()
    await server.start()
    assert {b"restart", b"kill"} <= set(await _everything(server.address))


@with_java
async def test_any_cluster_id_will_do(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0xFB << 120))
    server = make(EmbeddedKafka)
    await server.prepare()
    assert "cluster.id=-wAAAAAAAAAAAAAAAAAAAA" in (server.folder / "data" / "meta.properties").read_text()


async def test_a_server_that_cannot_start_says_which_and_where_its_log_is(make: Make) -> None:
    first = make(EmbeddedRedis)
    await first.start()
    second = make(EmbeddedTansu, port=first.port)
    with pytest.raises(ChildFailed, match=f"broker: port {first.port} .* is taken"):
        await second.start()
    assert second.pid is None


async def test_servers_start_side_by_side(make: Make) -> None:
    several = [make(EmbeddedPostgres), make(EmbeddedRedis), make(EmbeddedTansu)]
    await asyncio.gather(*(server.start() for server in several))
    assert all([await server.probe() for server in several])


async def _send(bootstrap: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(READY_TOPIC, value)


async def _everything(bootstrap: str) -> list[bytes | None]:
    partition = TopicPartition(READY_TOPIC, 0)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        values: list[bytes | None] = []
        while await consumer.position(partition) < end:
            batch = await consumer.getmany(timeout_ms=1000)
            values += [record.value for record in batch.get(partition, [])]
        return values


async def test_what_a_shell_holds_for_other_servers_keeps_none_of_ours_from_starting(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = {"PGSSLMODE": "require", "PGTARGETSESSIONATTRS": "read-only", "PGHOST": "10.0.0.1", "PGPORT": "1"}
    for name, value in {**shell, "PGUSER": "other", "PGDATABASE": "other", "LANG": "xx_YY.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LC_ALL", raising=False)
    for kind in (EmbeddedPostgres, EmbeddedRedis, EmbeddedTansu):
        server = make(kind)
        server.start_seconds = 10.0
        await server.start()
        assert await server.probe()
