"""A caller of the Go gateway points its base URL at us: the whole way of a task, under the old names alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from tests.support.recorded import recorded, replay
from tests.support.road import Road, until
from tests.support.stand_in_file_service import stand_in_file_service

USER = json.dumps({"tenantId": "20001", "userName": "李安"}, ensure_ascii=False).encode()
HEADERS = {b"X-User-Info": USER, b"Authorization": b"Bearer their-token"}
PICTURE = b"\x89PNG\r\n\x1a\n" + b"." * 40


async def test_a_task_of_the_old_routes_from_its_create_to_its_second_read(road: Road) -> None:
    calls: list[tuple[dict[str, str], bytes]] = []

    async def draw(request: web.Request) -> web.Response:
        calls.append((dict(request.headers), await request.read()))
        return web.Response(body=PICTURE)

    app = web.Application()
    app.router.add_post("/draw", draw)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    model = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with stand_in_file_service() as files:
            await road.start("api", trusted_peers="127.0.0.0/8", oss_url=files.url)
            for role in ("dispatcher", "janitor", "executor"):
                await road.start(role, oss_url=files.url)
            async with httpx.AsyncClient(base_url=road.api, headers=HEADERS, timeout=20, verify=False) as client:
                told = {"modelName": "draw", "baseUrl": model, "route": "draw", "apiKey": 'X-Key:"k,1",n:5'}
                await data(client, "POST", "/model/createModel", told)
                body = {"modelName": "draw", "bizName": "b", "inputRef": "oss://in/7", "requestPayload": {}}
                task = (await data(client, "POST", "/task/createTask", body))["taskId"]

                async def state() -> bool:
                    listed = await data(client, "POST", "/task/listTask", {"taskId": task})
                    return bool(listed["list"][0]["state"] == 2)

                await until(state, 30, "the task succeeds")
                reads = [await data(client, "GET", "/task/getTaskResult", {"taskId": task}) for _ in range(2)]
                stats = await data(client, "POST", "/stat/listModelStat", {"modelName": "draw"})

            assert [read["state"] for read in reads] == [2, 4]
            assert reads[0]["expireAt"] is None
            assert reads[1]["expireAt"]
            (upload,) = files.uploads
            assert reads[0]["ossFile"] == f"{files.url}/f/{upload.file_name}"
            assert (reads[0]["fileType"], reads[0]["fileSize"]) == ("png", len(PICTURE))
            assert upload.content == PICTURE
            # What the caller showed us goes to the file service, and never to the model.
            assert upload.authorization == "Bearer their-token"
            assert upload.user_info.encode("utf-8", "surrogateescape") == USER
            ((sent, payload),) = calls
            assert (sent["X-Key"], sent["n"]) == ("k,1", "5")
            assert "Authorization" not in sent
            assert "X-User-Info" not in sent
            assert json.loads(payload) == {"inputRef": "oss://in/7"}
            assert [(row["creator"], row["requestCount"]) for row in stats["list"]] == [("李安", 1)]
            assert not await road.sql("SELECT 1 FROM task_secret")
    finally:
        await runner.cleanup()


async def test_every_recorded_request_gets_its_recorded_answer_from_the_running_stack(road: Road) -> None:
    """Successes and failures, fetching, retries, a deleted model and statistics, as callers and pollers see them."""
    async with stand_in_file_service() as files:
        await road.start("api", trusted_peers="127.0.0.0/8", oss_url=files.url)
        for role in ("dispatcher", "janitor", "executor"):
            await road.start(role, oss_url=files.url)
        async with httpx.AsyncClient(base_url=road.api, headers=HEADERS, timeout=20) as client:
            known = {"tenant": "20001", "models": road.mock.url}
            await replay(client, recorded(Path(__file__).with_name("go_gateway_cases.json")), known)


async def data(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any]) -> Any:
    answer = await client.request(method, path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]
