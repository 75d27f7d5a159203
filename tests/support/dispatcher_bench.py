"""Whole dispatchers in this process, over a real database and a real broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresDispatchQueue, PostgresEvents
from libs.common.contracts.dispatch_message import DispatchMessage, decode
from libs.common.contracts.topics import events_topic
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.event_relay import EventRelay
from services.dispatcher.lanes import LaneBook
from services.dispatcher.publisher import Publisher
from services.dispatcher.relay import Relay
from services.dispatcher.roads import Roads
from services.dispatcher.topic_keeper import TopicKeeper
from tests.support.broker import records_on
from tests.support.dispatcher_fakes import FakeGate
from tests.support.fakes_redis import FakeHints


class Running:
    """A dispatcher at work."""

    def __init__(self, dispatcher: Dispatcher, roads: Roads, carrier: KafkaCarrier, gate: FakeGate) -> None:
        self.dispatcher, self.roads, self.carrier, self.gate = dispatcher, roads, carrier, gate


@asynccontextmanager
async def running_dispatcher(
    url: str, connection: KafkaConnection, prefix: str, hints: FakeHints, *, kill: bool = False
) -> AsyncIterator[Running]:
    """At work for the length of the block; then stopped in good order, or cut off with `kill`."""
    async with open_database(url) as database, AsyncExitStack() as closing:
        queue, events = PostgresDispatchQueue(database), PostgresEvents(database)
        closing.push_async_callback(events.close)
        carrier, event_carrier = KafkaCarrier(connection, client_id="d"), KafkaCarrier(connection, client_id="e")
        topics = KafkaTopics(connection, client_id="t", replication=1)
        for each in (carrier, event_carrier, topics):
            closing.push_async_callback(each.close)
        book, gate, rng = LaneBook(), FakeGate(), Random(1)
        keeper = TopicKeeper(topics, rng)
        roads = Roads(queue, book, keeper, topic_prefix=prefix)
        publisher = Publisher(queue, carrier, gate, hints, roads, rng)
        relay = Relay(queue, carrier, publisher, book, roads, rng)
        event_relay = EventRelay(events, event_carrier, keeper, topic=events_topic(prefix), source="/test", rng=rng)
        dispatcher = Dispatcher(relay, event_relay, roads, keeper, book, hints)
        life = asyncio.create_task(dispatcher.run())
        try:
            yield Running(dispatcher, roads, carrier, gate)
        finally:
            if kill:
                life.cancel()
            else:
                dispatcher.stop()
            await asyncio.wait([life], timeout=20)
            assert life.done()


async def messages_on(
    connection: KafkaConnection, topic: str, *, partitions: int = 1, at_least: int = 0
) -> list[DispatchMessage]:
    """The claim checks on a model's topic; none twice under one lease."""
    records = await records_on(connection, topic, partitions=partitions, at_least=at_least)
    messages = [decode(record.value) for record in records]
    assert all(record.partition == message.task % partitions for record, message in zip(records, messages, strict=True))
    twice = [pair for pair, n in Counter((message.task, message.lease) for message in messages).items() if n > 1]
    assert not twice
    return messages


async def until_true(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition, asynchronous or not; fails when it does not come."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.02)
