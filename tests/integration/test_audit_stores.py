"""What the auditor reads real stores by, and the command over all of them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from contextlib import aclosing, suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.consumer import started
from libs.common.adapters.kafka.log import KafkaLog
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.adapters.object_storage.audited import AuditedObjects
from libs.common.adapters.object_storage.obstore import _CLIENT
from libs.common.adapters.postgres.audit import open_audit_database
from libs.common.domain.errors import BrokerUnavailable, DatabaseUnavailable, StorageUnavailable
from libs.common.embedded.ports import free_port
from libs.common.ports import SlotRequest
from libs.common.ports_audit import LogRecord, StoredObject
from libs.common.ports_dispatch import TopicPlan
from tests.support.broker import asks_for_metadata
from tests.support.cli_schemas import assert_as_promised
from tests.support.house import SLOT_MS, House
from tests.support.nursery import run_command
from tests.support.servers import BrokerChoice
from tests.support.stand_in_s3 import stand_in_s3
from tests.support.unreadable import send_unreadable


@pytest.fixture
def connection(kafka_bootstrap: str, broker_choice: BrokerChoice) -> KafkaConnection:
    return KafkaConnection(bootstrap=(kafka_bootstrap,), broker=broker_choice.kind)


async def everything(log: KafkaLog, *topics: str) -> list[LogRecord]:
    return [record async for batch in log.read(topics) for record in batch]


async def test_a_topic_is_read_from_its_start_to_its_end(connection: KafkaConnection, topic_prefix: str) -> None:
    filled, empty = f"{topic_prefix}.filled", f"{topic_prefix}.empty"
    topics = KafkaTopics(connection, client_id="test", replication=1)
    await topics.ensure({filled: TopicPlan(3, None), empty: TopicPlan(2, None)})
    producer = AIOKafkaProducer(**connection.arguments(), acks="all")
    await producer.start()
    try:
        for number in range(25):
            await producer.send_and_wait(
                filled, b"%d" % number, key=b"k", partition=number % 2, timestamp_ms=1_700_000_000_000 + number,
                headers=[("h", b"v")],
            )  # fmt: skip
        log = KafkaLog(connection)
        records = await everything(log, filled, empty, f"{topic_prefix}.never-made")
        assert sorted(int(record.value or b"") for record in records) == list(range(25))
        assert {(record.topic, record.key, record.headers) for record in records} == {(filled, b"k", (("h", b"v"),))}
        firsts = sorted(await log.begins(filled))
        assert [(first.offset, first.timestamp_ms) for first in firsts] == [
            (0, 1_700_000_000_000),
            (0, 1_700_000_000_001),
        ]
        assert await log.begins(empty) == []
        assert await log.begins(f"{topic_prefix}.never-made") == []
        assert f"{topic_prefix}.never-made" not in await topics.existing()
    finally:
        await producer.stop()
        await topics.close()


async def test_what_the_client_cannot_take_comes_without_content_and_ends_no_reading(
    connection: KafkaConnection, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}.mixed"
    topics = KafkaTopics(connection, client_id="test", replication=1)
    await topics.ensure({topic: TopicPlan(2, None)})
    producer = AIOKafkaProducer(**connection.arguments(), acks="all")
    await producer.start()
    log = KafkaLog(connection)
    try:
        await send_unreadable(producer, topic, 0)
        for number in range(20):
            await producer.send_and_wait(topic, b"%d" % number, partition=number % 2)
            if number in (7, 8):
                await send_unreadable(producer, topic, number % 2)
        records = await everything(log, topic)
        assert sorted(int(record.value) for record in records if record.value is not None) == list(range(20))
        unread = [(record.partition, record.offset) for record in records if record.value is None]
        assert sorted(unread) == [(0, 0), (0, 6), (1, 4)]
        assert [first.offset for first in sorted(await log.begins(topic))] == [0, 1]
        async with aclosing(log.follow(topic, 1)) as batches:
            seen: list[LogRecord] = []
            while len(seen) < 20:
                seen += await anext(batches)
        assert sorted(int(record.value or b"") for record in seen) == list(range(20))
    finally:
        await producer.stop()
        await topics.close()


async def test_a_partition_without_a_leader_does_not_have_the_brokers_asked_without_a_rest(
    connection: KafkaConnection, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"{topic_prefix}.a"
    topics = KafkaTopics(connection, client_id="test", replication=1)
    try:
        await topics.ensure({topic: TopicPlan(1)})
    finally:
        await topics.close()
    consumers: list[AIOKafkaConsumer] = []

    async def noted(connection: KafkaConnection, client_id: str, *, seconds: float) -> AIOKafkaConsumer:
        consumers.append(await started(connection, client_id, seconds=seconds))
        return consumers[-1]

    monkeypatch.setattr("libs.common.adapters.kafka.log.started", noted)
    async with aclosing(KafkaLog(connection).follow(topic, 0)) as following, asyncio.timeout(20):
        assert await anext(following) == []
        client = consumers[0]._client
        asked = asks_for_metadata(client, monkeypatch)
        monkeypatch.setattr(client.cluster, "leader_for_partition", lambda place: -1)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await anext(following)
    assert 5 <= len(asked) <= 20


async def test_stores_that_are_away_are_told_by_name() -> None:
    log = KafkaLog(KafkaConnection(bootstrap=(f"127.0.0.1:{free_port()}",)))
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1"):
        await everything(log, "any")
    with pytest.raises(DatabaseUnavailable):
        async with open_audit_database(f"postgresql://x:y@127.0.0.1:{free_port()}/z"):
            pass


async def test_objects_are_found_by_their_address(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1/a b.txt").write_bytes(b"content")
    objects = AuditedObjects(tmp_path.as_uri(), public_url="https://results.example/x")
    assert objects.holds("https://results.example/x/1/a%20b.txt")
    assert not objects.holds("https://results.example/other")
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert await objects.find("https://results.example/x/1/a%20b.txt") == StoredObject(7, digest)
    assert await objects.find("https://results.example/x/1/none.txt") is None


async def test_an_object_is_read_however_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a request to the store may take."""
    monkeypatch.setitem(_CLIENT, "timeout", timedelta(seconds=0.9))
    content = os.urandom(12 * 2**20)
    async with stand_in_s3() as store:
        for name, value in (("ENDPOINT_URL", store.url), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "key")):
            monkeypatch.setenv(f"AWS_{name}", value)
        store.objects["1/large"], store.pace = content, 0.1
        found = await AuditedObjects("s3://bucket").find("s3://bucket/1/large")
        assert found == StoredObject(len(content), sha256(content).hexdigest())
        assert await AuditedObjects("s3://bucket").find("s3://bucket/1/none") is None
        store.status = 403
        with pytest.raises(StorageUnavailable, match="cannot be read"):
            await AuditedObjects("s3://bucket").find("s3://bucket/1/large")


