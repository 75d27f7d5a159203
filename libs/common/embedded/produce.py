"""Broker readiness: a record that was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

READY_TOPIC = "_sluiceway.ready"


async def acknowledges(bootstrap: str, *, seconds: float = 5.0) -> bool:
    """Whether the broker takes a record and acknowledges it within the given time.

    An open port is no proof: a restarted Kafka listens for seconds before it serves.
    """
    with _quiet("aiokafka"):
        try:
            async with asyncio.timeout(seconds):
                await _make_topic(bootstrap)
                await _produce(bootstrap)
        except (KafkaError, OSError):
            return False
    return True


async def _make_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=4000)
    try:
        await admin.start()
        topic = NewTopic(READY_TOPIC, num_partitions=1, replication_factor=1)
        await admin.create_topics([topic])  # that it exists already is told in the answer, not raised
    finally:
        await admin.close()


async def _produce(bootstrap: str) -> None:
    # Not idempotent: the embedded Tansu refuses that, and one record needs none of it.
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=False, acks="all", request_timeout_ms=4000
    )
    try:
        await producer.start()
        await producer.send_and_wait(READY_TOPIC, b"ready")
    finally:
        with contextlib.suppress(KafkaError):
            await producer.stop()


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    # It logs an error for every try at a broker that is still starting.
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
