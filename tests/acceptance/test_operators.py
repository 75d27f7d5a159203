"""Pauses and drains with real processes: they hold through restarts, are explained, and lose nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.road import Road, until


async def why(road: Road, tenant: int, task: str) -> dict[str, Any]:
    said: dict[str, Any] = (await road.call(tenant, "GET", f"/v1/tasks/{task}/why")).json()
    return said


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
    overview = (await road.call(tenant, "GET", "/v1/overview")).json()
    assert (overview["dispatchers"], overview["janitors"], overview["broker_reachable"]) == (1, 1, True)
    await road.assert_whole([*running, *later])