async def command(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    code, out, errors = await run_command(arguments, environment)
    assert_as_promised(arguments, out)
    return code, out.decode(), errors.decode()


@pytest.fixture
def environment(
    house: House, redis_url: str, connection: KafkaConnection, topic_prefix: str, tmp_path: Path
) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
    return kept | {
        "SLUICEWAY_DATABASE_URL": house.database_url,
        "SLUICEWAY_REDIS_URL": redis_url,
        "SLUICEWAY_KAFKA_BOOTSTRAP": connection.bootstrap[0],
        "SLUICEWAY_BROKER": connection.broker,
        "SLUICEWAY_TOPIC_PREFIX": topic_prefix,
        "SLUICEWAY_STORAGE_URL": (tmp_path / "objects").as_uri(),
        "SLUICEWAY_STAGING_DIR": str(tmp_path / "staging"),
        "SLUICEWAY_SECRET_KEYS": "t:" + base64.b64encode(b"t" * 32).decode(),
    }


async def test_the_command_finds_says_and_repairs(house: House, environment: dict[str, str]) -> None:
    model = await house.model()
    await house.tasks(model, 2)
    code, out, errors = await command(environment, "audit", "--json")
    report = json.loads(out)
    assert (code, report["violations"]) == (0, []), errors
    assert report["checked"]["I13"] == 4

    await house.gate.take_many([SlotRequest(model.lane, "ghost", 100, SLOT_MS)])
    code, out, _ = await command(environment, "audit", "--json")
    (violation,) = json.loads(out)["violations"]
    assert code == 1
    assert set(violation) == {"invariant", "subject", "detail", "repair", "meaning", "fixable"}
    assert (violation["invariant"], violation["subject"]) == ("I13", "slot ghost")

    code, out, _ = await command(environment, "audit", "--fix", "--yes")
    assert code == 0
    assert "repaired I13 slot ghost" in out
    assert "clean" in out
    assert "ghost" not in await house.members(model)


async def test_a_store_that_cannot_be_looked_at_is_no_clean_bill(house: House, environment: dict[str, str]) -> None:
    await house.model()
    away = environment | {"SLUICEWAY_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    code, out, _ = await command(away, "audit", "--json")
    report = json.loads(out)
    assert code == 1
    assert report["violations"] == []
    assert "Redis" in report["unchecked"]["redis"]
    assert "I3" in report["checked"]


@pytest.mark.parametrize(("store", "setting"), [("staging", "STAGING_DIR"), ("objects", "STORAGE_URL")])
async def test_a_folder_that_cannot_be_read_is_told_like_a_store_that_is_away(
    house: House, environment: dict[str, str], tmp_path: Path, store: str, setting: str
) -> None:
    await house.model()
    folder = tmp_path / "no-folder"
    folder.write_text("")
    named = folder.as_uri() if store == "objects" else str(folder)
    code, out, errors = await command(environment | {f"SLUICEWAY_{setting}": named}, "audit", "--json")
    report = json.loads(out)
    assert (code, list(report["unchecked"])) == (1, [store]), errors
    assert "no-folder" in report["unchecked"][store]
    assert "I13" in report["checked"]
