"""The statistics equal the model's own log of its calls."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from random import Random

from tests.support.road import Road, until


async def counted(road: Road) -> Counter[tuple[int, str]]:
    """Calls by tenant and model: folded ones, and those that are not folded yet."""
    rows = await road.sql(
        "SELECT tenant_id, model_name, sum(n)::int AS n FROM ("
        " SELECT tenant_id, model_name, request_count AS n FROM model_stat"
        " UNION ALL SELECT d.tenant_id, m.name, d.calls FROM stat_delta d JOIN model m ON m.id = d.model_id) s"
        " GROUP BY 1, 2"
    )
    return Counter({(row["tenant_id"], row["model_name"]): row["n"] for row in rows if row["n"]})


def called(road: Road) -> Counter[tuple[int, str]]:
    """The same as the model saw it."""
    routes = [call.route.lstrip("/").partition("-") for call in road.mock.calls]
    return Counter((int(tenant), name) for tenant, _, name in routes)


async def test_calls_counted_equal_the_calls_that_the_model_saw(road: Road) -> None:
    """Under retries, final failures, executors that are told to stop, models that nobody reaches, and two janitors that
    fold."""
    await asyncio.gather(
        road.start("api"),
        road.start("dispatcher", 2),
        road.start("janitor", 2, janitor_interval="0.2"),
        road.start("executor", 2),
    )
    rng = Random(4)
    ids = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for _ in range(2):
        tenant = await road.tenant()
        for name in ("a", "b"):
            await road.model(tenant, name, retry_times=2, max_concurrency=6, queue_limit=10_000)
            for _ in range(12):
                seconds, fail = rng.choice([0.0, 0.1, 0.3]), rng.choice([0, 0, 1, 2, 9])
                status = rng.choice([503, 429, 400])
                ids += await road.submit(tenant, 4, name, seconds=seconds, fail=fail, status=status)
        await road.model(tenant, "away", base_url=closed, retry_times=1)
        ids += await road.submit(tenant, 3, "away")
    await until(lambda: len(road.mock.calls) > 40, 20, "calls run")
    await road.start("executor")
    await road.stop(road.processes["executor"][0])
    await road.ended(ids, 90, status=None)
    assert called(road) == await counted(road)
    assert sum(called(road).values()) > len(ids)

    async def folded() -> bool:
        return (await road.sql("SELECT count(*) FROM stat_delta"))[0]["count"] == 0

    await until(folded, 15, "everything is folded")
    assert called(road) == await counted(road)
    await road.assert_whole(ids, 60)
