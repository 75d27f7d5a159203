"""What load after load leaves behind in the services (I26): nothing that stays open, and no memory."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

import psutil
import pytest

from tests.support.road import Road, until

MODELS: Final = ("a", "b", "c", "d")  # so many that both executors read some
#: A pool may open a connection more when much happens at once. One for each canceled call would be twenty-four more.
MORE: Final = 8
#: A kilobyte for each task of the loads that follow the first.
MEMORY_BYTES: Final = 3 * 2_000 * 1_024


async def test_load_after_load_leaves_no_connections_and_no_files_open(road: Road) -> None:
    await road.start_all()
    tenant = await road.tenant()
    for model in MODELS:
        await road.model(tenant, model, max_concurrency=8, queue_limit=10_000, retry_times=1)
    await load(road, tenant)
    at_start = await at_rest(road)
    for _ in range(3):
        await load(road, tenant)
    at_end = await at_rest(road)
    assert at_end.keys() == at_start.keys(), "the processes are the same"
    grown = {name: (at_start[name], now) for name, now in at_end.items() if now > at_start[name] + MORE}
    assert not grown, (at_start, at_end)
    await road.assert_whole(road.accepted)


@pytest.mark.long
async def test_load_after_load_takes_no_memory(road: Road) -> None:
    await road.start_all()
    tenant = await road.tenant()
    for model in MODELS:
        await road.model(tenant, model, max_concurrency=20, queue_limit=10_000)

    async def many() -> None:
        ids = [task for model in MODELS for task in await road.submit(tenant, 500, model, size=1_000)]
        await road.ended(ids, 60)

    for _ in range(2):  # what is made once, is made then
        await many()
    at_start = memory(road)
    for _ in range(3):
        await many()
    at_end = memory(road)
    assert all(now - at_start[name] < MEMORY_BYTES for name, now in at_end.items()), (at_start, at_end)
    await road.assert_whole(road.accepted)


def memory(road: Road) -> dict[str, int]:
    """What each process holds in memory, bytes."""
    everything = itertools.chain.from_iterable(road.processes.values())
    return {process.name: psutil.Process(process.pid).memory_info().rss for process in everything}


async def load(road: Road, tenant: int) -> None:
    """Calls that succeed, at once or the second time, that are refused, that fail for good, and that are canceled."""
    succeed, fail, endless = [], [], []
    for model in MODELS:
        succeed += await road.submit(tenant, 50, model, seconds=0.05)
        succeed += await road.submit(tenant, 5, model, fail=1)
        fail += await road.submit(tenant, 5, model, fail=99)
        fail += await road.submit(tenant, 5, model, fail=99, status=400)
        endless += await road.submit(tenant, 4, model, seconds=60)
    await road.ended(succeed, 60)
    await road.ended(fail, 30, status="failed")
    await until(lambda: sum(road.mock.running.values()) == len(endless), 15, "what is canceled runs")
    for task in endless:
        await road.call(tenant, "POST", f"/v1/tasks/{task}/cancel")
    await road.ended(endless, 20, status="canceled")


async def at_rest(road: Road) -> dict[str, int]:
    """What is open when for five seconds nothing was opened or closed: connections to models are kept for a while."""
    seen = [await still_open(road)]

    async def unchanged() -> bool:
        await asyncio.sleep(1)
        seen.append(await still_open(road))
        return len(seen) > 5 and all(each == seen[-1] for each in seen[-6:])

    await until(unchanged, 60, "the services come to rest")
    return seen[-1]


async def still_open(road: Road) -> dict[str, int]:
    """File descriptors of each process, sockets among them, and the connections that PostgreSQL sees."""
    everything = itertools.chain.from_iterable(road.processes.values())
    files = {process.name: psutil.Process(process.pid).num_fds() for process in everything}
    (connections,) = await road.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        " AND pid <> pg_backend_pid()"
    )
    return {**files, "postgresql": connections["count"]}
