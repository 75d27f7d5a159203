"""What dies, freezes or forgets, and that every accepted task still ends once, with one event id, and a clean audit."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Sequence

import httpx
import pytest

from libs.common.embedded.service import ServiceProcess
from tests.support.road import NO_TLS, Road, until


async def ready(road: Road, *, executors: int = 2, **fields: object) -> int:
    await road.start_all(executors)
    tenant = await road.tenant()
    await road.model(tenant, **{"max_concurrency": 8, "queue_limit": 100_000, **fields})
    return tenant


async def test_an_executor_is_killed_in_its_calls(road: Road) -> None:
    tenant = await ready(road)
    ids = await road.submit(tenant, 16, seconds=2)
    await until(lambda: len(road.mock.calls) >= 8, 15, "calls run")
    (running,) = await road.sql(
        "SELECT executor, count(*) FROM dispatch WHERE token IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 1"
    )
    victim = await owner_of(road, running["executor"])
    await road.kill(victim)
    await road.ended(ids, 45)
    lost = (await road.sql("SELECT count(*) FROM attempt WHERE outcome = 'lost'"))[0]["count"]
    assert lost == running["count"]
    assert len(road.mock.calls) == len(ids) + lost
    (retries,) = await road.sql("SELECT max(retries) FROM task")
    assert retries["max"] == 0
    await road.assert_whole(ids, 60)


async def owner_of(road: Road, executor: int) -> ServiceProcess:
    """The process behind an executor's number: its log names it."""
    (row,) = await road.sql("SELECT name FROM executor WHERE id = $1", executor)
    pid = int(row["name"].rpartition("-")[2])
    return next(process for process in road.processes["executor"] if process.pid == pid)


async def test_an_executor_is_frozen_past_its_lease_and_comes_back(road: Road) -> None:
    tenant = await ready(road)
    ids = await road.submit(tenant, 12, seconds=1)
    await until(lambda: len(road.mock.calls) >= 6, 15, "calls run")
    victim = road.processes["executor"][0]
    road.freeze(victim)
    try:
        await road.ended(ids, 60)
    finally:
        road.thaw(victim)
    rescued = (await road.sql("SELECT count(*) FROM attempt WHERE outcome = 'lost'"))[0]["count"]
    assert len(road.mock.calls) <= len(ids) + rescued
    assert max(road.mock.most_at_once.values()) <= 8 + rescued
    more = await road.submit(tenant, 10)
    await road.ended(more, 30)
    await road.assert_whole([*ids, *more], 60)


async def test_an_executor_that_may_open_no_more_files_fails_no_task(road: Road) -> None:
    tenant = await ready(road, executors=1, max_concurrency=200, retry_times=0)
    await road.ended(await road.submit(tenant, 5), 20)
    (poor,) = road.processes["executor"]
    assert poor.pid is not None
    few = len(os.listdir(f"/proc/{poor.pid}/fd")) + 30
    resource.prlimit(poor.pid, resource.RLIMIT_NOFILE, (few, few))
    ids = await road.submit(tenant, 100, seconds=0.5)
    put_off = "SELECT FROM history WHERE kind = 'release' AND detail = 'out_of_files' LIMIT 1"
    await until(lambda: road.sql(put_off), 20, "calls find no room")
    (rich,) = await road.start("executor")
    await road.ended(ids, 60)
    assert rich.pid
    assert len(road.mock.calls) == 5 + len(ids)
    await road.assert_whole(ids, 60)


async def test_the_broker_is_away_for_a_while(road: Road) -> None:
    tenant = await ready(road)
    await road.model(tenant, "other", queue_limit=100_000)
    first = await road.submit(tenant, 10, "other")
    await road.ended(first, 30)
    await road.announced(first)  # so that rows, not events, are the first to find that nobody is there
    road.mock.hold()
    before = await road.submit(tenant, 50)  # some run, some are on the road, some wait
    await until(lambda: len(road.mock.calls) >= len(first) + 8, 15, "calls run")
    await road.servers.broker.stop()
    away = await road.submit(tenant, 100, "other")
    await until(lambda: given_back(road), 30, "rows were sent in vain")
    road.mock.let_go()
    await asyncio.sleep(5)
    during = await road.submit(tenant, 50, "other")
    await assert_nothing_burnt(road, [*away, *during])
    await road.servers.broker.start()
    ids = [*first, *before, *away, *during]
    await road.ended(ids, 90)
    assert len(road.mock.calls) == len(ids)
    await road.assert_whole(ids, 60)


async def given_back(road: Road) -> bool:
    """Whether a dispatcher took rows that the broker did not take."""
    return bool(await road.sql("SELECT FROM history WHERE kind = 'heal' AND detail = 'not acknowledged' LIMIT 1"))


