"""Which partitions are looked up: one without a leader must not hold up the others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.protocol.metadata import MetadataResponse_v0

from libs.common.adapters.kafka import road
from libs.common.ports_road import Spot


async def test_a_partition_without_a_leader_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(road, "_METADATA_SECONDS", 0.05)
    cluster = ClusterMetadata()
    # error, topic, [(error, partition, leader, replicas, isr)]; 5 is LeaderNotAvailable
    partitions = [(0, 0, 1, [1], [1]), (5, 1, -1, [2], [])]
    cluster.update_metadata(MetadataResponse_v0([(1, "broker", 9092)], [(0, "t", partitions)]))
    consumer = SimpleNamespace(_client=SimpleNamespace(cluster=cluster))
    known = await road._known(consumer, [Spot("t", 0), Spot("t", 1), Spot("unknown", 0)])  # type: ignore[arg-type]
    assert set(known) == {Spot("t", 0)}
