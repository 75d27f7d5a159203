"""A failed attempt with attempts left: where it waits, what it holds, and who goes first when it comes back."""

from __future__ import annotations

from itertools import groupby

from tests.support.road import Road, until


async def test_a_retry_stays_failed_until_the_gate_has_a_slot_again(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, queue_limit=1, retry_times=2)
    (first,) = await road.submit(tenant, fail=1)

    async def failed() -> bool:
        return bool(await road.sql("SELECT 1 FROM dispatch WHERE state = 3"))

    await until(failed, 15, "the first call fails")
    # its slot went back with the failure, so another task is accepted, and keeps the only slot
    road.mock.hold()
    (second,) = await road.submit(tenant)
    await until(lambda: len(road.mock.calls) == 2, 15, "the other task runs")
    await road.sql("UPDATE dispatch SET due_at = now() WHERE state = 3")
    put_off = "SELECT 1 FROM dispatch WHERE state = 3 AND due_at > now()"
    await until(lambda: road.sql(put_off), 15, "the retry finds the gate full")
    (view,) = await road.views(tenant, [first])
    assert (view["status"], view["times"]["finished_at"]) == ("failed", None)
    refused = await road.call(tenant, "POST", "/v1/tasks", json={"model": "m", "payload": {}})
    assert refused.status_code == 429
    assert await road.sql("SELECT 1 FROM dead_task") == []
    assert await road.sql("SELECT 1 FROM event") == []
    road.mock.let_go()
    await road.ended([first, second], 40)
    (view,) = await road.views(tenant, [first])
    assert view["attempt"] == 2
    await road.assert_whole([first, second])


async def test_a_failed_task_that_waits_for_its_retry_can_be_canceled(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, retry_times=2)
    (task,) = await road.submit(tenant, fail=1)
    await until(lambda: road.sql("SELECT 1 FROM dispatch WHERE state = 3"), 15, "the first call fails")
    await road.sql("UPDATE dispatch SET due_at = now() + interval '1 h'")
    answer = await road.call(tenant, "POST", f"/v1/tasks/{task}/cancel")
    assert answer.json()["verdict"] == "canceled"
    await road.ended([task], 10, status="canceled")
    assert len(road.mock.calls) == 1
    await road.assert_whole([task])


async def test_retries_that_jump_to_the_head_leave_every_other_start_to_fresh_work(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=1, retry_times=1, queue_limit=1_000)
    ids = await road.submit(tenant, 60, fail=1, seconds=0.05)
    await road.ended(ids, 60)
    seen: set[str] = set()
    again = []
    for call in road.mock.calls:
        again.append(call.name in seen)
        seen.add(call.name)
    last_fresh = len(again) - again[::-1].index(False)
    runs = [len(list(run)) for is_retry, run in groupby(again[:last_fresh]) if is_retry]
    assert sum(runs) >= 10, "retries came back while fresh work waited"
    assert max(runs) <= 3, "the window of one call holds three: their order among themselves is not promised"
    await road.assert_whole(ids)