async def assert_nothing_burnt(road: Road, ids: Sequence[str]) -> None:
    """The broker is away, these tasks wait for it, and nothing of that is counted against them."""
    (used,) = await road.sql(
        "SELECT count(*), max(sends) AS sends, max(attempt) AS attempt, max(retries) AS retries"
        " FROM dispatch WHERE public_id = ANY ($1::uuid[])",
        list(ids),
    )
    assert dict(used) == {"count": len(ids), "sends": 0, "attempt": 0, "retries": 0}


async def test_postgresql_is_restarted(road: Road) -> None:
    tenant = await ready(road)
    ids = await road.submit(tenant, 60, seconds=0.3)
    await until(lambda: len(road.mock.calls) >= 8, 15, "calls run")
    await road.servers.postgres.kill()
    refused = await road.call(tenant, "POST", "/v1/tasks", json={"model": "m", "payload": {}})
    assert refused.status_code == 503, refused.text
    assert refused.headers["retry-after"]
    await road.servers.postgres.start()
    await until(lambda: answers(road, tenant), 20, "the API answers again")
    more = await road.submit(tenant, 5)
    await road.ended([*ids, *more], 60)
    await road.assert_whole([*ids, *more], 60)


async def answers(road: Road, tenant: int) -> bool:
    return (await road.call(tenant, "GET", "/v1/tasks?limit=1")).status_code == 200


async def test_redis_is_flushed(road: Road) -> None:
    tenant = await ready(road, max_concurrency=4)
    ids = await road.submit(tenant, 60, seconds=0.2)
    await until(lambda: len(road.mock.calls) >= 4, 15, "calls run")
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(road.servers.redis.address) as client:
        await client.flushall()
    await road.ended(ids, 60)
    assert len(road.mock.calls) == len(ids)
    assert max(road.mock.most_at_once.values()) <= 4 + 4  # at most once more what ran when permits were forgotten
    await road.assert_whole(ids, 60)


async def test_redis_is_away(road: Road) -> None:
    tenant = await ready(road)
    ids = await road.submit(tenant, 20, seconds=0.2)
    await road.servers.redis.kill()
    refused = await road.call(tenant, "POST", "/v1/tasks", json={"model": "m", "payload": {}})
    assert refused.status_code == 503, refused.text
    await asyncio.sleep(3)
    await road.servers.redis.start()
    await road.ended(ids, 60)
    more = await road.submit(tenant, 5)
    await road.ended(more, 30)
    assert len(road.mock.calls) == len(ids) + len(more)
    await road.assert_whole([*ids, *more], 60)


async def test_a_dispatcher_is_killed_between_publish_and_mark(road: Road) -> None:
    await asyncio.gather(road.start("api"), road.start("janitor"), road.start("executor", 2))
    (dispatcher,) = await road.start("dispatcher", failpoints="dispatcher/after-publish:3:exit")
    tenant = await road.tenant()
    await road.model(tenant, queue_limit=10_000, max_concurrency=20)
    ids = await road.submit(tenant, 100, seconds=0.05)
    await road.died(dispatcher)
    await road.start("dispatcher")
    await road.ended(ids, 60)
    assert len(road.mock.calls) == len(ids)
    await road.assert_whole(ids, 60)


async def test_a_dispatcher_is_frozen_with_rows_in_hand_and_sends_them_late(road: Road) -> None:
    await asyncio.gather(road.start("api"), road.start("janitor"), road.start("executor", 2))
    (victim,) = await road.start("dispatcher", failpoints="dispatcher/after-lease:3:delay=3000")
    tenant = await road.tenant()
    await road.model(tenant, queue_limit=10_000, max_concurrency=20)
    ids = await road.submit(tenant, 100, seconds=0.05)
    struck = road.folder / "failpoints.log"
    await until(lambda: struck.exists() and "after-lease" in struck.read_text(), 15, "rows are in hand")
    road.freeze(victim)
    try:
        await road.start("dispatcher")
        ids += await road.submit(tenant, 20)
        await road.ended(ids, 60)
        await until(lambda: no_event_waits(road), 30, "the other one relays events, too")
    finally:
        road.thaw(victim)
    await until(lambda: stale_messages(road), 15, "what it sends late is known as stale")
    ids += await road.submit(tenant, 20)
    await road.ended(ids, 30)
    assert len(road.mock.calls) == len(ids)
    await road.assert_whole(ids, 60)


async def no_event_waits(road: Road) -> bool:
    return not await road.sql("SELECT FROM event")


async def stale_messages(road: Road) -> bool:
    """Whether an executor met messages whose leases no longer stand."""
    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as client:
        pages = [(await client.get(f"{process.address}/metrics")).text for process in road.processes["executor"]]
    counts = [line.split()[1] for page in pages for line in page.splitlines() if line.startswith("sluiceway_stale_mes")]
    return any(float(count) for count in counts)


