"""The dispatcher as a process: probes that tell the truth, and an end in good order; the topics command beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from libs.common.contracts.topics import dead_topic
from libs.common.embedded.ports import free_port
from libs.common.embedded.tansu import EmbeddedTansu
from tests.support.cli_schemas import assert_as_promised
from tests.support.dispatcher_bench import until_true
from tests.support.queue_desk import QueueDesk, open_desk
from tests.support.servers import BrokerChoice

_WAIT = 20.0


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


@pytest.fixture
def environment(database_url: str, redis_url: str, topic_prefix: str) -> dict[str, str]:
    ours = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "BROKER": "tansu",
        "KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}",
        "TOPIC_PREFIX": topic_prefix,
        "HEALTH_PORT": str(free_port()),
        "LOG_FORMAT": "json",
    }
    return {**os.environ, **{f"SLUICEWAY_{name}": value for name, value in ours.items()}}


@pytest.fixture
def process(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with running(environment, tmp_path) as process:
        yield process


@contextmanager
def running(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A dispatcher for the length of the block."""
    with (tmp_path / "dispatcher.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "services.dispatcher"], env=environment, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def until_says(environment: dict[str, str], status: int, **checks: str) -> dict[str, str]:
    """Until /readyz answers that; its checks."""
    url = f"http://127.0.0.1:{environment['SLUICEWAY_HEALTH_PORT']}/readyz"
    deadline = time.monotonic() + _WAIT
    last: object = None
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=5) as client:
        while time.monotonic() < deadline:
            try:
                answer = await client.get(url)
            except httpx.TransportError as error:
                last = error
            else:
                last, said = answer.text, answer.json()["checks"]
                if answer.status_code == status and checks.items() <= said.items():
                    return dict(said)
            await asyncio.sleep(0.05)
    raise AssertionError(f"/readyz never said {status} {checks}: {last}")


async def test_it_waits_for_the_broker_says_so_and_ends_in_good_order(
    environment: dict[str, str], process: subprocess.Popen[bytes], servers_folder: Path, desk: QueueDesk, tmp_path: Path
) -> None:
    checks = await until_says(environment, 503, started="ok", postgres="ok")
    assert checks["kafka"] != "ok"
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    port = int(environment["SLUICEWAY_KAFKA_BOOTSTRAP"].rpartition(":")[2])
    broker = EmbeddedTansu(servers_folder / "late", port=port)
    await broker.start()
    try:
        await until_says(environment, 200, kafka="ok")
        async with asyncio.timeout(_WAIT):
            while (await desk.sql("SELECT state FROM dispatch WHERE id = $1", id_))[0]["state"] != 1:
                await asyncio.sleep(0.05)
        topics = await topics_command(environment)
        await broker.kill()
        await until_says(environment, 503, postgres="ok")
        await broker.start()
        await until_says(environment, 200, kafka="ok")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        await broker.kill()
    model = desk.lanes[lane]
    named = {line["topic"]: line for line in topics["topics"]}
    ours = named[f"{environment['SLUICEWAY_TOPIC_PREFIX']}.model.{model.id}-m0"]
    assert (ours["exists"], ours["partitions"], ours["existing"], ours["model"], ours["tenant"]) == (
        True,
        1,
        1,
        "m0",
        "42",
    )
    events = named[f"{environment['SLUICEWAY_TOPIC_PREFIX']}.task.events"]
    assert (events["exists"], events["partitions"]) == (True, 12)
    assert len(named) == 3
    assert all(line["exists"] for line in named.values())
    log = [json.loads(line) for line in (tmp_path / "dispatcher.log").read_text().splitlines()]
    assert any(line["event"] == "relay.broker_away" and "127.0.0.1" in line["cause"] for line in log)
    assert log[-1]["event"] == "process.stopped"


async def topics_command(environment: dict[str, str]) -> dict[str, list[dict[str, object]]]:
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "topics", "--json", env=environment, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(command.communicate(), 60)
    assert command.returncode == 0
    assert_as_promised(("topics", "--json"), output)
    answer: dict[str, list[dict[str, object]]] = json.loads(output)
    return answer


async def test_the_topic_of_dead_letters_is_made_again_when_it_was_deleted(
    desk: QueueDesk, environment: dict[str, str], kafka_bootstrap: str, broker_choice: BrokerChoice, tmp_path: Path
) -> None:
    if broker_choice.kind == "tansu":
        pytest.skip("Tansu keeps answering for deleted topics")
    environment |= {"SLUICEWAY_BROKER": "kafka", "SLUICEWAY_KAFKA_BOOTSTRAP": kafka_bootstrap}
    topic = dead_topic(environment["SLUICEWAY_TOPIC_PREFIX"])
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()

    async def is_there() -> bool:
        return topic in await admin.list_topics()

    async def is_lettered() -> bool:
        return bool(await desk.sql("SELECT FROM dead_message WHERE lettered_at IS NOT NULL"))

    with running(environment, tmp_path):
        await until_true(is_there)
        await admin.delete_topics([topic])
        await desk.sql(
            'INSERT INTO dead_message (topic, "partition", "offset", digest, value, size, cause, died_at)'
            " VALUES ('t', 0, 1, 'd', 'x', 1, 'x', now() - interval '1 min')"
        )
        await until_true(is_lettered, 25)
    await admin.close()


async def test_the_topics_command_says_what_is_wrong(environment: dict[str, str]) -> None:
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.cli",
        "topics",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(command.communicate(), 60)
    assert command.returncode == 3
    assert b"127.0.0.1" in errors
    assert b"Traceback" not in errors
