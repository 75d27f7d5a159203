"""The sending side of Kafka: whole batches, one answer for every record, a deadline of our own."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.metadata import MetadataRequest

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.ports_dispatch import Record, SendVerdict
from libs.common.runtime.logging import get_logger

log = get_logger()

_Place: TypeAlias = tuple[str, int]
_Batch: TypeAlias = tuple[BatchBuilder, list[int]]

#: An idempotent producer never gives up by itself (kafka.md 5), so this deadline is ours.
DEADLINE_SECONDS: Final = 4.5
_OPEN_SECONDS: Final = 3.0
_PROBE_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 1.0
_REQUEST_TIMEOUT_MS: Final = 4_000
#: Below a broker's default limit for one batch of records (1,048,588 bytes).
_BATCH_BYTES: Final = 512 * 1024
#: Larger than any broker takes; keeps one record from occupying the connection until the deadline.
_RECORD_BYTES: Final = 16 * 1024 * 1024
#: A topic that was just made may need a moment to be known to the broker that we ask.
_METADATA_PAUSES: Final = (0.0, 0.02, 0.1)
#: The record's own fault: sending it again changes nothing, and its neighbours are fine.
_REFUSALS: Final = (
    CorruptRecordException,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)
_ACKNOWLEDGED: Final = SendVerdict(True)
_UNSENT: Final = SendVerdict(False)
_partitioner: Final = DefaultPartitioner()


class KafkaCarrier:
    """Implements ports_dispatch.Carrier. A producer that failed anything is closed hard and built anew: it would keep
    records that we give back, and send them later (kafka.md 5)."""

    def __init__(self, connection: KafkaConnection, *, client_id: str) -> None:
        self._connection = connection
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()
        self._reachable = False
        self._last_error = ""

    @property
    def reachable(self) -> bool:
        return self._reachable

    @property
    def last_error(self) -> str:
        return self._last_error

    async def send(self, records: Sequence[Record]) -> list[SendVerdict]:
        verdicts = [_UNSENT] * len(records)
        producer = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                producer = await self._open()
                if producer is not None:
                    await _Consignment(producer, records, verdicts).send()
        except (TimeoutError, KafkaError, OSError) as error:
            await self._distrust(producer, _cause(error))
        return verdicts

    async def probe(self) -> bool:
        producer = await self._open()
        if producer is None:
            return False
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                # No topics: the smallest question there is.
                await producer.client.send(producer.client.get_random_node(), MetadataRequest([]))
        except (TimeoutError, KafkaError, OSError) as error:
            await self._distrust(producer, _cause(error))
        else:
            self._reachable = True
        return self._reachable

    async def close(self) -> None:
        """Let go of the connection; what was not acknowledged is not sent any more."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _close_hard(producer)

    async def _open(self) -> AIOKafkaProducer | None:
        if self._producer is not None:
            return self._producer
        async with self._opening:
            if self._producer is None:
                await self._build()
        return self._producer

    async def _build(self) -> None:
        producer = AIOKafkaProducer(
            **self._connection.arguments(),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=self._connection.idempotent,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=_RECORD_BYTES,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            retry_backoff_ms=100,
        )
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await producer.start()
        except (TimeoutError, KafkaError, OSError) as error:
            await _close_hard(producer)
            self._reachable = False
            self._last_error = await self._connection.diagnose() or _cause(error)
            return
        except BaseException:
            await _close_hard(producer)
            raise
        self._producer, self._reachable = producer, True

    async def _distrust(self, producer: AIOKafkaProducer | None, cause: str) -> None:
        log.warning("kafka.send_failed", cause=cause)
        self._reachable, self._last_error = False, cause
        if producer is not None and producer is self._producer:
            self._producer = None
            await _close_hard(producer)


