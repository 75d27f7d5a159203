"""From REST to the completion event, and what callers rely on along the way."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from tests.support.metrics_page import described
from tests.support.mock_model import mock_model
from tests.support.road import Road, until

PAGE = {name: metric for name, _, metric in described()}


async def test_a_task_goes_from_rest_to_its_event(road: Road) -> None:
    await road.start_all()
    tenant = await road.tenant()
    await road.model(tenant)
    (task,) = await road.submit(tenant)
    await road.ended([task])
    await road.assert_whole([task])
    (view,) = await road.views(tenant, [task])
    content = Path(unquote(urlsplit(view["result"]["url"]).path)).read_bytes()
    assert view["result"]["type"] == "png"
    assert view["result"]["size"] == len(content)
    (event,) = [event for event in await road.events() if event.key == task]
    assert event.data["status"] == "success"
    assert event.data["tenantId"] == str(tenant)
    assert event.data["ossFile"] == view["result"]["url"]
    assert len(road.mock.calls) == 1
    await assert_observable(road, task, tenant)


async def assert_observable(road: Road, task: str, tenant: int) -> None:
    """Every process answers probes and scrapes, and the log tells who the task was of, and where."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        for process in itertools.chain.from_iterable(road.processes.values()):
            for path in ("/livez", "/readyz", "/startupz", "/metrics"):
                answer = await client.get(f"{process.address}{path}")
                assert answer.status_code == 200, (process.name, path, answer.text)
            shown = set(re.findall(r"^# TYPE (sluiceway_\w+) ", answer.text, re.MULTILINE))
            assert shown >= {name for name, metric in PAGE.items() if metric.role in ("", process.role)}
            shown = {name for name in shown if not name.endswith("_created")}  # the client adds these to counters
            assert shown <= set(PAGE), "what a process shows stands on docs/metrics.md"
            (build,) = [line for line in answer.text.splitlines() if line.startswith("sluiceway_build_info{")]
            assert f'role="{process.role}"' in build
    lines = [
        json.loads(line)
        for process in road.processes["executor"]
        for line in process.log_path.read_text().splitlines()
        if task in line
    ]
    (ended,) = [line for line in lines if line["event"] == "attempt.ended"]
    assert (ended["tenant"], ended["model"], ended["attempt"], ended["role"]) == (tenant, "m", 1, "executor")
    assert len(ended["trace"].split("-")) == 4


async def test_many_tasks_of_two_tenants_each_end_once(road: Road) -> None:
    await road.start_all()
    tenants = [await road.tenant(), await road.tenant()]
    ids = []
    for tenant in tenants:
        await road.model(tenant, max_concurrency=7, queue_limit=5_000)
        ids += await road.submit(tenant, 300)
    await road.ended(ids, 60)
    await road.assert_whole(ids)
    assert len(road.mock.calls) == len(ids)
    assert max(road.mock.most_at_once.values()) <= 7


async def test_a_failing_call_is_tried_again_as_often_as_the_model_says(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, retry_times=2)
    recovers = await road.submit(tenant, 3, fail=2)
    gives_up = await road.submit(tenant, 2, fail=99)
    refused = await road.submit(tenant, 2, fail=99, status=400)
    await road.ended(recovers, 40)
    await road.ended(gives_up, 40, status="failed")
    await road.ended(refused, 10, status="failed")
    await road.assert_whole([*recovers, *gives_up, *refused])
    assert len(road.mock.calls) == 3 * 3 + 2 * 3 + 2
    (dead,) = await road.sql("SELECT count(*) FROM dead_task")
    assert dead["count"] == 4


async def test_a_task_that_runs_is_canceled_at_the_model_and_its_late_result_is_thrown_away(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=1)
    running, waiting = await road.submit(tenant, 2, seconds=30)
    await until(lambda: road.mock.calls, 10, "the first call begins")
    verdicts = [(await road.call(tenant, "POST", f"/v1/tasks/{task}/cancel")).json() for task in (waiting, running)]
    assert [verdict["verdict"] for verdict in verdicts] == ["canceled", "cancel_requested"]
    await road.ended([running, waiting], 10, status="canceled")
    again = (await road.call(tenant, "POST", f"/v1/tasks/{running}/cancel")).json()
    assert again["verdict"] == "already_final"
    assert road.mock.calls[0].ended is not None
    await road.assert_whole([running, waiting])


async def test_one_tenants_flood_does_not_hold_up_another(road: Road) -> None:
    """20 models flood two executors of 100 slots, and no call ends; the other tenant's tasks start at once."""
    await road.start_all(executors=0)
    await road.start("executor", 2, executor_slots="100")
    flood, other = await road.tenant(), await road.tenant()
    for number in range(20):
        await road.model(flood, f"f{number}", max_concurrency=50, queue_limit=5_000)
    async with mock_model() as answers:
        await road.model(other, "quiet", base_url=answers.url, max_concurrency=10)
        road.mock.hold()
        for number in range(20):
            await road.submit(flood, 50, f"f{number}")
        # A twentieth is kept for whoever comes next.
        await until(lambda: len(road.mock.calls) >= 2 * 95, 20, "the flood has all that a tenant alone may have")
        await asyncio.sleep(1)  # it would have the rest by now, if it might
        assert len(road.mock.calls) == 2 * 95
        quiet = await road.submit(other, 20, "quiet")
        await road.ended(quiet, 5)
        assert not any(call.ended for call in road.mock.calls), "nobody made room for them"
        rows = await road.sql(
            "SELECT max(started_at - created_at) < interval '3 s' AS at_once FROM task"
            " WHERE public_id = ANY ($1::uuid[])",
            quiet,
        )
        assert rows[0]["at_once"]
        road.mock.let_go()
        await road.ended(road.accepted, 60)
    await road.assert_whole(road.accepted)


async def test_tenants_that_wait_share_the_starts_evenly_however_many_models_one_has(road: Road) -> None:
    await road.start_all(executors=0)
    tenants = [await road.tenant() for _ in range(8)]
    for tenant, models in zip(tenants, [5, *[1] * 7], strict=True):
        for number in range(models):
            await road.model(tenant, f"m{number}", max_concurrency=50, queue_limit=5_000)
            await road.submit(tenant, 200, f"m{number}", seconds=0.1)
    await road.start("executor", executor_slots="40")
    await road.ended(road.accepted, 60)
    rows = await road.sql(
        "SELECT tenant_id, count(*)::int FROM (SELECT tenant_id FROM task ORDER BY started_at LIMIT 1200) AS first"
        " GROUP BY tenant_id"
    )
    shares = {row["tenant_id"]: row["count"] for row in rows}
    assert shares.keys() == set(tenants)
    # Jain's index: 1 where all have the same, 1/8 where one has everything; of the first starts, while all wait.
    jain = sum(shares.values()) ** 2 / (len(shares) * sum(share**2 for share in shares.values()))
    assert jain >= 0.99, shares
    await road.assert_whole(road.accepted)
