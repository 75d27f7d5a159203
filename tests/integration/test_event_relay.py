"""Completion events from the table to a consumer: all of them, in order, one relay at a time, no id twice by itself."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import jsonschema
import pytest
from aiokafka import ConsumerRecord

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.postgres import right
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.contracts.schemas import task_event_schema
from libs.common.contracts.topics import EVENT_PARTITIONS, events_topic
from libs.common.domain.outcome import ResultFile
from libs.common.domain.settle import Finish
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Attempt
from libs.common.runtime import failpoints
from libs.common.runtime.metrics import REGISTRY
from services.dispatcher.webhook_events import hooked_event
from tests.support.broker import records_on
from tests.support.dispatcher_bench import running_dispatcher, until_true
from tests.support.fakes_redis import FakeHints
from tests.support.queue_desk import TENANT, QueueDesk, open_desk
from tests.support.servers import BrokerChoice

FILES = (ResultFile("https://s/1.png", "png", 3, "ab", "1.png"), ResultFile("https://s/2.txt", "txt", 0, "cd", "2.txt"))


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


@pytest.fixture
def connection(kafka_bootstrap: str, broker_choice: BrokerChoice) -> KafkaConnection:
    return KafkaConnection(bootstrap=(kafka_bootstrap,), broker=broker_choice.kind)


@pytest.fixture(autouse=True)
def disarm() -> object:
    yield
    failpoints.arm("")


async def ended(desk: QueueDesk, lane: int, count: int, end: Finish) -> list[int]:
    """Tasks that ran and ended."""
    ids = await desk.create(lane, count, creator="anna", biz_name="shop")
    await desk.executor.finish_many([(attempt, end) for attempt in await started(desk, lane, ids)])
    return ids


async def started(desk: QueueDesk, lane: int, ids: list[int]) -> list[Attempt]:
    """Leased by this test or by the dispatcher that runs beside it, and started."""
    rows: list[asyncpg.Record] = []
    async with asyncio.timeout(10):
        while len(rows) < len(ids):
            await desk.lease(lane)
            rows = await desk.sql(
                "SELECT id, lease FROM dispatch WHERE id = ANY ($1::bigint[]) AND state = 1 ORDER BY id", ids
            )
    attempts = await desk.start(ids, leases=[row["lease"] for row in rows])
    assert len(attempts) == len(ids)
    return attempts


async def events_left(desk: QueueDesk) -> int:
    return int((await desk.sql("SELECT count(*) FROM event"))[0]["count"])


async def consumed(connection: KafkaConnection, prefix: str, at_least: int) -> list[ConsumerRecord]:
    return await records_on(connection, events_topic(prefix), partitions=EVENT_PARTITIONS, at_least=at_least)


def ids_of(records: list[ConsumerRecord]) -> Counter[str]:
    return Counter(dict(record.headers)["ce_id"].decode() for record in records)


async def test_every_kind_of_end_reaches_the_consumer(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str
) -> None:
    lane = await desk.lane(concurrency=50, name="Modell ✓")
    hints = FakeHints()
    async with running_dispatcher(desk.url, connection, topic_prefix, hints):
        (success,) = await ended(desk, lane, 1, Finish(TaskStatus.SUCCESS, files=FILES))
        (failed,) = await ended(desk, lane, 1, Finish(TaskStatus.FAILED, "model_status", "500: boom", dead=True))
        (timeout,) = await ended(desk, lane, 1, Finish(TaskStatus.TIMEOUT, "deadline", "too late", dead=True))
        (canceled,) = await desk.create(lane)
        await desk.tasks.cancel_waiting(TENANT, [await desk.public_id(canceled)])
        hints.publish_soon("sw:dispatch", "* events")
        await until_true(lambda: _none_left(desk))
    records = {UUID(record.key.decode()): record for record in await consumed(connection, topic_prefix, 4)}
    data = {id_: json.loads(records[await desk.public_id(id_)].value) for id_ in (success, failed, timeout, canceled)}
    for each in data.values():
        jsonschema.validate(each, task_event_schema(), format_checker=jsonschema.FormatChecker())
    assert [data[id_]["status"] for id_ in (success, failed, timeout, canceled)] == [
        "success",
        "failed",
        "timeout",
        "canceled",
    ]
    assert data[success]["model"] == "Modell ✓"
    assert (data[success]["ossFile"], data[success]["fileType"], data[success]["fileSize"]) == (
        "https://s/1.png",
        "png",
        3,
    )
    assert [file["url"] for file in data[success]["files"]] == ["https://s/1.png", "https://s/2.txt"]
    assert (data[failed]["errorCode"], data[failed]["errorMsg"]) == ("model_status", "500: boom")
    assert (data[canceled]["attempt"], data[canceled]["startedAt"]) == (0, None)
    assert (data[success]["creator"], data[success]["bizName"], data[success]["tenantId"]) == ("anna", "shop", "42")
    (version,) = await desk.sql("SELECT version FROM task WHERE id = $1", success)
    headers = dict(records[await desk.public_id(success)].headers)
    assert headers["ce_sequence"] == str(version["version"]).encode()


async def _none_left(desk: QueueDesk) -> bool:
    return await events_left(desk) == 0


async def test_late_commits_are_not_skipped(desk: QueueDesk, connection: KafkaConnection, topic_prefix: str) -> None:
    """Numbers are drawn before they are committed: a slow transaction's event appears behind the cursor."""
    lane = await desk.lane(concurrency=60)
    hints = FakeHints()
    async with running_dispatcher(desk.url, connection, topic_prefix, hints):
        ids = await ended(desk, lane, 20, Finish(TaskStatus.SUCCESS))
        await until_true(lambda: _none_left(desk))
        slow = await desk.create(lane, 2)
        attempts = await started(desk, lane, slow)
        async with desk.database.transaction() as transaction:
            await transaction.fetch("events_refused", [], [], [], 1, [])  # the transaction is open
            await transaction.fetch("finish_many", *_finish(attempts))
            ids += await ended(desk, lane, 30, Finish(TaskStatus.SUCCESS))
            await until_true(lambda: _only(desk, 0))
        await until_true(lambda: _none_left(desk))
    found = ids_of(await consumed(connection, topic_prefix, len(ids) + 2))
    assert len(found) == len(ids) + 2
    assert set(found.values()) == {1}


