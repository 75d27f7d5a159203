"""What `sluiceway events republish` reaches PostgreSQL and Kafka by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection, quiet_clients
from libs.common.adapters.kafka.topics import existing_topics
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.contracts.topics import EVENT_PARTITIONS, events_topic
from libs.common.operations.republish import Republish
from libs.common.settings import Settings


@asynccontextmanager
async def open_republish(settings: Settings) -> AsyncIterator[Republish]:
    """Over the configured servers. Raises BrokerUnavailable when nobody can say how many partitions the topic has."""
    connection, topic = KafkaConnection.of(settings), events_topic(settings.topic_prefix)
    quiet_clients()
    partitions = (await existing_topics(connection, client_id="sluiceway-cli")).get(topic, EVENT_PARTITIONS)
    carrier = KafkaCarrier(connection, client_id="sluiceway-republish")
    async with open_database(settings.database_url.get_secret_value(), hot_connections=1) as database:
        try:
            yield Republish(
                PostgresEvents(database),
                carrier,
                topic=topic,
                source=settings.event_source,
                partitions=min(partitions, EVENT_PARTITIONS),
            )
        finally:
            await carrier.close()
