"""The documented consumer does what its page promises: repeats dropped, poison kept aside, nothing lost over a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.contracts.topics import EVENT_PARTITIONS, events_topic
from libs.common.domain.task import TaskStatus
from libs.common.operations.event_records import event_record
from libs.common.ports_dispatch import Record, TopicPlan
from tests.support.servers import BrokerChoice
from tests.unit.dispatcher.test_event_records import ROW

EXAMPLE = Path(__file__).parents[2] / "examples" / "consume_events.py"


class Consumer:
    """The example in a process of its own."""

    def __init__(self, bootstrap: str, topic: str, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "EVENTS_BOOTSTRAP": bootstrap,
            "EVENTS_TOPIC": topic,
            "EVENTS_GROUP": topic,
            "EVENTS_STORE": str(folder / "events.sqlite"),
        }
        self._log = folder / "consumer.log"
        self._store = folder / "events.sqlite"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(EXAMPLE)], env=self._environment, stdout=log, stderr=log
            )

    def end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        if not self._store.exists():
            return []
        with sqlite3.connect(self._store, timeout=5) as store:
            try:
                rows: list[tuple[object, ...]] = store.execute(statement).fetchall()
            except sqlite3.OperationalError:
                rows = []  # its tables are not made yet
        store.close()
        return rows

    async def until(self, condition: Callable[[], object], seconds: float = 45.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"it did not come: {self._log.read_text()[-2000:]}")


async def test_the_example_consumer(
    kafka_bootstrap: str, broker_choice: BrokerChoice, topic_prefix: str, tmp_path: Path
) -> None:
    topic = events_topic(topic_prefix)
    connection = KafkaConnection(bootstrap=(kafka_bootstrap,), broker=broker_choice.kind)
    topics, carrier = KafkaTopics(connection, client_id="t", replication=1), KafkaCarrier(connection, client_id="t")
    await topics.ensure({topic: TopicPlan(EVENT_PARTITIONS)})
    consumer = Consumer(kafka_bootstrap, topic, tmp_path)
    first = [replace(ROW, public_id=uuid4(), id=number) for number in range(20)]
    replayed = replace(first[0], version=9, status=TaskStatus.FAILED, error_code="model_status")
    poison = [
        Record(topic, 3, b"k", b"not json", [("ce_id", b"p1"), ("ce_type", b"sluiceway.task.success.v1")]),
        Record(topic, 3, b"k", b"{}"),
        Record(topic, 3, b"k", b"\xff\x00", [("ce_id", b"\xff"), ("ce_type", b"sluiceway.task.success.v1")]),
    ]
    try:
        await _send(carrier, [*map(_record_on(topic), first), *poison, *map(_record_on(topic), first)])
        consumer.start()
        await consumer.until(lambda: len(consumer.rows("SELECT * FROM result")) == 20)
        await consumer.until(lambda: len(consumer.rows("SELECT * FROM aside")) == 3)
        consumer.end(signal.SIGKILL)
        older = replace(replayed, version=8, status=TaskStatus.TIMEOUT)
        await _send(carrier, list(map(_record_on(topic), [replayed, older, *first])))
        consumer.start()
        await consumer.until(lambda: len(consumer.rows("SELECT * FROM seen")) == 22)
        task = str(first[0].public_id)
        await consumer.until(
            lambda: (
                consumer.rows(f"SELECT version, status, error FROM result WHERE task = '{task}'")
                == [(9, "failed", "model_status")]
            )
        )
        assert len(consumer.rows("SELECT * FROM result")) == 20
        assert len(consumer.rows("SELECT * FROM aside")) == 3
    finally:
        consumer.end(signal.SIGKILL)
        await carrier.close()
        await topics.close()


def _record_on(topic: str) -> Callable[..., Record]:
    return lambda row: event_record(row, topic=topic, source="/test", partitions=12)


async def _send(carrier: KafkaCarrier, records: list[Record]) -> None:
    assert all(verdict.acknowledged for verdict in await carrier.send(records))
