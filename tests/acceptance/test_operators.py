"""Pauses and drains with real processes: they hold through restarts, are explained, and lose nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support import servers
from tests.support.receiver import open_receiver
from tests.support.road import Road, until


async def why(road: Road, tenant: int, task: str) -> dict[str, Any]:
    said: dict[str, Any] = (await road.call(tenant, "GET", f"/v1/tasks/{task}/why")).json()
    return said


async def overview_of(road: Road, tenant: int) -> dict[str, Any]:
    answer: dict[str, Any] = (await road.call(tenant, "GET", "/v1/overview")).json()
    return answer


@pytest.mark.long
async def test_a_pause_survives_a_restart_of_everything_and_a_drained_executor_leaves(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=2)
    road.mock.hold()
    running = await road.submit(tenant, 4)
    await until(lambda: len(road.mock.calls) == 2, 15, "two run")
    paused = await road.call(tenant, "POST", "/v1/models/m/pause", json={"reason": "wrong answers"})
    assert paused.json() == {"verdict": "paused"}
    later = await road.submit(tenant, 3)

    async def given_back() -> bool:
        return len(await road.sql("SELECT 1 FROM dispatch WHERE state = 0")) == 5

    await until(given_back, 10, "what is held goes back")
    await asyncio.gather(*(road.stop(road.processes[role][0]) for role in ("api", "dispatcher", "janitor")))
    (leaving,) = road.processes["executor"]
    (row,) = await road.sql("SELECT name FROM executor WHERE stopped_at IS NULL")
    code, _ = await road.command("executor", "drain", row["name"], "--reason", "kernel update")
    assert code == 0
    road.mock.let_go()
    await road.died(leaving, 20)
    await road.start_all(executors=1)
    code, text = await road.command("why", later[0], "--json")
    assert (code, "wrong answers" in text) == (0, True)
    said = await why(road, tenant, later[0])
    assert said["code"] == "model_paused"
    assert len(road.mock.calls) == 2
    assert (await road.call(tenant, "POST", "/v1/models/m/resume")).json() == {"verdict": "resumed"}
    await road.ended([*running, *later], 30)
    assert len(road.mock.calls) == 7, "each was called once"
    seen = [await overview_of(road, tenant)]
    while seen[-1]["broker_reachable"] is None and len(seen) < 100:
        await asyncio.sleep(0.1)
        seen.append(await overview_of(road, tenant))
    assert {(told["dispatchers"], told["janitors"]) for told in seen} == {(1, 1)}
    assert seen[-1]["broker_reachable"] is True, "one that has just started does not say that the broker is away"
    await road.assert_whole([*running, *later])


@pytest.mark.long
async def test_pauses_of_every_scope_survive_a_restart_of_all_services_and_stores(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant)
    async with open_receiver() as receiver:
        made = await road.call(tenant, "POST", "/v1/webhooks", json={"url": f"{receiver.url}/held"})
        webhook = made.json()["id"]
        assert (await road.command("webhooks", "pause", webhook, "--reason", "their server moves"))[0] == 0
        done = await road.submit(tenant, 2)
        await road.ended(done)
        await until(lambda: _counts(road, "pending", 2), 15, "their deliveries wait")
        scopes = [["--all", "--yes"], ["--tenant", str(tenant)], ["--tenant", str(tenant), "--model", "m"]]
        for scope in scopes:
            assert (await road.command("pause", *scope, "--reason", "a move"))[0] == 0
        later = await road.submit(tenant, 2)

        await road.stop_all()
        servers.empty_redis(road.servers.redis.address)
        stores = (road.servers.postgres, road.servers.redis, road.servers.broker)
        await asyncio.gather(*(store.stop() for store in stores))
        await asyncio.gather(*(store.start() for store in stores))
        await road.start_all(executors=1)

        _, listed = await road.command("pauses", "--json")
        assert [pause["scope"] for pause in json.loads(listed)["items"]] == ["webhook", "all", "tenant", "model"]
        held = (await road.call(tenant, "GET", f"/v1/webhooks/{webhook}")).json()["held"]
        assert (held["by"], held["reason"]) == (None, "their server moves"), "its owner is told, but not by whom"
        await asyncio.sleep(3)  # as many turns, and looks at deliveries, as would break any of them
        for scope, code in zip(scopes, ("all_paused", "tenant_paused", "model_paused"), strict=True):
            assert (await why(road, tenant, later[0]))["code"] == code
            assert len(road.mock.calls) == len(done)
            assert (await road.command("resume", *(part for part in scope if part != "--yes")))[0] == 0
        await road.ended(later)
        await until(lambda: _counts(road, "pending", 4), 15, "the deliveries of these wait, too")
        assert receiver.received == []
        assert (await road.command("webhooks", "resume", webhook))[0] == 0
        await until(lambda: _counts(road, "delivered", 4), 20, "all are delivered")
        assert {one.message["data"]["taskId"] for one in receiver.at("/held")} == {*done, *later}
        assert len(receiver.received) == 4, "each once"
    await road.assert_clean()


async def _counts(road: Road, status: str, wanted: int) -> bool:
    return int((await road.sql("SELECT count(*) FROM delivery WHERE status = $1", status))[0]["count"]) == wanted
