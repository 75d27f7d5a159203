"""One batch of records on its way: which producer calls it takes, and what each answer means."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTopicError,
    KafkaError,
    OutOfOrderSequenceNumber,
    PolicyViolationError,
    TopicAuthorizationFailedError,
    UnknownProducerId,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

from libs.common.ports_dispatch import Record, SendVerdict
from libs.common.runtime.seen import seen

_Place: TypeAlias = tuple[str, int]
_Batch: TypeAlias = tuple[BatchBuilder, list[int]]

#: Larger than any broker takes; keeps one record from occupying the connection until the deadline.
RECORD_BYTES: Final = 16 * 1024 * 1024
UNSENT: Final = SendVerdict(False)
_ACKNOWLEDGED: Final = SendVerdict(True)
#: A topic that was just made may need a moment to be known to the broker that we ask.
_METADATA_PAUSES: Final = (0.0, 0.02, 0.1)
#: Refusals that hold for every record of the topic; others may be the fault of one record of the batch.
_TOPIC_REFUSALS: Final = (
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
)
#: Not the records' fault but the producer's: a new one will do.
_PRODUCER_FAULTS: Final = (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    OutOfOrderSequenceNumber,
    UnknownProducerId,
)
_partitioner: Final = DefaultPartitioner()


class Consignment:
    """One batch on its way: fills in `verdicts` as answers come."""

    def __init__(self, producer: AIOKafkaProducer, records: Sequence[Record], verdicts: list[SendVerdict]) -> None:
        self._producer = producer
        self._records = records
        self._verdicts = verdicts
        self._failure: BaseException | None = None

    async def send(self) -> list[int]:
        """Returns when every record has its verdict, but for those of a batch that was refused because of one of them.

        Raises what made the broker fail to answer for some.
        """
        suspects = await self._send_batches(self._batches(await self._places()))
        if self._failure is not None:
            raise self._failure
        return suspects

    async def _places(self) -> dict[int, _Place]:
        """Topic and partition of each record; those whose topic is not there are left out.

        `send()` of a producer waits seconds for such a topic: it is never asked about one.
        """
        await self._learn({(record.topic, record.partition) for record in self._records})
        cluster = self._producer.client.cluster
        available = {
            topic: cluster.available_partitions_for_topic(topic) or ()
            for topic in {record.topic for record in self._records}
        }
        places: dict[int, _Place] = {}
        for index, record in enumerate(self._records):
            partition = record.partition if record.partition is not None else self._partition_by_key(record)
            if len(record.value) > RECORD_BYTES:
                self._verdicts[index] = SendVerdict(False, f"{len(record.value)} bytes are too large")
            elif partition in available[record.topic]:
                places[index] = (record.topic, partition)
            elif record.topic in cluster.unauthorized_topics:
                self._verdicts[index] = SendVerdict(False, "TopicAuthorizationFailedError")
        return places

    def _partition_by_key(self, record: Record) -> int:
        """Where every Kafka client puts that key; -1 when the topic is not there."""
        every = sorted(self._producer.client.cluster.partitions_for_topic(record.topic) or ())
        return _partitioner(record.key, every, every) if every else -1

    async def _learn(self, places: Iterable[tuple[str, int | None]]) -> None:
        client = self._producer.client
        for pause in _METADATA_PAUSES:
            missing = {topic for topic, partition in places if not self._is_known(topic, partition)}
            if not missing:
                return
            await asyncio.sleep(pause)
            for topic in missing:
                client.add_topic(topic)
            await client.force_metadata_update()

    def _is_known(self, topic: str, partition: int | None) -> bool:
        available = self._producer.client.cluster.available_partitions_for_topic(topic)
        return bool(available) and (partition is None or partition in available)

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
        headers = list(record.headers)
        taken = builder.append(timestamp=timestamp, key=record.key, value=record.value, headers=headers) is not None
        if taken:
            indexes.append(index)
        return taken

    async def _send_batches(self, batches: dict[_Place, list[_Batch]]) -> list[int]:
        """Send and wait; returns the records of refused batches of several."""
        flights: dict[asyncio.Future[object], list[int]] = {}
        for turn in range(max(map(len, batches.values()), default=0)):
            for (topic, partition), of_place in batches.items():
                if turn < len(of_place):
                    builder, indexes = of_place[turn]
                    flight = await self._producer.send_batch(builder, topic, partition=partition)
                    flight.add_done_callback(seen)  # the deadline may come first
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

    def _judge(self, flight: asyncio.Future[object], indexes: list[int]) -> list[int]:
        """The verdicts of one batch; returns the records among which a refused batch's guilty one may be."""
        error = KafkaError("the send was cut off") if flight.cancelled() else flight.exception()
        if error is None:
            for index in indexes:
                self._verdicts[index] = _ACKNOWLEDGED
        elif not _is_refusal(error):
            self._failure = error
        elif len(indexes) > 1 and not isinstance(error, _TOPIC_REFUSALS):
            return indexes
        else:
            for index in indexes:
                self._verdicts[index] = SendVerdict(False, cause_of(error))
        return []


def _is_refusal(error: BaseException) -> bool:
    """The broker took the question and said no, and will say no again."""
    refused = isinstance(error, BrokerResponseError) and not error.retriable
    return refused and not isinstance(error, _PRODUCER_FAULTS)


def cause_of(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".rstrip(": ")[:500]
