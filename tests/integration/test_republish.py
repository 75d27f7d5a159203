"""`sluiceway events republish`: the same events once more, from the tasks' rows."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.adapters.postgres.dispatch_queue import PostgresEvents
from libs.common.contracts.topics import EVENT_PARTITIONS, events_topic
from libs.common.domain.errors import BrokerUnavailable
from libs.common.operations.event_records import event_record
from libs.common.operations.republish import Republish, Republished
from libs.common.ports_dispatch import EndFilter, Record, SendVerdict, TopicPlan
from tests.support import servers
from tests.support.cli_schemas import assert_as_promised
from tests.support.house import House

ALWAYS = EndFilter(datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC))


async def ended(house: House, topic: str) -> list[Record]:
    """Tasks of two models with every kind of end; the records that their events were announced with."""
    for name in ("first", "second"):
        model, executor = await house.model(name=name), await house.executor()
        attempts = await house.running(model, executor, 3)
        await house.finish(attempts[0])
        await house.stage(attempts[1])
        await house.bury(attempts[1])
        await house.tasks(model)
    rows = await PostgresEvents(house.database).after(0, 100, [])
    records = [event_record(row, topic=topic, source="test", partitions=EVENT_PARTITIONS) for row in rows]
    await house.sql("DELETE FROM event")
    return records


def told(_: Republished) -> None: ...


async def consumed(bootstrap: str, topic: str, count: int) -> list[Any]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [await asyncio.wait_for(consumer.getone(), 10) for _ in range(count)]
    finally:
        await consumer.stop()


async def test_the_same_events_come_again_under_their_ids(
    house: House, kafka_bootstrap: str, broker_choice: servers.BrokerChoice, topic_prefix: str
) -> None:
    topic = events_topic(topic_prefix)
    announced = await ended(house, topic)
    assert len(announced) == 4
    connection = KafkaConnection((kafka_bootstrap,), broker_choice.kind)
    topics, carrier = KafkaTopics(connection, client_id="t", replication=1), KafkaCarrier(connection, client_id="r")
    try:
        await topics.ensure({topic: TopicPlan(EVENT_PARTITIONS)})
        work = Republish(
            PostgresEvents(house.database), carrier, topic=topic, source="test", partitions=EVENT_PARTITIONS
        )
        counted = await work.run(ALWAYS, 0, 1e6, told, dry_run=True)
        assert counted.sent == 4
        done = await work.run(ALWAYS, 0, 1e6, told, dry_run=False)
        assert (done.sent, done.refused) == (4, 0)
        assert (await work.run(ALWAYS, done.after, 1e6, told, dry_run=True)).sent == 0
    finally:
        await carrier.close()
        await topics.close()
    again = {
        (record.partition, record.key, record.value, tuple(record.headers))
        for record in await consumed(kafka_bootstrap, topic, 4)
    }
    assert again == {(record.partition, record.key, record.value, tuple(record.headers)) for record in announced}


async def test_filters_and_the_command(house: House, kafka_bootstrap: str, topic_prefix: str) -> None:
    await ended(house, "t")
    tenant = await house.value("SELECT tenant_id FROM model WHERE name = 'first'")
    events = PostgresEvents(house.database)
    hour = datetime.now(UTC) - timedelta(hours=1)
    for wanted, count in (
        (EndFilter(ALWAYS.since, ALWAYS.until, tenant), 2),
        (EndFilter(ALWAYS.since, ALWAYS.until, None, "second"), 2),
        (EndFilter(ALWAYS.since, hour), 0),
        (EndFilter(hour, ALWAYS.until), 4),
    ):
        assert len((await events.finals(0, 100, wanted))[0]) == count
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "events", "republish", "--since", "1h", "--model", "first", "--dry-run",
        "--json", stdout=asyncio.subprocess.PIPE,
        env={
            **environment,
            "SLUICEWAY_DATABASE_URL": house.database_url,
            "SLUICEWAY_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "SLUICEWAY_TOPIC_PREFIX": topic_prefix,
        },
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert_as_promised(("events", "republish", "--json"), out)
    assert {**json.loads(out), "after": 0} == {"sent": 2, "refused": 0, "after": 0, "dry_run": True}


class Away:
    reachable, last_error = False, "nobody there"

    async def send(self, records: Sequence[Record]) -> list[SendVerdict]:
        return [SendVerdict(False) for _ in records]

    async def probe(self) -> bool:
        return False


async def test_a_broker_that_stays_away_ends_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.operations.republish._TRIES", 1)
    await ended(house, "t")
    work = Republish(PostgresEvents(house.database), Away(), topic="t", source="s", partitions=1)
    with pytest.raises(BrokerUnavailable):
        await work.run(ALWAYS, 0, 1e6, told, dry_run=False)
