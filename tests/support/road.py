"""The product as outsiders meet it: real servers, real processes, REST in, Kafka out."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import secrets
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from libs.common.adapters.postgres.connection import Connection
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.models import PostgresApiKeys
from libs.common.embedded.ports import free_port
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.server_process import ServerProcess
from libs.common.embedded.service import ServiceProcess
from libs.common.operations.audit_stores import open_audit
from libs.common.settings import PREFIX, Settings
from tests.support.cli_schemas import assert_as_promised
from tests.support.kafka_cluster import KafkaCluster
from tests.support.mock_model import MockModel, mock_model
from tests.support.nursery import NurseryService
from tests.support.processes import send
from tests.support.replicate_provider import MARKER, Job, Plan, ReplicateProvider, replicate_provider

FINAL: Final = ("success", "failed", "timeout", "canceled")
ROLES: Final = ("api", "dispatcher", "executor", "janitor")
WRONG_CLOCK: Final = Path(__file__).parent / "wrong_clock"
_numbers = itertools.count(1)
#: Made once: a client that makes its own takes 2 ms, in the process that also is the clock and the model.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Servers:
    """The stores of one road, in processes that tests may stop, freeze and kill."""

    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    broker: ServerProcess | KafkaCluster
    kind: str


@dataclass
class Event:
    """A completion event as a consumer saw it."""

    key: str
    id: str
    data: dict[str, Any]


@dataclass
class Road:
    """Processes, clients and the truth about both."""

    folder: Path
    servers: Servers
    database_url: str
    prefix: str
    mock: MockModel
    provider: ReplicateProvider
    processes: dict[str, list[ServiceProcess]] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What every process of this road is told."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")},
            "SLUICEWAY_DATABASE_URL": self.database_url,
            "SLUICEWAY_REDIS_URL": self.servers.redis.address,
            "SLUICEWAY_KAFKA_BOOTSTRAP": self.servers.broker.address,
            "SLUICEWAY_BROKER": self.servers.kind,
            "SLUICEWAY_TOPIC_PREFIX": self.prefix,
            "SLUICEWAY_STORAGE_URL": (self.folder / "objects").as_uri(),
            "SLUICEWAY_STAGING_DIR": str(self.folder / "staging"),
            "SLUICEWAY_SECRET_KEYS": "t:" + base64.b64encode(b"t" * 32).decode(),
            "SLUICEWAY_EGRESS_ALLOW": "127.0.0.0/8",
            "SLUICEWAY_JANITOR_INTERVAL": "2",
            "SLUICEWAY_DRAIN_SECONDS": "5",
            "SLUICEWAY_FAILPOINTS_LOG": str(self.folder / "failpoints.log"),
            "SLUICEWAY_LOG_LEVEL": "INFO",
        }

    @property
    def settings(self) -> Settings:
        """The same, read."""
        ours = {name: value for name, value in self.environment.items() if name.startswith(PREFIX)}
        return Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in ours.items()})

    async def start(self, role: str, count: int = 1, *, clock_ahead: int = 0, **settings: str) -> list[ServiceProcess]:
        """Start `count` more processes of a role; settings by their short names, a wall clock so many seconds ahead."""
        started = []
        for _ in range(count):
            own = {f"SLUICEWAY_{name.upper()}": value for name, value in settings.items()}
            if clock_ahead:
                own |= {"PYTHONPATH": str(WRONG_CLOCK), "CLOCK_AHEAD": str(clock_ahead)}
            started.append(self._service(role, own))
        await asyncio.gather(*(process.start() for process in started))
        self.processes.setdefault(role, []).extend(started)
        return started

    def _service(self, role: str, own: dict[str, str]) -> ServiceProcess:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        port = free_port()
        own["SLUICEWAY_API_PORT" if role == "api" else "SLUICEWAY_HEALTH_PORT"] = str(port)
        return NurseryService(
            role,
            next(_numbers),
            (sys.executable, "-m", f"services.{role}"),
            environment={**self.environment, **own},
            port=port,
            logs=logs,
            drain_seconds=10,
        )

    async def launch(self, role: str, **settings: str) -> ServiceProcess:
        """Start one process of a role without waiting until it serves: it may die first."""
        process = self._service(role, {f"SLUICEWAY_{name.upper()}": value for name, value in settings.items()})
        await process.launch()
        self.processes.setdefault(role, []).append(process)
        return process

    async def start_all(self, executors: int = 2) -> None:
        """One API, one dispatcher, one janitor, some executors."""
        await asyncio.gather(
            self.start("api"), self.start("dispatcher"), self.start("janitor"), self.start("executor", executors)
        )

    async def stop(self, process: ServiceProcess) -> None:
        """End a process in good order and forget it."""
        await process.stop()
        self.processes[process.role].remove(process)

    async def kill(self, process: ServiceProcess) -> None:
        """kill -9, and forget it."""
        await process.kill()
        self.processes[process.role].remove(process)

    async def died(self, process: ServiceProcess, seconds: float = 20) -> None:
        """Wait until a process ended by itself (a failpoint), and forget it."""
        await until(lambda: process.pid is None, seconds, f"{process.name} ends")
        self.processes[process.role].remove(process)

    def freeze(self, process: ServiceProcess) -> None:
        send(process, signal.SIGSTOP)

    def thaw(self, process: ServiceProcess) -> None:
        send(process, signal.SIGCONT)

    async def stop_all(self) -> None:
        everything = [process for processes in self.processes.values() for process in processes]
        await asyncio.gather(*(process.stop() for process in everything))
        self.processes.clear()

    # what a caller does

    @property
    def api(self) -> str:
        return self.processes["api"][0].address

    async def tenant(self) -> int:
        """A tenant nobody else uses, with a key."""
        number = 10_000 + next(_numbers)
        key = self.keys[number] = f"sw_{secrets.token_urlsafe()}"
        async with open_database(self.database_url, hot_connections=1) as database:
            await PostgresApiKeys(database).create(
                number, "test", sha256(key.encode()).digest(), ["submit", "read", "operate", "admin"], "test"
            )
        return number

    async def call(self, tenant: int, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One REST call of a tenant."""
        headers = {"Authorization": f"Bearer {self.keys[tenant]}", **arguments.pop("headers", {})}
        async with httpx.AsyncClient(base_url=self.api, timeout=30, trust_env=False, verify=NO_TLS) as client:
            return await client.request(method, path, headers=headers, **arguments)

    async def model(self, tenant: int, name: str = "m", **fields: Any) -> None:
        """A model of the tenant, served by the mock under /<tenant>-<name>."""
        body = {"name": name, "base_url": self.mock.url, "route": f"/{tenant}-{name}", **fields}
        answer = await self.call(tenant, "POST", "/v1/models", json=body)
        assert answer.status_code == 201, answer.text

    async def job_model(self, tenant: int, name: str = "m", **fields: Any) -> None:
        """A model of the provider, whose jobs bring their output with them; it has had jobs of ours before."""
        self.provider.plan = Plan(**{"output": "data:text/plain;base64,ZG9uZQ==", **fields.pop("plan", {})})
        before = {"input": {MARKER: "before"}}
        self.provider.jobs["before"] = Job(
            "before", "before", before, Plan(("succeeded",)), "2026-01-01T00:00:00+00:00"
        )
        told = {"adapter": "replicate", "adapter_config": {"settle_seconds": 1}, "poll_seconds": 1, **fields}
        await self.model(tenant, name, base_url=self.provider.url, route="v1/predictions", **told)

    async def submit(self, tenant: int, count: int = 1, model: str = "m", **payload: Any) -> list[str]:
        """Hand in tasks; each payload carries a name that tells it apart at the model."""
        ids: list[str] = []
        for start in range(0, count, 1_000):
            names = [f"{tenant}-{model}-{time.monotonic_ns()}-{n}" for n in range(start, min(count, start + 1_000))]
            tasks = [{"model": model, "payload": {"name": name, **payload}} for name in names]
            answer = await self.call(tenant, "POST", "/v1/tasks/batch", json={"tasks": tasks})
            assert answer.is_success, answer.text
            items = answer.json()["items"]
            assert all("id" in item for item in items), [item for item in items if "id" not in item][:2]
            ids += [item["id"] for item in items]
        self.accepted += ids
        return ids

    async def views(self, tenant: int, ids: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for start in range(0, len(ids), 1_000):
            answer = await self.call(tenant, "POST", "/v1/tasks/read", json={"ids": list(ids[start : start + 1_000])})
            assert answer.is_success, answer.text
            found += answer.json()["items"]
        return found

    async def statuses(self, ids: Sequence[str]) -> Counter[str]:
        """The statuses of tasks, from the database itself."""
        rows = await self.sql("SELECT status FROM task_face WHERE public_id = ANY ($1::uuid[])", list(ids))
        words = ("draft", "submitted", "queued", "processing", "generated", "migrating", *FINAL)
        return Counter(words[row["status"]] for row in rows)

    async def ended(self, ids: Sequence[str], seconds: float = 30, *, status: str | None = "success") -> None:
        """Wait until every task has ended for good, as `status` where one is given."""

        async def over() -> bool:
            query = "SELECT count(*) FROM task_face WHERE public_id = ANY ($1::uuid[]) AND (open OR status < 6)"
            return (await self.sql(query, list(ids)))[0]["count"] == 0

        try:
            await until(over, seconds, f"{len(ids)} tasks end")
        except AssertionError as late:
            raise AssertionError(f"{late}: {await self.statuses(ids)}") from None
        if status is not None:
            assert await self.statuses(ids) == {status: len(ids)}

    # what an auditor does

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url, timeout=10, connection_class=Connection)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def command(self, *arguments: str) -> tuple[int, str]:
        """A command of the command line: exit code and output."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *arguments,
            env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await process.communicate()
        assert process.returncode in (0, 1), errors.decode()
        assert_as_promised(arguments, out)
        return process.returncode or 0, out.decode()

    async def topic_setting(self, topic: str, name: str, value: str) -> None:
        """Change one setting of a topic at the broker."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers.broker.address)
        await admin.start()
        try:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})])
        finally:
            await admin.close()

    async def events(self) -> list[Event]:
        """Everything on the events topic now."""
        consumer = AIOKafkaConsumer(
            f"{self.prefix}.task.events",
            bootstrap_servers=self.servers.broker.address,
            group_id=None,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        found: list[Event] = []
        try:
            quiet = 0
            while quiet < 2:
                batches = await consumer.getmany(timeout_ms=500)
                quiet = 0 if batches else quiet + 1
                for record in itertools.chain.from_iterable(batches.values()):
                    headers = dict(record.headers)
                    found.append(Event(record.key.decode(), headers["ce_id"].decode(), json.loads(record.value)))
        finally:
            await consumer.stop()
        return found

    async def announced(self, ids: Sequence[str], seconds: float = 15) -> dict[str, set[str]]:
        """Wait until the tasks' events left the outbox; returns the event ids by task."""

        async def sent() -> bool:
            query = "SELECT count(*) FROM event e JOIN task t ON t.id = e.task_id WHERE t.public_id = ANY ($1::uuid[])"
            return (await self.sql(query, list(ids)))[0]["count"] == 0

        await until(sent, seconds, "the events leave the outbox")
        wanted = set(ids)
        found: dict[str, set[str]] = {}
        for event in await self.events():
            if event.key in wanted:
                found.setdefault(event.key, set()).add(event.id)
        return found

    async def assert_whole(self, ids: Sequence[str], seconds: float = 20, *, ends: int = 1) -> None:
        """Every task has ended so often, each time with one event id, and the audit of all stores finds nothing."""
        events = await self.announced(ids)
        assert {task: len(found) for task, found in events.items()} == dict.fromkeys(ids, ends)
        await self.assert_clean(seconds)

    async def assert_clean(self, seconds: float = 20) -> None:
        """The audit of all stores finds nothing."""
        async with open_audit(self.settings) as audit:
            # Gate and permits may heal for a moment after a fault: that is their promise.
            report = await audit.run(wait_seconds=seconds)
        assert report.clean, (report.violations[:5], report.unchecked)
        assert report.checked


async def until(question: Callable[[], Any | Awaitable[Any]], seconds: float, what: str) -> None:
    """Ask until the answer is true; AssertionError naming `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def road_over(
    broker: ServerProcess | KafkaCluster, kind: str, servers: Servers, database_url: str, folder: Path
) -> AsyncIterator[Road]:
    """A road with topics of its own over another broker than everybody's."""
    stores = Servers(servers.postgres, servers.redis, broker, kind)
    async with open_road(folder, stores, database_url, f"t{secrets.token_hex(5)}") as road:
        yield road


@asynccontextmanager
async def open_road(folder: Path, servers: Servers, database_url: str, prefix: str) -> AsyncIterator[Road]:
    """A road without processes yet; whatever it started is ended with it."""
    (folder / "objects").mkdir(parents=True)
    (folder / "staging").mkdir()
    async with mock_model() as mock, replicate_provider(checks_token=False) as provider:
        road = Road(folder, servers, database_url, prefix, mock, provider)
        try:
            yield road
        finally:
            await road.stop_all()
