"""The parts of the PostgreSQL adapter that only the API leans on: lost answers of commits, and a full pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.database import Database, HotTransaction, open_database
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.errors import DatabaseUnavailable, OutcomeUnknown
from libs.common.ports_tasks import Created, IdempotencyKey, LaneClosed, NewTask, Repeated
from tests.support.api import Tenant

pytestmark = pytest.mark.asyncio(loop_scope="package")


class CutDatabase(Database):
    """Loses the answer of every commit, before or after it happened."""

    def __init__(self, real: Database, *, committed: bool) -> None:
        super().__init__(real.pool, real._engine, real._statements)
        self._committed = committed

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[HotTransaction]:
        async with super().transaction() as transaction:
            yield transaction
            if not self._committed:
                raise OutcomeUnknown("cut")
        raise OutcomeUnknown("cut")


async def new_task(tenant: Tenant, key: str | None, body: str = "body") -> NewTask:
    (lane,) = await tenant.api.sql("SELECT id FROM lane WHERE tenant_id = $1 AND NOT closed", tenant.id)
    named = None if key is None else IdempotencyKey("POST /v1/tasks", key.encode(), body.encode())
    return NewTask(uuid4(), tenant.id, lane["id"], b"{}", key=named)


async def test_a_commit_whose_answer_is_lost_is_read_back(tenant: Tenant, stores: tuple[str, str]) -> None:
    async with open_database(stores[0]) as database:
        earlier = await new_task(tenant, "old")
        assert isinstance((await PostgresTasks(database).create_many([earlier]))[0], Created)
        same, other = await new_task(tenant, "old"), await new_task(tenant, "old", "another body")
        fresh, keyless = await new_task(tenant, "new"), await new_task(tenant, None)
        closed = replace(await new_task(tenant, "closed"), lane=0)
        batch = [same, fresh, other, keyless, closed]

        with pytest.raises(DatabaseUnavailable):
            await PostgresTasks(CutDatabase(database, committed=False)).create_many(batch)
        assert len(await tenant.stored()) == 1

        found = await PostgresTasks(CutDatabase(database, committed=True)).create_many(batch)
        assert found[0] == Repeated(earlier.public_id, same_body=True)
        assert isinstance(found[1], Created)
        assert found[2] == Repeated(earlier.public_id, same_body=False)
        assert isinstance(found[3], Created)
        assert found[4] == LaneClosed()
        assert len(await tenant.stored()) == 3


async def test_readers_beyond_the_pool_are_refused_and_not_kept(tenant: Tenant) -> None:
    task = await tenant.task()
    async with tenant.api.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        reads = [asyncio.create_task(tenant.call("GET", f"/v1/tasks/{task}")) for _ in range(12)]
        done, _ = await asyncio.wait(reads, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        refused = done.pop().result()
        assert refused.status_code == 503
        assert refused.json()["code"] in ("unavailable", "rows_locked")
        assert time.monotonic() - began < 8
    answers = await asyncio.gather(*reads)
    assert {answer.status_code for answer in answers} == {200, 503}
