"""kill -9 at every step of a replay: afterwards each dead task has ended once more, and the record says so."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx
import pytest

from tests.support.road import Road, until

#: Where janitors die, one after the other: with slots and nothing written, with the queue written and nobody told, and
#: before the job is told of a full queue.
JANITORS: Final = ("janitor/before-replay", "janitor/after-replay", "janitor/before-replay-hold-up")
#: Where those die who run what was replayed; their work is taken over after the lease of ten seconds.
WORKERS: Final = (("dispatcher", "dispatcher/after-lease"), ("executor", "executor/after-claim"))


async def order(road: Road, tenant: int) -> httpx.Response:
    body = {"reason": "killed again and again", "limit": 100_000, "rate": 2_000}
    return await road.call(tenant, "POST", "/v1/replays", json=body)


async def die_at(road: Road, role: str, point: str) -> None:
    """A process of the role is killed there, wherever the job was before."""
    await road.sql("UPDATE replay_job SET runner_until = NULL")  # as if the last one had been gone for ten seconds
    await road.sql("UPDATE replay_item SET due_at = now() WHERE result IS NULL")
    victim = await road.launch(role, failpoints=f"{point}:1:exit")
    await road.died(victim, 60)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [50, pytest.param(2_000, marks=pytest.mark.long)])
async def test_each_dead_task_ends_once_more_whoever_is_killed(road: Road, count: int) -> None:
    api, *_ = (await asyncio.gather(*(road.start(role) for role in ("api", "dispatcher", "executor"))))[0]
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=100, queue_limit=count)
    ids = await road.submit(tenant, count, fail=1)
    await road.ended(ids, 120, status="failed")
    await road.announced(ids, 60)
    answer = await road.call(tenant, "PATCH", "/v1/models/m", json={"queue_limit": count // 2})
    assert answer.is_success, answer.text

    await road.kill(api)
    dying = await road.launch("api", failpoints="api/before-replay-job:1:exit")
    await dying.until_ready()
    with pytest.raises(httpx.TransportError):
        await order(road, tenant)
    await road.died(dying)
    await road.start("api")
    assert (await order(road, tenant)).json()["total"] == count
    assert (await order(road, tenant)).json()["total"] == 0, "asked twice"

    if count > 50:
        for role, _ in WORKERS:
            await road.kill(road.processes[role][0])
    for point in JANITORS:
        await die_at(road, "janitor", point)
    await road.sql("UPDATE replay_job SET runner_until = NULL")
    await road.start("janitor")
    if count > 50:  # whose rows a janitor gives back: else the window stays full
        for role, point in WORKERS:
            await die_at(road, role, point)
            await road.start(role)

    await until(lambda: replayed(road, count), 120, "all are replayed")
    await road.ended(ids, 180)
    await road.assert_whole(ids, 90, ends=2)
    (job,) = await road.sql("SELECT state, total, replayed FROM replay_job WHERE total > 0")
    assert tuple(job) == ("done", count, count)
    record = await road.sql(
        "SELECT count(*) AS n FROM history WHERE kind = 'replay' GROUP BY task_id HAVING count(*) = 1"
    )
    assert len(record) == count
    outcomes = await road.sql(
        "SELECT outcome, count(*) AS n FROM attempt WHERE outcome <> 'lost' GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in outcomes] == [("failed", count), ("success", count)]


async def replayed(road: Road, count: int) -> bool:
    (row,) = await road.sql("SELECT count(*) FROM replay_item WHERE result = 'replayed'")
    return bool(row["count"] == count)
