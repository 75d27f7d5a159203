"""Kafka's topics as an auditor reads them: from the start to where they end now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from libs.common.adapters.kafka.choking import chokes
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.consumer import started, stop
from libs.common.adapters.kafka.topics import existing_topics
from libs.common.domain.errors import BrokerUnavailable
from libs.common.ports_audit import FirstRecord, LogRecord

_START_SECONDS: Final = 5.0
_LOOK_UP_SECONDS: Final = 15.0
#: A broker that gives nothing for so long, although there is something, is away.
_SILENCE_SECONDS: Final = 15.0
_POLL_MS: Final = 300
_BATCH: Final = 2_000


class KafkaLog:
    """Implements ports_audit.Log, over a consumer of its own for each reading."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection

    async def begins(self, topic: str) -> list[FirstRecord]:
        async with self._reading([topic]) as reading:
            firsts = []
            for place in reading.places:
                if await _has_any(reading.consumer, place) and (record := await reading.first(place)):
                    firsts.append(FirstRecord(record.offset, record.timestamp_ms))
            return firsts

    async def read(self, topics: Sequence[str]) -> AsyncIterator[list[LogRecord]]:
        async with self._reading(topics) as reading:
            if not reading.places:
                return
            ends = await _asked(reading.consumer.end_offsets(reading.places))
            await reading.begin()
            loop = asyncio.get_running_loop()
            heard = loop.time()
            while True:
                batch = await reading.next()
                if batch:
                    heard = loop.time()
                    yield batch
                # Also the empty fetch: Tansu says that its logs end sooner than they do.
                elif await _reached(reading.consumer, ends):
                    return
                elif loop.time() - heard > _SILENCE_SECONDS:
                    raise BrokerUnavailable("Kafka gives nothing although there is more to read")

    async def follow(self, topic: str, since_ms: int) -> AsyncGenerator[list[LogRecord], None]:
        """What the topic got since an instant (ms of the epoch), and what comes, for ever. Raises BrokerUnavailable.

        The first batch is empty: from then on nothing that comes is missed.
        """
        async with self._reading([topic]) as reading:
            consumer, places = reading.consumer, reading.places
            if not places:
                raise BrokerUnavailable(f"there is no topic {topic} yet; a running dispatcher makes it")
            if since_ms > 0:
                # Where nothing is that young, the end. Tansu says it too low: until nothing more lies there, each
                # record's time decides. Not later: an event that is sent again has the time of its task's end.
                ends = await _asked(consumer.end_offsets(places))
                found = await _asked(consumer.offsets_for_times(dict.fromkeys(places, since_ms)))
                for place in places:
                    consumer.seek(place, found[place].offset if found.get(place) else ends[place])
            await reading.begin()
            yield []
            oldest = max(1, since_ms)
            while True:
                batch = await reading.next()
                if not batch:
                    oldest = 1  # what the client cannot take has no time
                elif wanted := [record for record in batch if record.timestamp_ms >= oldest]:
                    yield wanted

    @asynccontextmanager
    async def _reading(self, topics: Sequence[str]) -> AsyncIterator[_Reading]:
        """A consumer at the start of those topics that exist (asking for others might create them)."""
        existing = await existing_topics(self._connection, client_id="sluiceway-audit")
        places = [TopicPartition(topic, number) for topic in topics for number in range(existing.get(topic, 0))]
        consumer = await started(self._connection, "sluiceway-audit", seconds=_START_SECONDS)
        try:
            if places:
                consumer.assign(places)
                await _asked(consumer.seek_to_beginning(*places))
            yield _Reading(consumer, places)
        finally:
            await asyncio.shield(stop(consumer))


class _Reading:
    """Partitions that are read together. A record that the client cannot take comes without time and content."""

    def __init__(self, consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> None:
        self.consumer = consumer
        self.places = places
        self._next: dict[TopicPartition, int] = {}

    async def begin(self) -> None:
        """Find where reading begins."""
        self._next = {place: await _asked(self.consumer.position(place)) for place in self.places}

    async def first(self, place: TopicPartition) -> LogRecord | None:
        """The first record of one partition that can be taken; None when it does not come in time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began <= _LOOK_UP_SECONDS:
            record, taken = await self._one(place)
            if record is not None and taken:
                return record
        return None

    async def next(self) -> list[LogRecord]:
        """What is there; nothing after a short while without any."""
        try:
            batches = await _asked(self.consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH))
            found = [_record(record) for batch in batches.values() for record in batch]
        except BrokerUnavailable:
            raise
        except Exception:
            found = await self._singly()
        for record in found:
            self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1
        return found

    async def _singly(self) -> list[LogRecord]:
        """Up to the first record that cannot be taken, and that one."""
        for place, offset in self._next.items():
            self.consumer.seek(place, offset)
        found: list[LogRecord] = []
        for place in self.places:
            if (self.consumer.highwater(place) or 0) <= self._next[place]:
                continue  # nothing of it is unread
            for _ in range(_BATCH):
                record, taken = await self._one(place)
                if record is None:
                    break
                found.append(record)
                if not taken:
                    return found
        return found

    async def _one(self, place: TopicPartition) -> tuple[LogRecord | None, bool]:
        """The next record of a partition, if one is there, and whether it could be taken."""
        try:
            batch = await _asked(self.consumer.getmany(place, timeout_ms=_POLL_MS, max_records=1))
        except BrokerUnavailable:
            raise
        except Exception:
            offset = await _asked(self.consumer.position(place))
            self.consumer.seek(place, offset + 1)
            return LogRecord(place.topic, place.partition, offset, 0, None, None, ()), False
        return (_record(batch[place][0]), True) if batch else (None, True)


async def _has_any(consumer: AIOKafkaConsumer, place: TopicPartition) -> bool:
    begins, ends = await _asked(consumer.beginning_offsets([place])), await _asked(consumer.end_offsets([place]))
    return bool(ends[place] > begins[place])


async def _reached(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    for place, end in ends.items():
        if await _asked(consumer.position(place)) < end:
            return False
    return True


async def _asked(question: Any) -> Any:
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            return await question
    except (KafkaError, OSError, TimeoutError) as error:
        if chokes(error):
            raise
        raise BrokerUnavailable(f"Kafka does not answer: {type(error).__name__}") from error


def _record(record: Any) -> LogRecord:
    return LogRecord(
        record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers)
    )
