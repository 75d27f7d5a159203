"""The old Go gateway's tables, as newer and as older installations have them, with rows in them."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

#: Rows are dated by it, in local time of the old service.
NOW: Final = datetime(2026, 11, 20, 12, 0, 0)  # noqa: DTZ001
_COMMON: Final = """
  id BIGINT PRIMARY KEY, tenant_id BIGINT NOT NULL DEFAULT 0, creator VARCHAR(64) NOT NULL, created_at TIMESTAMP,
  updater VARCHAR(64) NOT NULL, updated_at TIMESTAMP, deleted_at TIMESTAMP(6),"""


def _tables(older: bool) -> str:
    timeout = "timeout_ms INT NOT NULL DEFAULT 60000" if older else "timeout_seconds INT NOT NULL DEFAULT 60"
    newer_model = "" if older else "retry_queue_max_seconds INT NOT NULL DEFAULT 0, expected_seconds INT DEFAULT 0,"
    newer_task = "" if older else "phase SMALLINT NOT NULL DEFAULT 0, tmp_file TEXT,"
    return f"""
CREATE TABLE asynch_models ({_COMMON}
  model_name VARCHAR(128) NOT NULL, base_url VARCHAR(256) NOT NULL, route VARCHAR(256) NOT NULL DEFAULT '',
  http_method VARCHAR(8) NOT NULL DEFAULT 'POST', api_key VARCHAR({256 if older else 1024}) DEFAULT '',
  enabled SMALLINT NOT NULL DEFAULT 1, max_concurrency INT NOT NULL DEFAULT 10, queue_limit INT NOT NULL DEFAULT 1000,
  {timeout}, retry_times SMALLINT NOT NULL DEFAULT 0, {newer_model}
  auto_clean_seconds INT NOT NULL DEFAULT 86400, remark TEXT DEFAULT '', UNIQUE (tenant_id, model_name));
CREATE TABLE asynch_task ({_COMMON}
  model_name VARCHAR(128), task_id VARCHAR(64), state SMALLINT, oss_file VARCHAR(512), file_type VARCHAR(32),
  file_size BIGINT, error_msg TEXT, started_at TIMESTAMP, finished_at TIMESTAMP, expire_at TIMESTAMP,
  retry_count INT, enqueue_at TIMESTAMP, {newer_task} input_ref TEXT, request_payload JSONB,
  UNIQUE (tenant_id, task_id));
CREATE TABLE asynch_op_log ({_COMMON}
  ip VARCHAR(64), user_agent VARCHAR(256), api_path VARCHAR(256), http_method VARCHAR(16), biz_name VARCHAR(128),
  model_name VARCHAR(128), task_id VARCHAR(64), op_type VARCHAR(64) DEFAULT 'createTask', success SMALLINT,
  error_msg TEXT, cost_ms BIGINT, request_payload JSONB, response_payload JSONB);
CREATE TABLE asynch_model_stat (day DATE, tenant_id BIGINT, creator VARCHAR(64), model_name VARCHAR(128),
  request_count BIGINT, created_at TIMESTAMP, updated_at TIMESTAMP,
  PRIMARY KEY (day, tenant_id, creator, model_name));
"""


@dataclass
class Legacy:
    """One old gateway's database."""

    url: str
    connection: Any
    older: bool = False
    _ids: Any = field(default_factory=lambda: itertools.count(1_900_000_000_000_000_001))

    async def model(self, name: str = "m", **columns: Any) -> int:
        values = {"model_name": name, "base_url": "http://127.0.0.1:9", **columns}
        return await self._insert("asynch_models", values)

    async def task(self, state: int | None = 0, model: str = "m", **columns: Any) -> int:
        """A task; `payload` is any JSON value."""
        payload = columns.pop("payload", {"name": "x"})
        values = {
            "model_name": model,
            "task_id": str(uuid.uuid4()),
            "state": state,
            "retry_count": 0,
            "enqueue_at": NOW,
            "request_payload": json.dumps(payload),
        }
        if state in (2, 3, 4):
            values |= {"started_at": NOW, "finished_at": NOW + timedelta(seconds=5)}
        if state in (2, 4):
            values |= {"oss_file": "http://files.example/a.mp3", "file_type": "mp3", "file_size": 7}
        if state == 4:
            values["expire_at"] = NOW + timedelta(days=400)
        return await self._insert("asynch_task", values | columns)

    async def line(self, **columns: Any) -> int:
        values = {"ip": "10.0.0.1", "biz_name": "biz", "model_name": "m", "success": 1, "cost_ms": 3} | columns
        for name in ("request_payload", "response_payload"):
            values[name] = json.dumps(values.get(name))
        return await self._insert("asynch_op_log", values)

    async def count(self, day: datetime, requests: int, model: str = "m", tenant: int = 7, creator: str = "c") -> None:
        await self.connection.execute(
            "INSERT INTO asynch_model_stat VALUES ($1, $2, $3, $4, $5, $6, $6)"
            " ON CONFLICT (day, tenant_id, creator, model_name) DO UPDATE SET request_count = EXCLUDED.request_count",
            day.date(), tenant, creator, model, requests, NOW,
        )  # fmt: skip

    async def many_tasks(self, count: int, state: int = 0, model: str = "m", *, seconds: int = 0) -> None:
        """Tasks with increasing ids, enqueued the other way round: the last one is the first in line."""
        first = next(self._ids)
        self._ids = itertools.count(first + count)
        await self.connection.execute(
            "INSERT INTO asynch_task (id, tenant_id, creator, updater, created_at, updated_at, model_name, task_id,"
            " state, retry_count, enqueue_at, request_payload)"
            " SELECT $1::bigint + n, 7, 'c', 'c', $2::timestamp, $2::timestamp, $3, gen_random_uuid()::text, $4, 0,"
            " $2::timestamp - n * interval '1 second', jsonb_build_object('name', 't' || n, 'seconds', $6::int)"
            " FROM generate_series(0, $5::int - 1) AS n",
            first, NOW, model, state, count, seconds,
        )  # fmt: skip

    async def _insert(self, table: str, columns: dict[str, Any]) -> int:
        known = {
            "id": next(self._ids),
            "tenant_id": 7,
            "creator": "c",
            "updater": "c",
            "created_at": NOW,
            "updated_at": NOW,
        }
        values = known | columns
        names, marks = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
        await self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *values.values())
        return int(values["id"])


@asynccontextmanager
async def open_legacy_database(server_url: str, *, older: bool = False) -> AsyncIterator[Legacy]:
    """An old gateway's database with empty tables, on the server of a test database; gone afterwards."""
    name = f"legacy_{uuid.uuid4().hex[:8]}"
    admin = await asyncpg.connect(server_url)
    url = f"{server_url.rpartition('/')[0]}/{name}"
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(_tables(older))
            yield Legacy(url, connection, older)
        finally:
            await connection.close()
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()
