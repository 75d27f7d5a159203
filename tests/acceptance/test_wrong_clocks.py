"""Machines whose wall clocks are hours apart: PostgreSQL's is the only one that decides."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from tests.support.road import Road

HOURS = 2
MODELS = ("a", "b", "c", "d")  #: each has a topic of its own, so that both executors own some


async def test_clocks_hours_apart_end_nothing_early_and_call_nothing_twice(road: Road) -> None:
    await asyncio.gather(
        road.start("api"),
        *(
            road.start(role, clock_ahead=wrong * 3_600)
            for role in ("dispatcher", "executor", "janitor")
            for wrong in (HOURS, -HOURS)
        ),
    )
    tenant = await road.tenant()
    for name in MODELS:
        await road.model(tenant, name, max_concurrency=4, queue_limit=1_000, retry_times=2, timeout_seconds=30)
    ids = [task for name in MODELS for task in await road.submit(tenant, 20, name, seconds=0.3)]
    again = await road.submit(tenant, 4, "a", fail=1)
    later, in_time = await timed(road, tenant)
    everything = [*ids, *again, later, in_time]
    await road.ended(everything, 60)
    assert len(road.mock.calls) == len(everything) + len(again)
    (early,) = await road.sql("SELECT count(*) FROM task WHERE started_at < not_before OR started_at < created_at")
    assert early["count"] == 0
    (lost,) = await road.sql("SELECT count(*) FROM attempt WHERE outcome = 'lost'")
    assert lost["count"] == 0
    assert {wrong for wrong in map(hours_of_log, logs(road)) if wrong} == {HOURS, -HOURS}  # they were wrong indeed
    await road.assert_whole(everything)


async def timed(road: Road, tenant: int) -> tuple[str, str]:
    """A task that may not start for 3 s, and one that has minutes to start and to end."""
    now = datetime.now(UTC)
    tasks = [
        {"not_before": now + timedelta(seconds=3)},
        {"start_by": now + timedelta(minutes=5), "deadline": now + timedelta(minutes=6)},
    ]
    body = [{"model": "b", "payload": {}, **{name: at.isoformat() for name, at in times.items()}} for times in tasks]
    answer = await road.call(tenant, "POST", "/v1/tasks/batch", json={"tasks": body})
    later, in_time = (item["id"] for item in answer.json()["items"])
    return later, in_time


def logs(road: Road) -> list[str]:
    """The last line of each process."""
    return [file.read_text().splitlines()[-1] for file in (road.folder / "logs").iterdir()]


def hours_of_log(line: str) -> int:
    """How many hours ahead the clock was that stamped this line."""
    ahead = datetime.fromisoformat(json.loads(line)["time"]) - datetime.now(UTC)
    return round(ahead.total_seconds() / 3_600)
