"""Creating, reading, listing and canceling tasks over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.api import Api, running_api


@pytest.fixture
async def api(database_url: str, redis_url: str) -> AsyncIterator[Api]:
    async with running_api(database_url, redis_url) as running:
        yield running


async def test_a_task_is_created_and_read(api: Api) -> None:
    tenant = await api.tenant(7)
    await tenant.model("speech")
    answer = await tenant.submit("speech", payload={"text": "hello"}, biz_name="b-1", priority=3)
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted["status"] == "submitted"
    assert answer.headers["location"] == f"/v1/tasks/{accepted['id']}"
    read = await tenant.call("GET", answer.headers["location"])
    assert read.status_code == 200, read.text
    view = read.json()
    assert view["model"] == "speech"
