"""Brokers of a test's own, and what stands on their topics."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.embedded import kafka_jars
from libs.common.embedded.kafka import EmbeddedKafka
from libs.common.embedded.server_process import ServerProcess
from libs.common.embedded.tansu import EmbeddedTansu


@asynccontextmanager
async def broker_in(folder: Path, kind: str = "") -> AsyncIterator[ServerProcess]:
    """A broker that this test may stop, freeze and kill: Apache Kafka where it can be had, else Tansu."""
    chosen = kind or ("kafka" if kafka_jars.can_fetch() else "tansu")
    server: ServerProcess = EmbeddedKafka(folder / "kafka") if chosen == "kafka" else EmbeddedTansu(folder / "tansu")
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


def connection_to(server: ServerProcess) -> KafkaConnection:
    return KafkaConnection(bootstrap=(server.address,), broker=getattr(server, "kind", "kafka"))


@contextmanager
def frozen(server: ServerProcess) -> Iterator[None]:
    """The process is stopped for the length of the block."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def records_on(
    connection: KafkaConnection,
    topic: str,
    *,
    partitions: int = 1,
    at_least: int = 0,
    quiet: float = 1.0,
    seconds: float = 20.0,
) -> list[ConsumerRecord]:
    """Everything on a topic: at least so many records, and then nothing more for `quiet` seconds."""
    consumer = AIOKafkaConsumer(**connection.arguments(), auto_offset_reset="earliest", fetch_max_wait_ms=50)
    found: list[ConsumerRecord] = []
    try:
        await consumer.start()
        consumer.assign([TopicPartition(topic, partition) for partition in range(partitions)])
        async with asyncio.timeout(seconds):
            while True:
                batches: dict[TopicPartition, Sequence[ConsumerRecord]] = await consumer.getmany(
                    timeout_ms=int(quiet * 1000)
                )
                found += [record for batch in batches.values() for record in batch]
                if not batches and len(found) >= at_least:
                    return found
    finally:
        await consumer.stop()


def asks_for_metadata(client: AIOKafkaClient, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a client asks its cluster for metadata from now on, monotonic seconds."""
    asked: list[float] = []
    send = AIOKafkaConnection.send

    def noted(connection: AIOKafkaConnection, request: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(request, MetadataRequest) and connection in client._conns.values():
            asked.append(time.monotonic())
        return send(connection, request, *arguments, **named)

    monkeypatch.setattr(AIOKafkaConnection, "send", noted)
    return asked
