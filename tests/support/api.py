"""The API in this process, over real servers, as its callers meet it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from libs.common.adapters.postgres.connection import Connection
from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import RedisServer, open_redis
from libs.common.adapters.redis.hints import RedisHints, open_hints
from libs.common.runtime.health import Health
from libs.common.settings import Settings
from services.api.serving import ApiService
from services.api.wiring import open_api
from tests.support.openapi import assert_described

USUAL_SCOPES = ("submit", "read", "admin")
_tenants = itertools.count(1_001)
NOWHERE = "127.0.0.1:1"  #: nothing listens on this port
DEAD_POSTGRES = f"postgresql://{NOWHERE}/sluiceway"
DEAD_REDIS = f"redis://{NOWHERE}/0"


@dataclass
class Api:
    """A running API and what a test does with it."""

    url: str
    client: httpx.AsyncClient
    service: ApiService
    health: Health
    hints: RedisHints
    redis: RedisServer
    pool: asyncpg.Pool[asyncpg.Record]
    results: Path | None = None  #: its object store

    async def key(self, tenant: int, scopes: Sequence[str] = USUAL_SCOPES, name: str = "") -> str:
        """A fresh API key."""
        key = f"sw_{secrets.token_urlsafe(32)}"
        await self.sql("INSERT INTO tenant (id) VALUES ($1) ON CONFLICT DO NOTHING", tenant)
        await self.sql(
            "INSERT INTO api_key (tenant_id, name, digest, scopes) VALUES ($1, $2, $3, $4)",
            tenant,
            name,
            sha256(key.encode()).digest(),
            list(scopes),
        )
        return key

    async def tenant(self, tenant: int | None = None, scopes: Sequence[str] = USUAL_SCOPES) -> Tenant:
        """A tenant that calls; a new one unless named."""
        tenant = next(_tenants) if tenant is None else tenant
        return Tenant(self, tenant, await self.key(tenant, scopes, name=f"user-of-{tenant}"))

    async def heard_by(self, *channels: str) -> None:
        """Return when each of these channels has a listener."""

        async def subscribed() -> bool:
            (names,) = await self.redis.command_many([("PUBSUB", "CHANNELS", "sw:*")])
            return {name.decode() for name in names} >= set(channels)

        await until_true(subscribed)

    def waiting(self) -> int:
        """How many callers wait for the end of a task."""
        return self.service.room.waiting

    async def sql(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """Look behind the curtain."""
        rows: list[asyncpg.Record] = await self.pool.fetch(statement, *values)
        return rows


@dataclass
class Tenant:
    """A caller with a key."""

    api: Api
    id: int
    key: str

    async def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A request with the tenant's key."""
        headers = {"Authorization": f"Bearer {self.key}", **arguments.pop("headers", {})}
        answer = await self.api.client.request(method, path, headers=headers, **arguments)
        assert_described(answer)
        return answer

    async def model(self, name: str = "m", **fields: Any) -> dict[str, Any]:
        """A new model."""
        body = {"name": name, "base_url": "http://127.0.0.1:9", **fields}
        answer = await self.call("POST", "/v1/models", json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def submit(
        self, model: str = "m", key: str | None = None, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """A create."""
        headers = {**(headers or {}), **({} if key is None else {"Idempotency-Key": key})}
        return await self.call("POST", "/v1/tasks", headers=headers, json={"model": model, "payload": {}, **fields})

    async def stored(self) -> list[asyncpg.Record]:
        """Its tasks as they lie in the tables, oldest first."""
        return await self.api.sql(
            "SELECT t.*, i.payload, d.id IS NOT NULL AS open, t.xmin::text AS made_by FROM task t"
            " JOIN task_input i ON i.task_id = t.id LEFT JOIN dispatch d ON d.id = t.id"
            " WHERE t.tenant_id = $1 ORDER BY t.id",
            self.id,
        )

    async def stored_ids(self) -> list[str]:
        """The public ids of its tasks, oldest first."""
        rows = await self.api.sql("SELECT public_id FROM task WHERE tenant_id = $1 ORDER BY id", self.id)
        return [str(row["public_id"]) for row in rows]

    async def events(self) -> list[int]:
        """The statuses that its completion events announce."""
        rows = await self.api.sql(
            "SELECT e.status FROM event e JOIN task t ON t.id = e.task_id WHERE t.tenant_id = $1 ORDER BY e.id", self.id
        )
        return [row["status"] for row in rows]

    async def bury(self, tasks: Sequence[str], message: str = "no", code: str = "http_503") -> None:
        """These tasks, which nobody has started, fail for good; their events have left and their slots are back."""
        rows = await self.api.sql(
            "WITH gone AS ("
            " DELETE FROM dispatch WHERE public_id = ANY ($2::uuid[]) RETURNING id, lane, public_id, version),"
            " t AS (UPDATE task t SET status = 7, finished_at = now(), version = g.version + 1, error_code = $3,"
            " error_message = $4 FROM gone g WHERE t.id = g.id AND t.tenant_id = $1 RETURNING t.*), d AS ("
            " INSERT INTO dead_task (task_id, tenant_id, model_id, error_code, version)"
            " SELECT id, tenant_id, model_id, error_code, version FROM t) SELECT lane, public_id::text FROM gone",
            self.id, list(tasks), code, message,
        )  # fmt: skip
        assert len(rows) == len(tasks)
        await self.api.redis.command_many([("ZREM", keys.gate(row["lane"]), row["public_id"]) for row in rows])

    async def delivery(self, webhook: str, status: str = "dead", task: str | None = None) -> str:
        """A delivery of a webhook, as its sender left it; of a task that was cleaned unless one is named."""
        (row,) = await self.api.sql(
            "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, status, next_at,"
            " attempts, ended_at, dead_at)"
            " VALUES ($1, $2, '', '', coalesce($4::uuid, gen_random_uuid()), 'task:5', 'task.success', '{}', $3,"
            " CASE WHEN $3 = 'pending' THEN now() END, 8, CASE WHEN $3 <> 'pending' THEN now() END,"
            " CASE WHEN $3 = 'dead' THEN now() END) RETURNING id",
            self.id,
            int(webhook),
            status,
            task,
        )
        return str(row["id"])

    async def slots(self) -> int:
        """How many gate slots its tasks hold."""
        lanes = await self.api.sql("SELECT id FROM lane WHERE tenant_id = $1", self.id)
        counts = await self.api.redis.command_many([("ZCARD", keys.gate(lane["id"])) for lane in lanes])
        return sum(int(count) for count in counts)

    async def result(self, *contents: bytes, kind: str = "png", **fields: Any) -> str:
        """A task that succeeded with these files, stored as an executor stores them."""
        task, files = await self.task(**fields), []
        assert self.api.results is not None
        for index, content in enumerate(contents):
            name = f"{task}-1-{index}.{kind}"
            path = self.api.results / str(self.id) / "2026-11-23" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            digest = sha256(content).hexdigest()
            shown = {"type": kind, "size": len(content), "sha256": digest, "name": name, "index": index}
            files.append({"url": path.as_uri(), **shown})
        await self.succeed(task, files)
        return task

    async def succeed(self, task: str, files: Sequence[dict[str, Any]]) -> None:
        """What an executor writes at the end of a good attempt."""
        await self.api.sql("DELETE FROM dispatch WHERE public_id = $1", task)
        await self.api.sql(
            "UPDATE task SET status = 6, version = 4, attempt = 1, started_at = now(), finished_at = now(),"
            " oss_file = $2, file_type = $3, file_size = $4, files = $5 WHERE public_id = $1",
            task, files[0]["url"], files[0]["type"], files[0]["size"], json.dumps(list(files)),
        )  # fmt: skip

    async def task(self, model: str = "m", **fields: Any) -> str:
        """The id of a new task."""
        answer = await self.submit(model, **fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


def settings(database_url: str, redis_url: str, **more: Any) -> Settings:
    """Settings of an API on any free port."""
    told = {
        "database_url": database_url,
        "redis_url": redis_url,
        "secret_keys": "test:" + base64.b64encode(b"k" * 32).decode(),
        "api_port": 0,
        "egress_allow": "127.0.0.0/8",
        "drain_seconds": 0,
    }
    return Settings(**{**told, **more})


@asynccontextmanager
async def running_api(
    database_url: str, redis_url: str, *, truth: str | None = None, **more: Any
) -> AsyncIterator[Api]:
    """An API under way; `truth` is the database that keys are written to when `database_url` leads nowhere."""
    health = Health("api")
    async with (
        open_redis(redis_url) as redis,
        open_hints(redis) as hints,
        open_api(settings(database_url, redis_url, **more), health) as service,
    ):
        health.mark_started()
        running = asyncio.create_task(service.run())
        try:
            async with (
                asyncpg.create_pool(truth or database_url, min_size=0, max_size=4, connection_class=Connection) as pool,
                httpx.AsyncClient(base_url=service.url, timeout=20, trust_env=False, verify=False) as client,
            ):
                results = Path(more["storage_url"].removeprefix("file://")) if "storage_url" in more else None
                yield Api(service.url, client, service, health, hints, redis, pool, results)
        finally:
            service.stop()
            await running


async def until(question: Callable[[], bool], seconds: float = 15) -> None:
    """Return when the answer is yes; AssertionError when it never is."""

    async def ask() -> bool:
        return question()

    await until_true(ask, seconds)


async def until_true(question: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    """The same for a question that takes its time."""
    deadline = time.monotonic() + seconds
    while not await question():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)
