"""Dispatchers over real servers: everything due is published, once for each lease, whatever happens to the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.contracts.dispatch_message import DispatchMessage
from libs.common.contracts.topics import model_topic
from libs.common.runtime import failpoints
from tests.support.broker import broker_in, connection_to
from tests.support.dispatcher_bench import messages_on, running_dispatcher, until_true
from tests.support.fakes_redis import FakeHints
from tests.support.queue_desk import QueueDesk, open_desk
from tests.support.servers import BrokerChoice


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


def topic_of(desk: QueueDesk, lane: int, prefix: str) -> str:
    return model_topic(prefix, desk.lanes[lane].id, desk.lanes[lane].name)


async def created(desk: QueueDesk, hints: FakeHints, lane: int, count: int) -> list[int]:
    """New tasks, and the hint that the API gives."""
    ids = await desk.create(lane, count)
    hints.publish_soon("sw:dispatch", f"{lane} 1 0 {ids[0]}")
    return ids


async def all_published(desk: QueueDesk) -> bool:
    """Every row is in flight and no lease is open."""
    (row,) = await desk.sql(
        "SELECT (SELECT count(*) FROM dispatch WHERE state <> 1) + (SELECT count(*) FROM lease) AS unsent"
    )
    return row["unsent"] == 0


async def current_leases(desk: QueueDesk) -> dict[int, int]:
    return {row["id"]: row["lease"] for row in await desk.sql("SELECT id, lease FROM dispatch WHERE state = 1")}


def newest(messages: list[DispatchMessage]) -> dict[int, int]:
    return {message.task: message.lease for message in sorted(messages, key=lambda message: message.lease)}


async def test_topics_are_made_before_the_first_message(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str
) -> None:
    hints = FakeHints()
    await desk.sql("SELECT 1")
    lane = await desk.lane(concurrency=100, name="Bild & Ton/1")
    await desk.sql("UPDATE model SET partitions = 3")
    async with running_dispatcher(desk.url, connection, topic_prefix, hints) as running:
        ids = await created(desk, hints, lane, 40)
        await until_true(lambda: all_published(desk))
        road = running.roads.of(lane)
        assert road is not None
        assert road.topic == f"{topic_prefix}.model.{desk.lanes[lane].id}-bild-ton-1"
        messages = await messages_on(connection, road.topic, partitions=3, at_least=40)
    assert newest(messages) == await current_leases(desk)
    assert {message.task for message in messages} == set(ids)
    assert {(message.lane, message.tenant, message.size) for message in messages} == {(lane, 42, 2)}
    assert {line for channel, line in hints.lines if channel == "sw:road"} == {
        f"{desk.lanes[lane].id} {partition}" for partition in range(3)
    }


async def test_a_new_model_can_be_used_at_once(desk: QueueDesk, connection: KafkaConnection, topic_prefix: str) -> None:
    hints = FakeHints()
    async with running_dispatcher(desk.url, connection, topic_prefix, hints) as running:
        await until_true(lambda: running.carrier.reachable)
        told = await desk.lane()
        hints.publish_soon("sw:dispatch", "* models")
        await created(desk, hints, told, 1)
        await until_true(lambda: all_published(desk))
        untold = await desk.lane()
        await desk.create(untold)
        await until_true(lambda: all_published(desk))


@pytest.mark.long
async def test_a_broker_that_is_away_loses_and_burns_nothing(desk: QueueDesk, servers_folder: Path) -> None:
    hints = FakeHints()
    lane = await desk.lane(concurrency=400)
    async with broker_in(servers_folder / "away") as broker:
        connection = connection_to(broker)
        topic = topic_of(desk, lane, "p")
        async with running_dispatcher(desk.url, connection, "p", hints):
            before = await created(desk, hints, lane, 50)
            await until_true(lambda: all_published(desk))
            await broker.kill()
            during = []
            for _ in range(5):
                during += await created(desk, hints, lane, 20)
                await asyncio.sleep(0.2)
            await broker.start()
            after = await created(desk, hints, lane, 20)
            await until_true(lambda: all_published(desk), 30)
        messages = await messages_on(connection, topic)
    ids = {*before, *during, *after}
    memory = broker.kind == "tansu"  # type: ignore[attr-defined]
    assert newest(messages).items() <= (await current_leases(desk)).items()
    assert {message.task for message in messages} == (ids - set(before) if memory else ids)
    burnt = await desk.sql("SELECT id FROM dispatch WHERE sends > 0 OR retries > 0 OR attempt > 0")
    assert burnt == []
    healed = {row["task_id"] for row in await desk.sql("SELECT task_id FROM history WHERE kind = 'heal'")}
    leases_of = {id_: {message.lease for message in messages if message.task == id_} for id_ in ids}
    assert all(len(leases) == 1 or id_ in healed for id_, leases in leases_of.items())


@pytest.mark.long
async def test_while_the_broker_is_away_no_lease_stays_open_and_who_is_stopped_takes_nothing(
    desk: QueueDesk, servers_folder: Path
) -> None:
    hints = FakeHints()
    lane = await desk.lane(concurrency=50)
    async with broker_in(servers_folder / "stopped", "tansu") as broker:
        async with running_dispatcher(desk.url, connection_to(broker), "p", hints) as running:
            await created(desk, hints, lane, 5)
            await until_true(lambda: all_published(desk))
            await broker.kill()
            await created(desk, hints, lane, 5)
            await until_true(lambda: desk.sql("SELECT FROM history WHERE kind = 'heal'"))
            await until_true(lambda: not running.carrier.reachable)
            # Else the janitor takes their dispatcher for dead, and what arrived is published a second time.
            await until_true(lambda: _nothing(desk, "SELECT FROM lease"), 5)
            turns = await desk.sql("SELECT last_value FROM lease_ids")
        assert await desk.sql("SELECT last_value FROM lease_ids") == turns


async def _nothing(desk: QueueDesk, query: str) -> bool:
    return not await desk.sql(query)


async def test_a_broker_that_lost_its_memory_gets_its_topics_back(desk: QueueDesk, servers_folder: Path) -> None:
    hints = FakeHints()
    lanes = [await desk.lane(concurrency=50), await desk.lane(concurrency=50)]
    async with broker_in(servers_folder / "memory", "tansu") as broker:
        connection = connection_to(broker)
        async with running_dispatcher(desk.url, connection, "p", hints) as running:
            await created(desk, hints, lanes[0], 10)
            await until_true(lambda: all_published(desk))
            await broker.restart()
            again = await created(desk, hints, lanes[0], 10)
            first = await created(desk, hints, lanes[1], 10)
            await until_true(lambda: all_published(desk), 30)
            # What the old log held is found by the janitor: nobody picks it up.
            lost = await desk.sweeps.republish_lost(0, 100)
            assert len(lost) == 30
            for _, _, place in lost:
                hints.publish_soon("sw:dispatch", f"{place.lane} 1 0 {place.key.position}")
            await until_true(lambda: all_published(desk), 30)
            assert running.carrier.reachable
        for lane, ids in zip(lanes, (again, first), strict=True):
            messages = await messages_on(connection, topic_of(desk, lane, "p"), at_least=20)
            assert newest(messages).items() <= (await current_leases(desk)).items()
            assert set(ids) <= {message.task for message in messages}


async def test_a_deleted_topic_is_made_again_while_others_go_on(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str, broker_choice: BrokerChoice
) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu keeps answering for deleted topics")
    hints = FakeHints()
    lanes = [await desk.lane(concurrency=50), await desk.lane(concurrency=50)]
    async with running_dispatcher(desk.url, connection, topic_prefix, hints):
        for lane in lanes:
            await created(desk, hints, lane, 5)
        await until_true(lambda: all_published(desk))
        admin = AIOKafkaAdminClient(**connection.arguments())
        await admin.start()
        await admin.delete_topics([topic_of(desk, lanes[0], topic_prefix)])
        await admin.close()
        for lane in lanes:
            await created(desk, hints, lane, 5)
        await until_true(lambda: all_published(desk), 30)
        assert len(await messages_on(connection, topic_of(desk, lanes[0], topic_prefix), at_least=5)) == 5
        assert len(await messages_on(connection, topic_of(desk, lanes[1], topic_prefix), at_least=10)) == 10


async def test_refused_rows_back_off_and_die_with_their_event(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str, broker_choice: BrokerChoice
) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu refuses nothing")
    hints = FakeHints()
    lane, fine = await desk.lane(), await desk.lane()
    admin = AIOKafkaAdminClient(**connection.arguments())
    await admin.start()
    await admin.create_topics(
        [NewTopic(topic_of(desk, lane, topic_prefix), 1, 1, topic_configs={"max.message.bytes": "100"})]
    )
    await admin.close()
    async with running_dispatcher(desk.url, connection, topic_prefix, hints) as running:
        (id_,) = await created(desk, hints, lane, 1)

        async def sends() -> int:
            row = await desk.row(id_)
            return int(row["sends"]) if row is not None and row["state"] == 2 else -1

        await until_true(lambda: _is(sends(), 1))
        (face,) = await desk.sql("SELECT status, error_code FROM task_face WHERE id = $1", id_)
        assert (face["status"], face["error_code"]) == (2, "publish_refused"), "it was queued, and waits once more"
        public_id = await desk.public_id(id_)
        await created(desk, hints, fine, 4)
        await desk.sql("UPDATE dispatch SET sends = 19, due_at = now() WHERE id = $1", id_)
        (moved,) = await desk.sweeps.promote_due(10)
        hints.publish_soon("sw:dispatch", f"{lane} 1 0 {moved.place.key.position}")
        await until_true(lambda: running.gate.released == [(lane, str(public_id))])
        (task,) = await desk.sql("SELECT status, error_code FROM task WHERE id = $1", id_)
        assert (task["status"], task["error_code"]) == (7, "undeliverable")
        await until_true(lambda: all_published(desk))
        assert len(await messages_on(connection, topic_of(desk, fine, topic_prefix), at_least=4)) == 4


async def _is(question: object, answer: object) -> bool:
    return await question == answer  # type: ignore[misc]


@pytest.mark.long
async def test_one_slow_answer_of_postgresql_does_not_put_off_for_minutes_what_no_hint_told(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str
) -> None:
    lane = await desk.lane()
    async with running_dispatcher(desk.url, connection, topic_prefix, FakeHints()):
        await desk.create(lane)
        await until_true(lambda: all_published(desk))
        await desk.sql("DO $$ BEGIN LOCK TABLE dispatch IN ACCESS EXCLUSIVE MODE; PERFORM pg_sleep(2.5); END $$")
        await desk.create(lane)
        await until_true(lambda: all_published(desk), 25)


@pytest.mark.parametrize("name", ["dispatcher/after-lease", "dispatcher/after-publish"])
async def test_a_dispatcher_dies_with_a_lease_open(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str, name: str
) -> None:
    hints = FakeHints()
    lane = await desk.lane(concurrency=50)
    ids = await desk.create(lane, 10)
    failpoints.arm(f"{name}:1:raise")
    async with running_dispatcher(desk.url, connection, topic_prefix, hints):
        await until_true(lambda: failpoints.reached().get(name))
        await until_true(lambda: _open_leases(desk, 1))
        assert len(await desk.sweeps.heal_leases(0)) == 10
        hints.publish_soon("sw:dispatch", f"{lane} 1 0 {ids[0]}")
        await until_true(lambda: all_published(desk))
    messages = await messages_on(connection, topic_of(desk, lane, topic_prefix), at_least=10)
    assert len(messages) == (10 if name.endswith("lease") else 20)
    assert newest(messages) == await current_leases(desk)


async def _open_leases(desk: QueueDesk, count: int) -> bool:
    return len(await desk.sql("SELECT id FROM lease")) == count


async def test_three_dispatchers_share_the_work(
    desk: QueueDesk, connection: KafkaConnection, topic_prefix: str
) -> None:
    hints = FakeHints()
    lanes = [await desk.lane(concurrency=1_000) for _ in range(6)]
    names = (topic_prefix,) * 3
    async with (
        running_dispatcher(desk.url, connection, names[0], hints),
        running_dispatcher(desk.url, connection, names[1], hints),
        running_dispatcher(desk.url, connection, names[2], hints),
    ):
        ids: set[int] = set()
        async with asyncio.timeout(30):
            # Who is quickest takes most: it lasts until the second has taken something and so drawn its number.
            while len(ids) < 360 or await desk.sql("SELECT FROM dispatcher_ids WHERE last_value < 2"):
                for lane in lanes:
                    ids.update(await created(desk, hints, lane, 6))
        await until_true(lambda: all_published(desk))
    published = [
        message for lane in lanes for message in await messages_on(connection, topic_of(desk, lane, topic_prefix))
    ]
    assert len(published) == len(ids)
    assert newest(published) == await current_leases(desk)
