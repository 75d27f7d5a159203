"""The road on three brokers, as clusters are in production: leaders move, and for a while too few replicas are left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.domain.errors import BrokerUnavailable
from libs.common.operations.doctor_servers import examine_kafka
from libs.common.ports_dispatch import TopicPlan
from tests.support.kafka_cluster import NODES, KafkaCluster
from tests.support.road import Road, Servers, road_over, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
MODELS = ("a", "b", "c", "d")  #: their partitions have leaders on all brokers


@pytest.fixture
async def cluster(road_servers: Servers, tmp_path: Path) -> AsyncIterator[KafkaCluster]:
    if road_servers.kind != "kafka":
        pytest.skip("a cluster takes Apache Kafka itself: mvn and a JDK")
    made = KafkaCluster(tmp_path / "cluster")
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def cluster_road(
    road_servers: Servers, road_database: str, cluster: KafkaCluster, tmp_path: Path
) -> AsyncIterator[Road]:
    async with road_over(cluster, "kafka", road_servers, road_database, tmp_path / "road") as opened:
        yield opened


async def ready(road: Road) -> int:
    await asyncio.gather(
        road.start("api"),
        road.start("dispatcher", 2, topic_replication="3"),
        road.start("executor", 2),
        road.start("janitor"),
    )
    tenant = await road.tenant()
    for model in MODELS:
        await road.model(tenant, model, max_concurrency=10, queue_limit=10_000)
    return tenant


async def load(road: Road, tenant: int, seconds: int) -> None:
    """Twelve tasks a second, whatever becomes of the brokers."""
    for _ in range(seconds):
        for model in MODELS:
            await road.submit(tenant, 3, model, seconds=0.05)
        await asyncio.sleep(1)


async def whole(road: Road, seconds: float = 60) -> None:
    """All have ended with one call each, and nothing was counted against any of them."""
    ids = road.accepted
    await road.ended(ids, seconds)
    assert len(road.mock.calls) == len(ids)
    (most,) = await road.sql("SELECT max(attempt) AS attempt, max(retries) AS retries FROM task")
    assert dict(most) == {"attempt": 1, "retries": 0}
    await road.assert_whole(ids, 60)


async def test_a_broker_is_killed_under_load_and_comes_back(cluster_road: Road, cluster: KafkaCluster) -> None:
    road, tenant = cluster_road, await ready(cluster_road)
    (before, node, _) = cluster.nodes
    loading = asyncio.create_task(load(road, tenant, 25))
    await asyncio.sleep(4)
    await before.kill()
    await asyncio.sleep(8)
    await before.start()
    await asyncio.sleep(2)
    await node.kill()
    await loading
    await whole(road)
    await node.start()


async def test_brokers_are_restarted_one_after_the_other_under_load(cluster_road: Road, cluster: KafkaCluster) -> None:
    road, tenant = cluster_road, await ready(cluster_road)
    loading = asyncio.create_task(load(road, tenant, 30))
    await asyncio.sleep(2)
    for node in cluster.nodes:
        await node.restart()
        await until(lambda: in_sync(road), 60, "every partition has all its replicas again")
    await loading
    await whole(road)


async def test_with_too_few_replicas_tasks_wait_and_nothing_is_counted(
    cluster_road: Road, cluster: KafkaCluster
) -> None:
    road, tenant = cluster_road, await ready(cluster_road)
    await load(road, tenant, 2)
    await road.ended(road.accepted)
    first, second, _ = cluster.nodes
    await asyncio.gather(first.kill(), second.kill())
    await load(road, tenant, 12)
    (waiting,) = await road.sql("SELECT count(*), max(sends) AS sends FROM dispatch")
    assert waiting["count"] >= 12 * 12
    assert waiting["sends"] == 0
    await first.launch()
    await second.launch()
    await asyncio.gather(first.until_ready(), second.until_ready())
    await whole(road, 90)


async def test_topics_are_made_soon_after_the_broker_died_that_was_asked_before(cluster: KafkaCluster) -> None:
    connection = KafkaConnection(tuple(node.address for node in cluster.nodes))
    topics = KafkaTopics(connection, client_id="t", replication=2)
    await topics.ensure({"a": TopicPlan(1)})
    assert topics._admin is not None
    asked = topics._admin._client.cluster.controller.nodeId
    await cluster.nodes[asked - 1].kill()
    async with asyncio.timeout(20):
        while True:
            with suppress(BrokerUnavailable):
                if await topics.ensure({"b": TopicPlan(1)}):
                    break
            await asyncio.sleep(0.1)
    await topics.close()


async def test_doctor_names_topics_that_lie_on_one_broker_alone(cluster_road: Road) -> None:
    road = cluster_road
    (careless,) = await road.start("dispatcher")
    said = await kafka_of_doctor(road)
    assert "1 topics lie on one of 3 brokers alone, for example " in said
    await road.stop(careless)
    road.prefix += "-safe"
    await road.start("dispatcher", topic_replication="3")
    assert "alone" not in await kafka_of_doctor(road)


async def kafka_of_doctor(road: Road) -> str:
    found = await examine_kafka(road.settings)
    return "; ".join(finding.what for finding in found)


async def in_sync(road: Road) -> bool:
    """What a careful operator waits for before the next broker is restarted."""
    admin = AIOKafkaAdminClient(bootstrap_servers=road.servers.broker.address)
    await admin.start()
    try:
        ours = [name for name in await admin.list_topics() if name.startswith(road.prefix)]
        described = await admin.describe_topics(ours)
    finally:
        await admin.close()
    return all(len(partition["isr"]) == NODES for topic in described for partition in topic["partitions"])