def _finish(attempts: list[Attempt]) -> tuple[list[object], ...]:
    count = len(attempts)
    return (
        [attempt.id for attempt in attempts],
        [attempt.token for attempt in attempts],
        [6] * count,
        *[[None] * count for _ in range(6)],
        [False] * count,
        [True] * count,
        "UTC",
    )


async def _only(desk: QueueDesk, count: int) -> bool:
    return await events_left(desk) == count


async def test_a_relay_that_dies_before_it_deletes_sends_the_same_ids_again(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str
) -> None:
    lane = await desk.lane(concurrency=50)
    hints = FakeHints()
    failpoints.arm("dispatcher/before-event-delete:1:raise")
    async with running_dispatcher(desk.url, connection, topic_prefix, hints):
        ids = await ended(desk, lane, 10, Finish(TaskStatus.SUCCESS))
        await until_true(lambda: _none_left(desk))
    found = ids_of(await consumed(connection, topic_prefix, 10))
    assert len(found) == len(ids)
    assert max(found.values()) == 2, "the first one or all were sent twice, under the same id"


async def test_one_relay_at_a_time_and_the_next_takes_over(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str
) -> None:
    lane = await desk.lane(concurrency=50)
    hints = FakeHints()
    async with running_dispatcher(desk.url, connection, topic_prefix, hints):
        async with running_dispatcher(desk.url, connection, topic_prefix, hints, kill=True):
            ids = []
            for _ in range(10):
                ids += await ended(desk, lane, 3, Finish(TaskStatus.SUCCESS))
                hints.publish_soon("sw:dispatch", "* events")
            await until_true(lambda: _none_left(desk))
        ids += await ended(desk, lane, 5, Finish(TaskStatus.SUCCESS))
        await until_true(lambda: _none_left(desk))
    found = ids_of(await consumed(connection, topic_prefix, len(ids)))
    assert len(found) == len(ids)
    assert set(found.values()) == {1}


async def test_the_right_to_relay_ends_with_its_connection(database_url: str) -> None:
    async with open_database(database_url) as first, open_database(database_url) as second:
        ours, theirs = PostgresEvents(first), PostgresEvents(second)
        assert await ours.hold_relay()
        assert await ours.hold_relay(), "it still is"
        assert not await theirs.hold_relay()
        await first.fetch("database_now")
        assert not await theirs.hold_relay()
        await second.query_text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        async with asyncio.timeout(5):
            while not await theirs.hold_relay():
                await asyncio.sleep(0.02)
        assert not await ours.hold_relay()
        await theirs.close()
        async with asyncio.timeout(5):
            while not await ours.hold_relay():
                await asyncio.sleep(0.02)
        await ours.close()


