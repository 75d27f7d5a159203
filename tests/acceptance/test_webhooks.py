"""An end reaches its webhook over all processes, and again after the sender was killed."""

from __future__ import annotations

import asyncio
import json

from tests.support.receiver import open_receiver
from tests.support.road import Road, until


async def test_every_end_is_told_and_a_killed_sender_loses_none(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant)
    async with open_receiver() as receiver:
        made = await road.call(tenant, "POST", "/v1/webhooks", json={"url": f"{receiver.url}/all"})
        signing = await road.call(tenant, "POST", "/v1/webhooks", json={"kind": "tasks"})
        body = {"model": "m", "payload": {"name": "own"}, "webhook_url": f"{receiver.url}/own"}
        own = (await road.call(tenant, "POST", "/v1/tasks", json=body)).json()["id"]
        await until(lambda: len(receiver.received) == 2, 20, "both addresses are told")
        (to_all,), (to_own,) = receiver.at("/all"), receiver.at("/own")
        assert to_all.signed_by(made.json()["secret"])
        assert to_own.signed_by(signing.json()["secret"])
        assert to_own.id == to_all.id
        (event,) = [event for event in await road.events() if event.key == own]
        assert {**event.data, "link": f"/v1/tasks/{own}"} == to_own.message["data"]

        receiver.slow["/all"] = asyncio.Event()
        tasks = await road.submit(tenant, 3)
        await until(lambda: len(receiver.at("/all")) == 4, 20, "they are being sent")
        await road.kill(road.processes["dispatcher"][0])
        receiver.slow["/all"].set()
        await road.start("dispatcher")
        told = "SELECT count(*) FROM delivery WHERE status = 'delivered'"
        await until(lambda: _counts(road, told, 5), 20, "all are told")
        assert {one.message["data"]["taskId"] for one in receiver.at("/all")} == {own, *tasks}
        assert len({one.id for one in receiver.at("/all")}) == 4
        await road.call(tenant, "PATCH", f"/v1/webhooks/{made.json()['id']}", json={"enabled": False})
        code, out = await road.command("webhooks", "--failing", "--json")
        (listed,) = json.loads(out)["webhooks"]
        assert (code, listed["state"]) == (0, "off: switched off by its owner")
    await road.assert_whole([own, *tasks])


async def _counts(road: Road, query: str, wanted: int) -> bool:
    return int((await road.sql(query))[0]["count"]) == wanted
