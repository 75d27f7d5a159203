"""Reading from Kafka by assignment, over bare aiokafka."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
)

from libs.common.adapters.kafka.choking import chokes
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.consignment import cause_of
from libs.common.adapters.kafka.consumer import cancelled_by_us, started, stop, within
from libs.common.domain.errors import BrokerUnavailable
from libs.common.ports_road import RoadRecord, Spot, Unreadable
from libs.common.runtime.backoff import set_within
from libs.common.runtime.logging import get_logger

log = get_logger()

_BATCH: Final = 500
_START_SECONDS: Final = 3.0
_LOOK_UP_SECONDS: Final = 3.0
#: Asked for more at once a slow broker would answer for none in time, and the same would be asked again for ever.
_LOOKED_UP_AT_ONCE: Final = 100
_METADATA_SECONDS: Final = 0.5
#: A broker answers a fetch within its wait of some milliseconds, and what was assigned anew is fetched at once.
_UNHEARD_SECONDS: Final = 2.0
_METADATA_PAUSE: Final = 0.01


class KafkaRoad:
    """Implements ports_road.Road."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._consumer: AIOKafkaConsumer | None = None
        self._assigned = asyncio.Event()
        self._assigned_at = 0.0
        self._next: dict[Spot, int] = {}  #: what was not handed out yet of each partition begins there
        self._refused: set[str] = set()  #: topics that may not be read, as far as this connection was told

    async def rebuild(self) -> None:
        await self.close()
        self._consumer = await started(self._connection, "sluiceway-executor", seconds=_START_SECONDS)

    async def close(self) -> None:
        """Let go of the broker."""
        consumer, self._consumer = self._consumer, None
        self._assigned.clear()
        self._refused.clear()
        if consumer is not None:
            await stop(consumer)

    def assign(self, cursors: Mapping[Spot, int | None]) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        if not cursors:
            # Not assign([]): that makes the client ask for the metadata of every topic there is.
            consumer.pause(*consumer.assignment())
            return
        self._next = {spot: offset for spot, offset in cursors.items() if offset is not None}
        consumer.assign([TopicPartition(*spot) for spot in cursors])
        # In the same turn of the loop: nothing is ever fetched from a position that is not ours.
        for spot, offset in cursors.items():
            consumer.seek(TopicPartition(*spot), offset or 0)
            if offset is None:
                consumer.pause(TopicPartition(*spot))
        self._assigned.set()
        self._assigned_at = time.monotonic()

    def seek(self, spot: Spot, offset: int) -> None:
        if self._consumer is not None:
            with suppress(IllegalStateError):
                self._consumer.seek(TopicPartition(*spot), offset)
                self._next[spot] = offset
                self._consumer.resume(TopicPartition(*spot))

    def heard(self, spot: Spot) -> bool:
        consumer, place = self._consumer, TopicPartition(*spot)
        if consumer is None or place not in consumer.assignment():
            return True
        early = time.monotonic() - self._assigned_at < _UNHEARD_SECONDS
        return early or spot.topic in self._refused or consumer.last_poll_timestamp(place) is not None

    async def read(self, seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
        consumer = self._consumer
        if consumer is None:
            raise BrokerUnavailable("no connection to Kafka")
        if not self._assigned.is_set():  # getmany without an assignment waits for ever
            await set_within(self._assigned, seconds)
            return {}
        try:
            with cancelled_by_us():
                records: Mapping[Spot, Sequence[RoadRecord]] = await consumer.getmany(
                    timeout_ms=int(seconds * 1_000), max_records=_BATCH
                )
        except RecordTooLargeError as error:
            raise _too_large(error) from error
        except TopicAuthorizationFailedError as error:
            # Others can be read. Its rows stay unclaimed: the healer asks for it again, ever more rarely.
            (topic,) = error.args
            self._refused.add(topic)
            log.warning("road.topic_refused", topic=topic)
            consumer.pause(*(place for place in consumer.assignment() if place.topic == topic))
            records = {}
        except Exception as error:
            if not chokes(error):
                raise BrokerUnavailable(f"reading from Kafka failed: {type(error).__name__}") from error
            records = await self._before_unreadable(consumer, error)
        self._next.update((Spot(*place), batch[-1].offset + 1) for place, batch in records.items() if batch)
        return records

    async def _before_unreadable(
        self, consumer: AIOKafkaConsumer, error: Exception
    ) -> Mapping[Spot, Sequence[RoadRecord]]:
        """What lies before the record that the client choked on. Raises Unreadable if nothing does.

        It is in the partition that fails again when it is asked alone. What else the client had taken, of this
        partition or of others, is gone with its error: all are sought back to where they stood.
        """
        try:
            for place in consumer.assignment():
                found = await self._look_at(consumer, place)
                if found is not None:
                    return found
        except (KafkaError, ConsumerStoppedError, TimeoutError) as broken:
            raise BrokerUnavailable(f"reading from Kafka failed: {type(broken).__name__}") from broken
        finally:
            for spot, offset in self._next.items():
                with suppress(IllegalStateError):
                    consumer.seek(TopicPartition(*spot), offset)
        raise BrokerUnavailable(f"reading from Kafka failed: {type(error).__name__}") from error

    async def _look_at(
        self, consumer: AIOKafkaConsumer, place: TopicPartition
    ) -> Mapping[Spot, Sequence[RoadRecord]] | None:
        """The next records of a partition, each taken alone, up to one that cannot be; None if all can. Raises
        Unreadable if the first cannot.
        """
        spot = Spot(place.topic, place.partition)
        begin = self._next.get(spot)
        if begin is None:
            return None
        found: list[RoadRecord] = []
        async with within(_LOOK_UP_SECONDS):
            offset = min(begin, await consumer.position(place))
            if (consumer.highwater(place) or offset) <= offset:
                return None  # nothing of it is unread
            consumer.seek(place, offset)
            try:
                while len(found) < _BATCH:
                    alone = await consumer.getmany(place, timeout_ms=1_000, max_records=1)
                    if not alone:
                        return None
                    found += alone[place]
            except Exception as again:
                if not chokes(again):
                    raise
                if self._next.get(spot) != begin:
                    return {}  # somebody sought meanwhile
                if not found:
                    where = await consumer.position(place)
                    raise Unreadable(spot, where, f"unreadable bytes: {cause_of(again)}") from again
                self._next[spot] = found[-1].offset + 1
                return {spot: found}
        return None

    async def offsets(self, since: Mapping[Spot, int]) -> dict[Spot, int]:
        consumer = self._consumer
        if consumer is None:
            raise BrokerUnavailable("no connection to Kafka")
        by_leader: defaultdict[int, dict[Spot, Any]] = defaultdict(dict)
        for spot, (place, leader) in (await _known(consumer, since)).items():
            by_leader[leader][spot] = place
        answers = await asyncio.gather(
            *(_offsets(consumer, places, since) for places in by_leader.values()), return_exceptions=True
        )
        found: dict[Spot, int] = {}
        failure: BaseException | None = None
        for answer in answers:
            if isinstance(answer, BaseException):
                failure = answer
            else:
                found |= answer
        if failure is not None and not isinstance(failure, KafkaError | TimeoutError):
            raise failure
        if failure is not None and not found:
            raise BrokerUnavailable(f"Kafka does not say where to read: {type(failure).__name__}") from failure
        return found


@asynccontextmanager
async def open_road(connection: KafkaConnection) -> AsyncIterator[KafkaRoad]:
    """A road that is closed at the end. The broker need not be there yet."""
    road = KafkaRoad(connection)
    try:
        yield road
    finally:
        await asyncio.shield(road.close())


async def _offsets(
    consumer: AIOKafkaConsumer, places: Mapping[Spot, Any], since: Mapping[Spot, int]
) -> dict[Spot, int]:
    """Of partitions with one leader, as many as it tells in time: a broker that does not answer tells nothing of the
    others. Raises if it is none.
    """
    found: dict[Spot, int] = {}
    left = iter(places.items())
    try:
        async with within(_LOOK_UP_SECONDS):
            while asked := dict(islice(left, _LOOKED_UP_AT_ONCE)):
                # The end first: a partition that has nothing of that time yet is read from there, and a record sent
                # between the two questions is not missed.
                ends = await consumer.end_offsets(list(asked.values()))
                times = await consumer.offsets_for_times({place: since[spot] for spot, place in asked.items()})
                for spot, place in asked.items():
                    at = times[place]
                    found[spot] = at.offset if at else ends[place]
    except (KafkaError, TimeoutError):
        if not found:
            raise
    return found


async def _known(consumer: AIOKafkaConsumer, spots: Iterable[Spot]) -> dict[Spot, tuple[Any, int]]:
    """Those that the client knows a leader of, with its number; topics that were just assigned get a moment to appear.

    Asked for any other, aiokafka would look for its leader until the request times out, for all of them. There is no
    public call that leaves out partitions without a leader; a test guards the names.
    """
    cluster = consumer._client.cluster
    wanted = set(spots)
    known: dict[Spot, tuple[Any, int]] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(_METADATA_SECONDS):
            while True:
                for spot in wanted - known.keys():
                    place = TopicPartition(*spot)
                    leader = cluster.leader_for_partition(place)
                    if leader is not None and leader >= 0:
                        known[spot] = place, leader
                if len(known) == len(wanted):
                    break
                await asyncio.sleep(_METADATA_PAUSE)
    return known


def _too_large(error: RecordTooLargeError) -> Unreadable:
    _, place, offset, size = error.args
    return Unreadable(Spot(place.topic, place.partition), offset, f"record is larger than a fetch of {size} bytes")