async def test_foreign_and_duplicate_messages_change_nothing(road: Road) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    tenant = await ready(road)
    first = await road.submit(tenant, 20)
    await road.ended(first, 30)
    (model,) = await road.sql("SELECT id FROM model")
    topic = f"{road.prefix}.model.{model['id']}-m"
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=road.servers.broker.address, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=road.servers.broker.address, acks="all")
    await consumer.start()
    await producer.start()
    try:
        records = [await asyncio.wait_for(consumer.getone(), 10) for _ in range(len(first))]
        poison = [None, b"", b"not json", b"{}", b'{"v":2}', b"\xff" * 100, b"[" * 3_000]
        for value in [record.value for record in records] + poison:
            await producer.send_and_wait(topic, value, key=b"x", partition=0)
        second = await road.submit(tenant, 20)
        await road.ended(second, 30)
    finally:
        await consumer.stop()
        await producer.stop()
    await until(lambda: dead_messages(road, len(poison)), 15, "the poison is kept")
    assert len(road.mock.calls) == len(first) + len(second)
    await road.assert_whole([*first, *second])


async def dead_messages(road: Road, count: int) -> bool:
    return bool((await road.sql("SELECT count(*) FROM dead_message"))[0]["count"] == count)


async def test_executors_join_leave_and_restart_one_after_the_other_under_load(road: Road) -> None:
    tenant = await ready(road, executors=3, max_concurrency=30)
    ids = await road.submit(tenant, 400, seconds=0.3)
    for old in list(road.processes["executor"]):
        await road.start("executor")
        await road.stop(old)
    await road.ended(ids, 60)
    (used,) = await road.sql("SELECT max(attempt) AS attempt, max(retries) AS retries FROM task")
    assert dict(used) == {"attempt": 1, "retries": 0}
    assert len(road.mock.calls) == len(ids)  # the drain is longer than a call, so none is cut off
    await road.assert_whole(ids, 60)


async def test_three_dispatchers_and_three_executors_publish_nothing_twice(road: Road) -> None:
    await asyncio.gather(
        road.start("api"), road.start("janitor"), road.start("dispatcher", 3), road.start("executor", 3)
    )
    tenant = await road.tenant()
    for name in ("a", "b", "c"):
        await road.model(tenant, name, max_concurrency=5, queue_limit=10_000)
    ids = [task for name in ("a", "b", "c") for task in await road.submit(tenant, 300, name, seconds=0.02)]
    most = 0
    while (await road.statuses(ids))["success"] < len(ids):
        rows = await road.sql("SELECT lane, count(*) FROM dispatch WHERE state = 1 GROUP BY lane")
        most = max([most, *(row["count"] for row in rows)])
    assert most <= 10  # the window of max_concurrency 5
    assert max(road.mock.most_at_once.values()) <= 5
    assert len(road.mock.calls) == len(ids)
    (healed,) = await road.sql("SELECT count(*) FROM history WHERE kind IN ('heal', 'release')")
    assert healed["count"] == 0
    await road.assert_whole(ids)


async def test_a_reader_hangs_while_its_process_lives(road: Road) -> None:
    await asyncio.gather(road.start("api"), road.start("dispatcher"), road.start("janitor"))
    await asyncio.gather(
        road.start("executor", failpoints="executor/before-permit:1:delay=60000"), road.start("executor")
    )
    tenant = await road.tenant()
    ids = []
    for number in range(4):  # each has a topic of its own, so that both executors own some
        await road.model(tenant, f"h{number}")
        ids += await road.submit(tenant, 5, f"h{number}")
    await road.ended(ids, 60)
    assert len(road.mock.calls) == len(ids)
    await road.assert_whole(ids, 60)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_broker_is_stopped_for_half_a_minute_under_load(road: Road) -> None:
    tenant = await ready(road, max_concurrency=20)
    ids, away = [], []
    for second in range(40):
        if second == 3:
            await road.servers.broker.stop()
        if second == 33:
            assert await given_back(road)
            await assert_nothing_burnt(road, away)
            await road.servers.broker.start()
        handed_in = await road.submit(tenant, 20, seconds=0.05)
        ids += handed_in
        if 3 <= second < 33:
            away += handed_in
        await asyncio.sleep(1)
    await road.ended(ids, 120)
    assert len(road.mock.calls) == len(ids)
    await road.assert_whole(ids, 60)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_flood_of_twenty_thousand_starts_beside_another_tenant(road: Road) -> None:
    await road.start_all()
    flood, other = await road.tenant(), await road.tenant()
    await road.model(flood, max_concurrency=50, queue_limit=50_000)
    await road.model(other, max_concurrency=10)
    many = await road.submit(flood, 20_000, seconds=0.02)
    few = []
    for _ in range(10):
        few += await road.submit(other, 3)
        await asyncio.sleep(0.5)
    query = "SELECT count(*) FROM task WHERE public_id = ANY ($1::uuid[]) AND started_at IS NULL"
    assert (await road.sql(query, few))[0]["count"] <= 3  # all but the newest have begun long before the flood ends
    assert (await road.statuses(many))["submitted"] > 5_000
    await road.ended(few, 30)
    await road.ended(many, 400)
    assert len(road.mock.calls) == len(many) + len(few)
    await road.assert_whole([*many, *few], 120)
