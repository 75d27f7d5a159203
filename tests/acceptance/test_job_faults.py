"""Providers' jobs while processes and stores die, freeze and forget: gone on with, never bought twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.test_faults import owner_of
from tests.support.replicate_provider import Job
from tests.support.road import Road, until
from tests.support.slow_proxy import slow_proxy
from tests.support.tls_front import tls_front

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


async def waiting(road: Road, count: int = 6, **fields: object) -> list[str]:
    """Tasks whose jobs the provider holds."""
    await road.start_all(2)
    tenant = await road.tenant()
    await road.job_model(tenant, plan={"hold_at": "processing"}, **fields)
    ids = await road.submit(tenant, count)
    at_work = "SELECT count(*) = $1 AS all FROM task_face WHERE provider_job_id IS NOT NULL AND status = 3"

    async def all_at_work() -> bool:
        return bool((await road.sql(at_work, count))[0]["all"])

    await until(all_at_work, 20, "the provider works on all of them")
    return ids


def ours(road: Road) -> list[Job]:
    return [job for job in road.provider.jobs.values() if job.id != "before"]


async def slowest_way_in(road: Road, ids: list[str]) -> float:
    """Seconds from a create to its job at the provider, the most of four; their tasks join the others."""
    (tenant,) = road.keys
    slowest = 0.0
    for _ in range(4):
        began = time.monotonic()
        ids.extend(await road.submit(tenant, 1))
        await until(lambda: len(road.provider.submits) == len(ids), 20, "its job is submitted")
        slowest = max(slowest, time.monotonic() - began)
    return slowest


async def end_well(road: Road, ids: Sequence[str]) -> None:
    """The provider finishes, and every task succeeds with its first job."""
    road.provider.let_go()
    await road.ended(ids, 60)
    assert road.provider.twice() == []
    assert len(ours(road)) == len(ids)
    assert {row["attempt"] for row in await road.sql("SELECT attempt FROM task")} == {1}
    await road.assert_whole(ids, 60)


async def test_a_killed_executors_jobs_are_asked_about_by_another_one(road: Road) -> None:
    ids = await waiting(road, max_concurrency=20)
    usual = await slowest_way_in(road, ids)
    (running,) = await road.sql("SELECT executor FROM dispatch GROUP BY 1 ORDER BY count(*) DESC LIMIT 1")
    names = await road.sql(
        "SELECT p.provider_id FROM dispatch q JOIN provider_job p ON p.task_id = q.id WHERE q.executor = $1",
        running["executor"],
    )
    await road.kill(await owner_of(road, running["executor"]))
    before = {row["provider_id"]: road.provider.jobs[row["provider_id"]].gets for row in names}
    # Twelve seconds are the promise. From its rescue on a job goes the way of a new task, so a machine on which that
    # takes longer than a moment, busy as it is with other tests, gets as much more for each end of it.
    await until(
        lambda: all(road.provider.jobs[name].gets > gets for name, gets in before.items()),
        12 + 2 * usual,
        f"all are asked about (a new task takes {usual:.2f} s here)",
    )
    await end_well(road, ids)


async def test_a_frozen_executors_jobs_are_gone_on_with_and_it_disturbs_nobody(road: Road) -> None:
    ids = await waiting(road)
    (running,) = await road.sql("SELECT executor FROM dispatch GROUP BY 1 ORDER BY count(*) DESC LIMIT 1")
    victim = await owner_of(road, running["executor"])
    road.freeze(victim)
    others = "SELECT count(*) FILTER (WHERE executor = $1) = 0 AND bool_and(token IS NOT NULL) AS moved FROM dispatch"

    async def moved() -> bool:
        return bool((await road.sql(others, running["executor"]))[0]["moved"])

    try:
        await until(moved, 30, "another one has them")
    finally:
        road.thaw(victim)
    await end_well(road, ids)
    assert not any(job.canceled for job in ours(road))


async def test_who_is_frozen_while_it_connects_to_submit_a_job_submits_none(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one submits it meanwhile. The connection of the first is ready in the moment in which it is thawed, just
    within its time for connecting: it was frozen soon after it began, and its last sign of life was not much older.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with tls_front(road.provider.url, tmp_path / "ca.pem") as url, slow_proxy(url) as way:
        await road.start_all(2)
        tenant = await road.tenant()
        await road.job_model(tenant)
        change = {"base_url": way.url, "timeout_seconds": 120}
        assert (await road.call(tenant, "PATCH", "/v1/models/m", json=change)).is_success
        before = await road.submit(tenant, 1)
        await road.ended(before)
        (reader,) = await road.sql("SELECT executor FROM attempt")  # whose the next one is, too
        silent = "SELECT now() - beat_at > interval '1.6 s' AS yes FROM executor WHERE id = $1"

        async def beats_soon() -> bool:
            return bool((await road.sql(silent, reader["executor"]))[0]["yes"])

        await until(beats_soon, 10, "its next beat is near")
        await way.close()  # no connection is kept
        way.hold = free = asyncio.Event()
        made, jobs = way.connections, len(road.provider.submits)
        victim = await owner_of(road, reader["executor"])
        ids = await road.submit(tenant, 1)
        await until(lambda: way.connections > made, 5, "it connects")
        road.freeze(victim)
        try:
            assert len(road.provider.submits) == jobs
            await until(lambda: len(road.provider.submits) > jobs, 30, "another one submits the job")
            free.set()
            await asyncio.sleep(0.05)  # what it waits for lies in its socket
        finally:
            road.thaw(victim)
        await road.ended([*before, *ids], 60)
        more = await road.submit(tenant, 2)  # both are well
        await road.ended(more, 30)
        markers = Counter(submit.marker for submit in road.provider.submits)
        assert sorted(markers.values()) == [1] * 4
        assert road.provider.twice() == []
        await road.assert_whole([*before, *ids, *more], 60)


async def test_a_rolling_restart_leaves_jobs_where_they_are(road: Road) -> None:
    ids = await waiting(road)
    for executor in list(road.processes["executor"]):
        await road.stop(executor)
        await road.start("executor")
    await end_well(road, ids)


async def test_postgresql_is_away_while_jobs_go_on(road: Road) -> None:
    ids = await waiting(road)
    await road.servers.postgres.kill()
    road.provider.let_go()
    await until(lambda: all(job.over for job in ours(road)), 30, "the provider is done")
    await road.servers.postgres.start()
    await end_well(road, ids)


async def test_redis_forgets_the_permits_of_waiting_jobs(road: Road) -> None:
    import redis.asyncio

    ids = await waiting(road, max_concurrency=6)
    async with redis.asyncio.Redis.from_url(road.servers.redis.address) as client:
        await client.flushall()
    (tenant,) = road.keys
    more = await road.submit(tenant, 4)
    started = "SELECT count(*) FROM dispatch WHERE held_by IS NOT NULL OR token IS NOT NULL"

    async def all_seen() -> bool:
        return bool((await road.sql(started))[0]["count"] == 10)

    await until(all_seen, 20, "the others wait for permits")
    assert len(ours(road)) == 6
    road.provider.let_go()
    road.provider.plan = type(road.provider.plan)(output=road.provider.plan.output)
    await road.ended([*ids, *more], 60)
    assert road.provider.twice() == []
    await road.assert_whole([*ids, *more], 60)
