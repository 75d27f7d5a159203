"""Creates that are costly to read."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast
from urllib.parse import quote

import pytest
from starlette.types import Message, Scope

from libs.common.ports_tasks import KeyOwner
from services.api.legacy.face import CREATE, LegacyFace
from services.api.legacy.tasks import LegacyTasks
from services.api.lengthy import Lengthy
from services.api.operation_log import OperationLog
from services.api.orders import Orders
from services.api.problems import Problem
from services.api.routes.create_task import CreateTask
from services.api.submission import Submission

CALLER = KeyOwner(1, 1, "somebody", frozenset({"submit"}))
SCOPE: Scope = {
    "type": "http", "method": "POST", "path": "/v1/tasks/batch", "named": {}, "headers": [], "client": None,
    "began": 0.0,
}  # fmt: skip


class Noted:
    def note(self, *_: Any, **__: Any) -> None: ...


async def slowest_turn(creating: asyncio.Future[None]) -> float:
    """How long the loop stood still at most meanwhile."""
    slowest = 0.0
    while not creating.done():
        before = time.monotonic()
        await asyncio.sleep(0.001)
        slowest = max(slowest, time.monotonic() - before)
    return slowest


@pytest.mark.parametrize("one", [True, False], ids=["task", "batch"])
async def test_others_do_not_wait_while_a_large_create_is_read(one: bool) -> None:
    """Whoever may submit had stopped an API process for seconds, time and again, by megabytes of little values."""
    create = CreateTask(cast("Submission", None), Orders(2**20), cast("OperationLog", Noted()), Lengthy())
    task = b'{"model": "m", "payload": [%s]}' % b",".join([b'{"a":1}'] * 1_000_000)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    if one:
        creating = asyncio.ensure_future(create.single(SCOPE, task, CALLER, "0" * 55, send))
    else:
        creating = asyncio.ensure_future(create.batch(SCOPE, b'{"tasks": [%s]}' % task, CALLER, "0" * 55, send))
    assert await slowest_turn(creating) < 0.4
    if one:
        with pytest.raises(Problem, match="at most"):
            await creating
    else:
        await creating
        assert sent[0]["status"] == 207


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_nor_while_a_large_create_of_the_old_routes_is_read(kind: str) -> None:
    payload = b"[%s]" % b",".join([b'{"a":1}'] * 300_000)
    body = b'{"modelName": "m", "requestPayload": %s}' % payload
    if kind != "application/json":
        body = b"modelName=m&requestPayload=" + quote(payload).encode()
    lengthy = Lengthy()
    none: Any = None
    tasks = LegacyTasks(none, none, none, none, lengthy, payload_limit=2**20)
    routes = {("POST", CREATE): ("submit", tasks.create)}
    face = LegacyFace(routes, cast("OperationLog", Noted()), lengthy, refuse_with_200=False)
    scope: Scope = {**SCOPE, "path": CREATE, "query_string": b"", "named": {b"content-type": kind.encode()}}
    creating = asyncio.ensure_future(face.answer(scope, body, CALLER, "0" * 55, none))
    assert await slowest_turn(creating) < 0.4
    with pytest.raises(Problem, match="at most"):
        await creating
