"""`sluiceway events tail` as a process, on the broker under test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.contracts.topics import EVENT_PARTITIONS, events_topic
from libs.common.domain.task import TaskStatus
from libs.common.operations.event_records import event_record
from libs.common.ports_dispatch import Record, TopicPlan
from tests.support.cli_schemas import assert_as_promised
from tests.support.servers import BrokerChoice
from tests.unit.dispatcher.test_event_records import ROW


@pytest.mark.timeout(300)  # a dozen processes, one after the other
async def test_events_are_printed_as_they_come(
    kafka_bootstrap: str, broker_choice: BrokerChoice, topic_prefix: str
) -> None:
    topic = events_topic(topic_prefix)
    connection = KafkaConnection(bootstrap=(kafka_bootstrap,), broker=broker_choice.kind)
    topics, carrier = KafkaTopics(connection, client_id="t", replication=1), KafkaCarrier(connection, client_id="t")
    rows = [replace(ROW, public_id=uuid4(), id=number) for number in range(6)]
    rows[4] = replace(rows[4], status=TaskStatus.FAILED, error_code="model_http_500", error_message="\x1b[31mred")
    records = [event_record(row, topic=topic, source="/test", partitions=EVENT_PARTITIONS) for row in rows]
    failed = json.loads(records[4].value or b"") | {"errorMsg": "\x1b[31mred, token: canary"}  # of an older version
    records[4] = records[4]._replace(value=json.dumps(failed).encode())
    tail = Tail(kafka_bootstrap, broker_choice.kind, topic_prefix)
    try:
        misspelt = await tail.run("--status", "sucess")
        assert (misspelt[0], "'timeout'" in misspelt[2]) == (2, True)
        missing = await tail.run("--from-beginning", "--count", "1")
        assert (missing[0], "dispatcher makes it" in missing[2]) == (3, True)
        await topics.ensure({topic: TopicPlan(EVENT_PARTITIONS)})
        strange = b'{"status": ["x"], "errorCode": 5, "errorMsg": {"a": 1}, "ossFile": "\\ud800"}'
        await _send(carrier, [*records[:4], Record(topic, 3, b"k", b"no event"), Record(topic, 3, b"k", strange)])
        following = await tail.start("--json", "--since", "0")
        assert b"following" in await asyncio.wait_for(following.stderr.readline(), 30)
        code, out, _ = await tail.run("--from-beginning", "--count", "6", "--json")
        assert code == 0
        assert_as_promised(("events", "tail", "--json"), out)
        told = [json.loads(line) for line in out.splitlines()]
        assert {event["data"].get("taskId") for event in told} == {str(row.public_id) for row in rows[:4]} | {None}
        code, out, err = await tail.run("--from-beginning", "--count", "6")
        assert (code, err, "5 {'a': 1}" in out) == (0, f"sluiceway: following {topic}\n", True)
        await _send(carrier, records[4:])
        young = [json.loads(await asyncio.wait_for(following.stdout.readline(), 30)) for _ in range(2)]
        assert {event["data"]["taskId"] for event in young} == {str(row.public_id) for row in rows[4:]}
        assert "canary" not in json.dumps(young)
        for old in ("inf", "1d", "2000-01-01T00:00:00Z"):
            assert (await tail.run("--since", old, "--count", "1"))[0] == 0, f"{old}: older than the topic"
        code, out, _ = await tail.run("--from-beginning", "--status", "failed", "--count", "1")
        assert "  failed    tenant " in out, "as wide as any other end"
        assert (code, str(rows[4].public_id) in out, "model_http_500" in out, "\x1b" in out) == (0, True, True, False)
        assert "red, token: ***" in out
        following.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(following.wait(), 15) == 130
    finally:
        tail.end()
        await carrier.close()
        await topics.close()


class Tail:
    """The command, told about one broker."""

    def __init__(self, bootstrap: str, kind: str, prefix: str) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
        self._environment = own | {
            "SLUICEWAY_KAFKA_BOOTSTRAP": bootstrap, "SLUICEWAY_BROKER": kind, "SLUICEWAY_TOPIC_PREFIX": prefix,
        }  # fmt: skip
        self._started: list[Any] = []

    async def start(self, *arguments: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", "events", "tail", *arguments, env=self._environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._started.append(process)
        return process

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out.decode(), err.decode()

    def end(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()


async def _send(carrier: KafkaCarrier, records: list[Record]) -> None:
    assert all(verdict.acknowledged for verdict in await carrier.send(records))
