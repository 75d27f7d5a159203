"""Stores go on from an older state: a failover that lost the last commits, or a backup that was restored."""

from __future__ import annotations

import shutil

import pytest
import redis.asyncio

from libs.common.operations.audit_stores import open_audit
from tests.support.road import Road, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


async def test_what_an_older_state_knows_ends_and_takes_nothing_for_ever(road: Road) -> None:
    """Beside services that all live on: what ended since, runs again under executors that know nothing of it."""
    postgres = road.servers.postgres
    await road.start_all()
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=20, queue_limit=10_000)
    before = await road.submit(tenant, 100, seconds=0.5)
    await until(lambda: len(road.mock.calls) >= 30, 20, "calls run")
    await postgres.stop()
    cluster = postgres._home.cluster
    older = cluster.with_name("older")
    shutil.copytree(cluster, older)
    await postgres.start()
    await until(lambda: answers(road, tenant), 20, "the API answers again")
    forgotten = await road.submit(tenant, 100, seconds=0.2)
    await road.ended([*before, *forgotten], 60)
    forgotten += await road.submit(tenant, 50, seconds=1.0)
    await until(lambda: sum(road.mock.running.values()) >= 10, 20, "calls run")
    await postgres.kill()
    owner = cluster.stat()
    shutil.rmtree(cluster)
    older.rename(cluster)
    for file in (cluster, *cluster.rglob("*")):
        shutil.chown(file, owner.st_uid, owner.st_gid)
    await postgres.start()
    await until(lambda: answers(road, tenant), 20, "the API answers again")
    after = await road.submit(tenant, 100, seconds=0.1)
    await road.ended([*before, *after], 120)
    assert sum((await road.statuses(forgotten)).values()) == 0
    events = await road.announced([*before, *after])
    assert {task: len(events[task]) for task in after} == dict.fromkeys(after, 1)
    assert events.keys() == {*before, *after}
    async with open_audit(road.settings) as audit:
        report = await audit.run(wait_seconds=30)
    # Consumers heard of ends that are forgotten; nothing else differs, in no store.
    others = [
        one for one in report.violations if ".task.events/" not in one.detail and "was announced" not in one.detail
    ]
    assert others == []


async def test_an_older_dump_of_redis_closes_no_lane_for_ever_and_opens_none_too_wide(road: Road) -> None:
    """It holds permits and slots of what has ended, and lacks those of what runs."""
    await road.start_all()
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=5, queue_limit=10_000)
    ids = await road.submit(tenant, 60, seconds=0.3)
    await until(lambda: len(road.mock.calls) >= 20, 20, "calls run")
    async with redis.asyncio.Redis.from_url(road.servers.redis.address) as client:
        older = {key: (await client.pttl(key), await client.dump(key)) for key in await client.keys("*")}
        await road.ended(ids, 60)
        ids += await road.submit(tenant, 60, seconds=0.3)
        await until(lambda: len(road.mock.calls) >= 80, 20, "calls run")
        await client.flushall()
        for key, (left, value) in older.items():
            if value is not None:
                await client.restore(key, max(left, 0), value, replace=True)
    await road.ended(ids, 90)
    assert len(road.mock.calls) == len(ids)
    assert max(road.mock.most_at_once.values()) <= 10, "those that ran, and as many more as its permits let in"
    await road.assert_whole(ids)


async def answers(road: Road, tenant: int) -> bool:
    return (await road.call(tenant, "GET", "/v1/tasks?limit=1")).status_code == 200
