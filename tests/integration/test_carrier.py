"""Sending to a real broker: one answer for each record, whatever happens to the broker meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from libs.common.adapters.kafka.carrier import DEADLINE_SECONDS, KafkaCarrier, _close_hard
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.domain.errors import BrokerUnavailable
from libs.common.embedded.ports import free_port
from libs.common.ports_dispatch import Record, TopicPlan
from services.dispatcher.topic_keeper import TopicKeeper
from tests.support.broker import asks_for_metadata, broker_in, connection_to, frozen, records_on
from tests.support.servers import BrokerChoice
from tests.support.waiting import until


@pytest.fixture
def connection(kafka_bootstrap: str, broker_choice: BrokerChoice) -> KafkaConnection:
    return KafkaConnection(bootstrap=(kafka_bootstrap,), broker=broker_choice.kind)


@pytest.fixture
async def topics(connection: KafkaConnection) -> AsyncIterator[KafkaTopics]:
    topics = KafkaTopics(connection, client_id="test", replication=1)
    yield topics
    await topics.close()


@pytest.fixture
async def carrier(connection: KafkaConnection) -> AsyncIterator[KafkaCarrier]:
    carrier = KafkaCarrier(connection, client_id="test")
    yield carrier
    await carrier.close()


def records(topic: str, count: int, *, partition: int | None = 0, size: int = 100) -> list[Record]:
    return [Record(topic, partition, b"%d" % number, b"%0*d" % (size, number)) for number in range(count)]


async def test_a_batch_over_many_topics_is_acknowledged(
    carrier: KafkaCarrier, topics: KafkaTopics, connection: KafkaConnection, topic_prefix: str
) -> None:
    names = [f"{topic_prefix}.{number}" for number in range(20)]
    assert await topics.ensure({name: TopicPlan(2, 3_600_000) for name in names}) == dict.fromkeys(names, 2)
    batch = [record for name in names for record in records(name, 30, partition=1)]
    assert not carrier.reachable
    assert all(verdict.acknowledged for verdict in await carrier.send(batch))
    assert carrier.reachable
    found = await records_on(connection, names[7], partitions=2, at_least=30)
    assert [record.value for record in found] == [record.value for record in records(names[7], 30)]
    assert {record.partition for record in found} == {1}


async def test_a_record_keeps_its_key_headers_and_time(
    carrier: KafkaCarrier, topics: KafkaTopics, connection: KafkaConnection, topic_prefix: str
) -> None:
    topic, at = f"{topic_prefix}.a", int(time.time() * 1000) - 5_000
    await topics.ensure({topic: TopicPlan(12)})
    headers = [("ce_id", b"x"), ("content-type", b"application/json")]
    batch = [Record(topic, None, b"key-%d" % number, b"{}", headers, at) for number in range(50)]
    assert all(verdict.acknowledged for verdict in await carrier.send(batch * 2))
    found = await records_on(connection, topic, partitions=12, at_least=100)
    assert {record.timestamp for record in found} == {at}
    assert {tuple(record.headers) for record in found} == {tuple(headers)}
    homes = {(record.key, record.partition) for record in found}
    assert len(homes) == 50, "the key alone decides the partition"
    assert len({partition for _, partition in homes}) > 6


async def test_a_large_batch_to_one_partition(
    carrier: KafkaCarrier, topics: KafkaTopics, connection: KafkaConnection, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.a"
    await topics.ensure({topic: TopicPlan(1)})
    verdicts = await carrier.send(records(topic, 1_000, size=2_000))
    assert all(verdict.acknowledged for verdict in verdicts)
    found = await records_on(connection, topic, at_least=1_000)
    assert [int(record.value) for record in found] == list(range(1_000))


async def test_a_topic_that_is_not_there_holds_nobody_up(
    carrier: KafkaCarrier, topics: KafkaTopics, topic_prefix: str, broker_choice: BrokerChoice
) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu makes every topic that it is asked about")
    await topics.ensure({f"{topic_prefix}.a": TopicPlan(1)})
    batch = [
        *records(f"{topic_prefix}.a", 3),
        *records(f"{topic_prefix}.none", 2),
        Record(f"{topic_prefix}.a", 9, b"", b""),
    ]
    began = time.monotonic()
    verdicts = await carrier.send(batch)
    assert time.monotonic() - began < 3.5, "the producer itself would wait for four seconds"
    assert [verdict.acknowledged for verdict in verdicts] == [True] * 3 + [False] * 3
    assert not any(verdict.refused for verdict in verdicts)
    assert carrier.reachable


async def test_a_partition_that_loses_its_leader_does_not_have_the_brokers_asked_without_a_rest(
    carrier: KafkaCarrier, topics: KafkaTopics, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await topics.ensure({f"{topic_prefix}.a": TopicPlan(1)})
    assert (await carrier.send(records(f"{topic_prefix}.a", 1)))[0].acknowledged
    line = carrier._line
    assert line is not None
    client = line.producer.client
    asked = asks_for_metadata(client, monkeypatch)
    with monkeypatch.context() as lost:
        lost.setattr(client.cluster, "leader_for_partition", lambda place: -1)
        sending = asyncio.create_task(carrier.send(records(f"{topic_prefix}.a", 1)))
        await asyncio.sleep(1)
        assert 5 <= len(asked) <= 20
    assert (await sending)[0].acknowledged


async def test_a_record_that_is_too_large_is_refused_alone(
    carrier: KafkaCarrier, connection: KafkaConnection, topic_prefix: str, broker_choice: BrokerChoice
) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu has no limit")
    topic = f"{topic_prefix}.small"
    admin = AIOKafkaAdminClient(**connection.arguments())
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "2000"})])
    await admin.close()
    fine, huge = Record(topic, 0, b"k", b"x" * 300), Record(topic, 0, b"k", b"x" * 5_000)
    assert (await carrier.send([fine]))[0].acknowledged
    verdicts = await carrier.send([fine, huge, fine, fine])
    assert [verdict.acknowledged for verdict in verdicts] == [True, False, True, True]
    assert "TooLarge" in verdicts[1].refused
    assert carrier.reachable
    verdicts = await carrier.send([Record(topic, 0, b"k", b"x" * 20_000_000), fine])
    assert [bool(verdict.refused) for verdict in verdicts] == [True, False]
    assert verdicts[1].acknowledged
    assert len(await records_on(connection, topic, at_least=5)) == 5


async def test_a_wrong_address_is_said_in_plain_words() -> None:
    carrier = KafkaCarrier(KafkaConnection(bootstrap=(f"127.0.0.1:{free_port()}",)), client_id="test")
    assert not await carrier.probe()
    assert not carrier.reachable
    assert "127.0.0.1" in carrier.last_error
    assert "Connect" in carrier.last_error or "refused" in carrier.last_error
    assert not any(verdict.acknowledged for verdict in await carrier.send(records("t", 2)))
    await carrier.close()


async def test_brokers_that_say_nothing_are_asked_together_why(connection: KafkaConnection) -> None:
    """While it is asked one after the other, nobody tries whether one is back."""

    asked: set[asyncio.StreamWriter] = set()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add(writer)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        asked.remove(writer)

    async with AsyncExitStack() as closing:
        silent = [
            await closing.enter_async_context(await asyncio.start_server(say_nothing, "127.0.0.1")) for _ in "123"
        ]
        addresses = tuple(f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in silent)
        began = time.monotonic()
        cause = await KafkaConnection(addresses).diagnose()
        assert time.monotonic() - began < 5
        assert all(f"{address}: TimeoutError" in cause for address in addresses)
        began = time.monotonic()
        assert await replace(connection, bootstrap=(*addresses, *connection.bootstrap)).diagnose() == ""
        assert time.monotonic() - began < 2
        await until(lambda: not asked)


async def test_topics_that_exist_are_fine_and_bad_names_are_left_out(topics: KafkaTopics, topic_prefix: str) -> None:
    plans = {f"{topic_prefix}.a": TopicPlan(1), "..": TopicPlan(1), "a b": TopicPlan(1), "x" * 250: TopicPlan(1)}
    assert await topics.ensure(plans) == {f"{topic_prefix}.a": 1}
    assert await topics.ensure(plans) == {f"{topic_prefix}.a": 1}
    assert (await topics.existing())[f"{topic_prefix}.a"] == 1
    assert topics.refused == dict.fromkeys(("..", "a b", "x" * 250), "not a valid topic name")
    assert await topics.ensure({"": TopicPlan(1)}) == {}
    assert list(topics.refused) == [""]


async def test_why_a_broker_makes_no_topic_is_said_in_its_words(
    connection: KafkaConnection, topic_prefix: str, broker_choice: BrokerChoice
) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu keeps one copy and says nothing")
    topics, topic = KafkaTopics(connection, client_id="t", replication=3), f"{topic_prefix}.a"
    assert await topics.ensure({topic: TopicPlan(1)}) == {}
    assert topics.refused[topic].startswith("InvalidReplicationFactor")
    single = KafkaTopics(connection, client_id="t", replication=1)
    assert await single.ensure({topic: TopicPlan(1)}) == {topic: 1}
    assert await topics.ensure({topic: TopicPlan(1)}) == {topic: 1}, "somebody made it"
    assert topics.refused == {}
    await topics.close()
    await single.close()


async def test_a_refused_topic_is_asked_for_more_and_more_seldom_and_holds_no_other_up(
    connection: KafkaConnection, topic_prefix: str, broker_choice: BrokerChoice
) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu keeps one copy and says nothing")
    strict = KafkaTopics(connection, client_id="t", replication=3)
    lenient = KafkaTopics(connection, client_id="t", replication=1)
    asked: list[int] = []
    there: list[int | None] = []

    class Counted:
        refused: Mapping[str, str] = {}

        async def ensure(self, plans: Mapping[str, TopicPlan]) -> dict[str, int]:
            topics = strict if "no" in "".join(plans) else lenient
            asked.append(len(plans))
            answer = await topics.ensure(plans)
            self.refused = topics.refused
            return answer

        async def existing(self) -> dict[str, int]:
            return await strict.existing()

    keeper = TopicKeeper(Counted(), Random(1))
    running = asyncio.create_task(keeper.run())
    keeper.want(f"{topic_prefix}.no", TopicPlan(1), lambda partitions: None)
    await until(lambda: len(asked) >= 2)
    began = time.monotonic()
    keeper.want(f"{topic_prefix}.yes", TopicPlan(1), there.append)
    await until(lambda: there == [1])
    assert time.monotonic() - began < 1.5
    await asyncio.sleep(4)
    assert len(asked) <= 8
    assert keeper.refused()[f"{topic_prefix}.no"].startswith("InvalidReplicationFactor")
    running.cancel()
    await asyncio.wait([running])
    await strict.close()
    await lenient.close()


async def test_partitions_are_added_where_the_broker_can(
    topics: KafkaTopics, carrier: KafkaCarrier, topic_prefix: str, broker_choice: BrokerChoice
) -> None:
    topic = f"{topic_prefix}.a"
    await topics.ensure({topic: TopicPlan(1)})
    assert (await carrier.send(records(topic, 1)))[0].acknowledged
    grown = await topics.ensure({topic: TopicPlan(3)})
    assert grown == {topic: 1 if broker_choice.kind == "tansu" else 3}
    if broker_choice.kind != "tansu":
        assert (await carrier.send(records(topic, 1, partition=2)))[0].acknowledged


async def test_a_broker_that_is_not_there_is_an_error_of_ours() -> None:
    topics = KafkaTopics(KafkaConnection(bootstrap=(f"127.0.0.1:{free_port()}",)), client_id="t", replication=1)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
        await topics.ensure({"a": TopicPlan(1)})
    await topics.close()


@pytest.mark.long
async def test_a_frozen_broker_costs_the_deadline_and_what_was_given_up_is_not_sent_later(
    servers_folder: Path, tmp_path: Path
) -> None:
    folder = servers_folder / "frozen"
    async with broker_in(folder) as broker:
        connection = connection_to(broker)
        topics, carrier = KafkaTopics(connection, client_id="t", replication=1), KafkaCarrier(connection, client_id="t")
        await topics.ensure({"t": TopicPlan(1)})
        assert (await carrier.send(records("t", 1)))[0].acknowledged
        with frozen(broker):
            began = time.monotonic()
            verdicts = await carrier.send(records("t", 10, size=50))
            assert DEADLINE_SECONDS - 0.6 < time.monotonic() - began < DEADLINE_SECONDS + 6
            assert not any(verdict.acknowledged or verdict.refused for verdict in verdicts)
            assert not carrier.reachable
            second = await carrier.send(records("t", 10, size=60))
            assert not any(verdict.acknowledged for verdict in second)
        async with asyncio.timeout(10):
            while not await carrier.probe():
                await asyncio.sleep(0.1)
        verdicts = await carrier.send(records("t", 10, size=70))
        assert all(verdict.acknowledged for verdict in verdicts)
        sizes = Counter(len(record.value) for record in await records_on(connection, "t", at_least=11, quiet=2))
        assert sizes[70] == 10
        assert sizes[50] in (0, 10), "the batch that was in the socket may arrive: unavoidable"
        assert sizes[60] == 0, "what never reached the socket is never sent"
        await carrier.close()
        await topics.close()


@pytest.mark.long
async def test_a_batch_that_got_no_answer_takes_no_other_with_it(servers_folder: Path) -> None:
    async with broker_in(servers_folder / "partly", "kafka") as broker:
        connection = connection_to(broker)
        topics, carrier = KafkaTopics(connection, client_id="t", replication=1), KafkaCarrier(connection, client_id="t")
        await topics.ensure({"a": TopicPlan(1), "b": TopicPlan(1)})
        assert all(verdict.acknowledged for verdict in await carrier.send(records("a", 1) + records("b", 1)))
        with frozen(broker):
            late = asyncio.create_task(carrier.send(records("a", 5)))
            await asyncio.sleep(3)
            other = asyncio.create_task(carrier.send(records("b", 5)))
            assert not any(verdict.acknowledged for verdict in await late)
        assert all(verdict.acknowledged for verdict in await other)
        await carrier.close()
        await topics.close()


@pytest.mark.long
async def test_a_broker_that_is_killed_and_comes_back(servers_folder: Path) -> None:
    async with broker_in(servers_folder / "killed", "") as broker:
        connection = connection_to(broker)
        topics, carrier = KafkaTopics(connection, client_id="t", replication=1), KafkaCarrier(connection, client_id="t")
        await topics.ensure({"t": TopicPlan(1)})
        assert all(verdict.acknowledged for verdict in await carrier.send(records("t", 5)))
        await broker.kill()
        assert not any(verdict.acknowledged for verdict in await carrier.send(records("t", 5, size=50)))
        assert not await carrier.probe()
        await broker.start()
        async with asyncio.timeout(20):
            while not await carrier.probe():
                await asyncio.sleep(0.1)
        await topics.ensure({"t": TopicPlan(1)})
        verdicts = await carrier.send(records("t", 5, size=70))
        assert all(verdict.acknowledged for verdict in verdicts)
        sizes = Counter(len(record.value) for record in await records_on(connection, "t", at_least=5))
        assert (sizes[50], sizes[70]) == (0, 5)
        await carrier.close()
        await topics.close()


async def test_a_broker_that_forgot_its_topics_is_not_believed(servers_folder: Path) -> None:
    """What it acknowledges counts only if it has the topic: it may, on a slow machine, at the second request."""
    async with broker_in(servers_folder / "forgetful", "tansu") as broker, AsyncExitStack() as closing:
        connection = connection_to(broker)
        topics, carrier = KafkaTopics(connection, client_id="t", replication=1), KafkaCarrier(connection, client_id="t")
        closing.push_async_callback(topics.close)
        closing.push_async_callback(carrier.close)
        await topics.ensure({"t": TopicPlan(3)})
        assert all(verdict.acknowledged for verdict in await carrier.send(records("t", 5)))
        await broker.kill()
        await broker.start()
        for size in (50, 60):
            verdicts = await carrier.send(records("t", 5, size=size))
            assert not any(verdict.acknowledged for verdict in verdicts) or "t" in await listed(connection)
        await topics.ensure({"t": TopicPlan(3)})
        async with asyncio.timeout(40):  # it stumbles over the first record of a topic that is there again
            while not all(verdict.acknowledged for verdict in await carrier.send(records("t", 5, size=70))):
                await asyncio.sleep(0.1)
        assert 70 in {len(record.value) for record in await records_on(connection, "t", at_least=5)}


async def listed(connection: KafkaConnection) -> list[str]:
    """The topics that a new client sees."""
    admin = AIOKafkaAdminClient(**connection.arguments())
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


async def test_the_hard_close_still_fits_the_client(connection: KafkaConnection) -> None:
    """It uses names that are not public: a new aiokafka must keep them, or `_close_hard` must change."""
    producer = AIOKafkaProducer(**connection.arguments())
    await producer.start()
    task = producer._sender.sender_task
    assert task is not None
    assert not task.done()
    await _close_hard(producer)
    assert producer._closed is True
    assert task.done()
    assert producer.client._sync_task is None
    assert not any(each.connected() for each in producer.client._conns.values())
