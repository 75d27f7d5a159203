"""Where reading begins, where brokers or partitions are missing: what can be told of the others is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import ConsumerStoppedError, KafkaConnectionError
from aiokafka.protocol.metadata import MetadataResponse_v0

from libs.common.adapters.kafka import road
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.domain.errors import BrokerUnavailable
from libs.common.ports_road import Spot

#: error, partition, leader, replicas, in sync; 5 is LeaderNotAvailable
PARTITIONS = [(0, 0, 1, [1], [1]), (5, 1, -1, [2], []), (0, 2, 2, [2], [2])]


class FakeConsumer:
    """Two brokers, of which some do not answer."""

    def __init__(self, *silent: int) -> None:
        cluster = ClusterMetadata()
        brokers = [(1, "one", 9092), (2, "two", 9092)]
        cluster.update_metadata(MetadataResponse_v0(brokers, [(0, "t", PARTITIONS)]))
        self._client = SimpleNamespace(cluster=cluster)
        self._silent = silent

    async def end_offsets(self, places: Sequence[Any]) -> dict[Any, int]:
        leaders = {self._client.cluster.leader_for_partition(place) for place in places}
        if leaders & set(self._silent):
            raise KafkaConnectionError("no connection")
        return dict.fromkeys(places, 7)

    async def offsets_for_times(self, times: Mapping[Any, int]) -> dict[Any, Any]:
        return {place: SimpleNamespace(offset=3) if place.partition == 0 else None for place in times}


async def offsets(monkeypatch: pytest.MonkeyPatch, *silent: int) -> dict[Spot, int]:
    monkeypatch.setattr(road, "_METADATA_SECONDS", 0.05)
    reading = road.KafkaRoad(KafkaConnection(bootstrap=("127.0.0.1:1",)))
    monkeypatch.setattr(reading, "_consumer", FakeConsumer(*silent))
    spots = [Spot("t", 0), Spot("t", 1), Spot("t", 2), Spot("unknown", 0)]
    return await reading.offsets(dict.fromkeys(spots, 1))


async def test_a_partition_without_a_leader_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await offsets(monkeypatch) == {Spot("t", 0): 3, Spot("t", 2): 7}


async def test_a_broker_that_does_not_answer_holds_up_no_partition_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await offsets(monkeypatch, 2) == {Spot("t", 0): 3}


async def test_where_no_broker_answers_the_connection_is_to_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokerUnavailable):
        await offsets(monkeypatch, 1, 2)


class Slow(FakeConsumer):
    """One broker with ten partitions, which takes its time for each."""

    def __init__(self) -> None:
        super().__init__()
        partitions = [(0, number, 1, [1], [1]) for number in range(10)]
        self._client.cluster.update_metadata(MetadataResponse_v0([(1, "one", 9092)], [(0, "t", partitions)]))

    async def end_offsets(self, places: Sequence[Any]) -> dict[Any, int]:
        await asyncio.sleep(0.05 * len(places))
        return await super().end_offsets(places)


async def test_a_slow_broker_tells_of_some_partitions_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(road, "_LOOKED_UP_AT_ONCE", 2)
    monkeypatch.setattr(road, "_LOOK_UP_SECONDS", 0.35)
    reading = road.KafkaRoad(KafkaConnection(bootstrap=("127.0.0.1:1",)))
    monkeypatch.setattr(reading, "_consumer", Slow())
    found = await reading.offsets({Spot("t", number): 1 for number in range(10)})
    assert 2 <= len(found) < 10


class Choking(FakeConsumer):
    """A client that cannot take the bytes of a partition, and is closed while it is asked whose they are."""

    def __init__(self, closed_by: BaseException) -> None:
        super().__init__()
        self._errors = [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), closed_by]

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("t", 0)}

    async def position(self, place: TopicPartition) -> int:
        return 3

    def highwater(self, place: TopicPartition) -> int:
        return 9

    def seek(self, place: TopicPartition, offset: int) -> None: ...

    async def getmany(self, *places: TopicPartition, **options: int) -> Any:
        raise self._errors.pop(0)


@pytest.mark.parametrize("closed_by", [ConsumerStoppedError(), asyncio.CancelledError()], ids=["stopped", "cancelled"])
async def test_a_client_that_is_closed_meanwhile_says_nothing_of_a_record(
    monkeypatch: pytest.MonkeyPatch, closed_by: BaseException
) -> None:
    reading = road.KafkaRoad(KafkaConnection(bootstrap=("127.0.0.1:1",)))
    monkeypatch.setattr(reading, "_consumer", Choking(closed_by))
    reading._assigned.set()
    with pytest.raises(BrokerUnavailable):
        await reading.read(1)