class _Consignment:
    """One batch on its way: fills in `verdicts` as answers come."""

    def __init__(self, producer: AIOKafkaProducer, records: Sequence[Record], verdicts: list[SendVerdict]) -> None:
        self._producer = producer
        self._records = records
        self._verdicts = verdicts
        self._failure: BaseException | None = None

    async def send(self) -> None:
        """Returns when every record has its verdict. Raises what made the broker fail to answer for some."""
        places = await self._places()
        suspects = await self._send_batches(self._batches(places))
        # Refused as a batch: each alone, so that only the guilty ones stay refused.
        for index in suspects:
            await self._send_batches(self._batches({index: places[index]}))
        if self._failure is not None:
            raise self._failure

    async def _places(self) -> dict[int, _Place]:
        """Topic and partition of each record; those whose topic is not there are left out.

        `send()` of a producer waits seconds for such a topic: it is never asked about one (kafka.md 4).
        """
        await self._learn({record.topic for record in self._records})
        places: dict[int, _Place] = {}
        for index, record in enumerate(self._records):
            if len(record.value) > _RECORD_BYTES:
                self._verdicts[index] = SendVerdict(False, f"{len(record.value)} bytes are too large")
                continue
            partition = self._partition(record)
            if partition is not None:
                places[index] = (record.topic, partition)
            elif record.topic in self._producer.client.cluster.unauthorized_topics:
                self._verdicts[index] = SendVerdict(False, "TopicAuthorizationFailedError")
        return places

    async def _learn(self, topics: set[str]) -> None:
        client = self._producer.client
        for pause in _METADATA_PAUSES:
            missing = [topic for topic in topics if not client.cluster.available_partitions_for_topic(topic)]
            if not missing:
                return
            await asyncio.sleep(pause)
            for topic in missing:
                client.add_topic(topic)
            await client.force_metadata_update()

    def _partition(self, record: Record) -> int | None:
        cluster = self._producer.client.cluster
        available = cluster.available_partitions_for_topic(record.topic)
        if not available:
            return None
        if record.partition is not None:
            return record.partition if record.partition in available else None
        every = sorted(cluster.partitions_for_topic(record.topic))
        chosen: int = _partitioner(record.key, every, every)
        return chosen if chosen in available else None

    def _batches(self, places: dict[int, _Place]) -> dict[_Place, list[_Batch]]:
        batches: dict[_Place, list[_Batch]] = defaultdict(list)
        for index, place in places.items():
            record, of_place = self._records[index], batches[place]
            if not of_place or not self._append(of_place[-1], index, record):
                of_place.append((self._producer.create_batch(), []))
                self._append(of_place[-1], index, record)
        return batches

    def _append(self, batch: _Batch, index: int, record: Record) -> bool:
        builder, indexes = batch
        timestamp = record.timestamp_ms if record.timestamp_ms is not None else int(time.time() * 1000)
        if (
            builder.append(timestamp=timestamp, key=record.key, value=record.value, headers=list(record.headers))
            is None
        ):
            return False
        indexes.append(index)
        return True

    async def _send_batches(self, batches: dict[_Place, list[_Batch]]) -> list[int]:
        """Send and wait; returns the records of refused batches of several."""
        flights: dict[asyncio.Future[object], list[int]] = {}
        for turn in range(max(map(len, batches.values()), default=0)):
            for (topic, partition), of_place in batches.items():
                if turn < len(of_place):
                    builder, indexes = of_place[turn]
                    flight = await self._producer.send_batch(builder, topic, partition=partition)
                    flight.add_done_callback(_look_at)
                    flights[flight] = indexes
        suspects: list[int] = []
        try:
            if flights:
                await asyncio.wait(flights)
        finally:  # at the deadline too: what was acknowledged by then is on the road
            for flight, indexes in flights.items():
                if flight.done():
                    suspects += self._judge(flight, indexes)
        return suspects

    def _judge(self, flight: asyncio.Future[object], indexes: Iterable[int]) -> list[int]:
        error = flight.exception()
        many = list(indexes)
        if error is None:
            for index in many:
                self._verdicts[index] = _ACKNOWLEDGED
        elif not isinstance(error, _REFUSALS):
            self._failure = error
        elif len(many) > 1:
            return many
        else:
            self._verdicts[many[0]] = SendVerdict(False, f"{type(error).__name__}: {error}"[:500])
        return []


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")[:500]


def _look_at(flight: asyncio.Future[object]) -> None:
    """Its error is read even if the deadline came first, so that nobody logs it as lost."""
    if not flight.cancelled():
        flight.exception()


async def _close_hard(producer: AIOKafkaProducer) -> None:
    """End a producer without sending what it still holds. There is no public call: `stop()` flushes first, and its
    sender lives on for ever when the broker is away. A test guards these names against a new aiokafka."""
    producer._closed = True
    closing = asyncio.gather(producer._sender.close(), producer.client.close(), return_exceptions=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(closing, _CLOSE_SECONDS)