async def test_the_right_to_relay_passes_on_from_who_is_frozen(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(right, "_UNPROVED_SECONDS", 1)
    async with open_database(database_url) as first, open_database(database_url) as second:
        ours, theirs = PostgresEvents(first), PostgresEvents(second)
        assert await ours.hold_relay()
        for _ in range(4):
            await asyncio.sleep(0.4)
            assert await ours.hold_relay(), "whoever proves it keeps it"
        assert not await theirs.hold_relay()
        async with asyncio.timeout(5):
            while not await theirs.hold_relay():  # as long as nothing is heard of the first
                await asyncio.sleep(0.02)
        assert not await ours.hold_relay()
        await theirs.close()


async def test_whoever_cannot_ask_postgresql_does_not_call_itself_the_relay(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str, postgres_server: str
) -> None:
    def says() -> float | None:
        return REGISTRY.get_sample_value("sluiceway_event_relay_owner")

    name = desk.url.rpartition("/")[2].partition("?")[0]
    elsewhere = await asyncpg.connect(postgres_server)
    async with running_dispatcher(desk.url, connection, topic_prefix, FakeHints()):
        await until_true(lambda: says() == 1)
        await elsewhere.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await elsewhere.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await until_true(lambda: says() == 0)
        await elsewhere.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await until_true(lambda: says() == 1)
    await elsewhere.close()


async def test_refused_events_wait_alone_and_dead_ones_stay(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=50)
    await ended(desk, lane, 3, Finish(TaskStatus.SUCCESS))
    events = PostgresEvents(desk.database)
    first, second, third = [row.key for row in await events.after(0, 10, [])]
    assert await events.refused([(first, 60.0, "too large"), (second, 0.0, "too large")], 20) == []
    assert [row.key for row in await events.after(0, 10, [first.id])] == [third]
    assert [(row.key, row.sends) for row in await events.due(10)] == [(second, 1)]
    await desk.sql("UPDATE event SET sends = 19")
    files = (await desk.sql("SELECT files FROM event WHERE id = $1", second.id))[0]["files"]
    assert await events.refused([(second, 0.0, "too large")], 20) == [second.id]
    assert await events.due(10) == []
    await events.sent([first, third])
    assert await desk.sql("SELECT id FROM event") == []
    (dead,) = await desk.sql("SELECT id, sends, last_error, files FROM dead_event")
    assert tuple(dead)[:3] == (second.id, 20, "too large")
    assert dead["files"] == files


async def test_another_event_of_the_same_number_is_not_taken_for_the_one_that_was_sent(desk: QueueDesk) -> None:
    """Numbers begin anew where PostgreSQL goes on from an older state, while the broker's answer is on its way."""
    lane = await desk.lane(concurrency=50)
    await ended(desk, lane, 1, Finish(TaskStatus.SUCCESS))
    events = PostgresEvents(desk.database)
    (lost,) = await events.after(0, 10, [])
    await desk.sql("DELETE FROM event")
    await ended(desk, lane, 1, Finish(TaskStatus.SUCCESS))
    await desk.sql("UPDATE event SET id = $1", lost.id)
    (other,) = await events.after(0, 10, [])
    await events.sent([lost.key])
    await events.after(lost.id, 10, [], [lost.key])
    await events.hand_over([hooked_event(lost, "")])
    await events.refused([(lost.key, 60.0, "too large")], 20)
    await events.refused([(lost.key, 60.0, "too large")], 1)
    assert await events.after(0, 10, []) == [other]
    await events.sent([other.key])
    assert await events.after(0, 10, []) == []


async def test_of_ends_of_one_instant_only_those_that_are_named_are_taken(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=50)
    await desk.lane(name="another")
    await ended(desk, lane, 6, Finish(TaskStatus.SUCCESS))
    events = PostgresEvents(desk.database)
    rows = await events.after(0, 10, [])
    assert len({row.key.finished_at for row in rows}) == 1
    assert len({row.key.id for row in rows}) == len(rows) == 6
    first, second, third, fourth, fifth, sixth = rows
    await events.sent([first.key])
    assert await events.after(0, 10, []) == rows[1:]
    assert await events.after(0, 10, [], [second.key]) == rows[1:]
    await events.hand_over([hooked_event(third, "")])
    assert await events.after(0, 10, []) == rows[3:]
    assert await events.refused([(fourth.key, 60.0, "too large")], 1) == [fourth.key.id]
    assert await events.refused([(fifth.key, 0.0, "too large")], 20) == []
    assert await events.after(0, 10, [fifth.key.id]) == [sixth]
    assert [row.key for row in await events.due(10)] == [fifth.key]
