"""Creates that are costly to read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from starlette.types import Message, Scope

from libs.common.ports_tasks import KeyOwner
from services.api.operation_log import OperationLog
from services.api.orders import Orders
from services.api.problems import Problem
from services.api.routes.create_task import CreateTask
from services.api.submission import Submission

SCOPE: Scope = {
    "type": "http", "method": "POST", "path": "/v1/tasks/batch", "named": {}, "headers": [], "client": None,
    "began": 0.0,
}  # fmt: skip


CALLER = KeyOwner(1, 1, "somebody", frozenset({"submit"}))


class Noted:
    def note(self, *_: Any, **__: Any) -> None: ...


LARGE = b"[" + b",".join([b'{"a":1}'] * 1_000_000) + b"]"
TASK = b'{"model": "m", "payload": ' + LARGE + b"}"


def creates(most: int) -> CreateTask:
    return CreateTask(cast("Submission", None), Orders(most), cast("OperationLog", Noted()))


async def test_others_do_not_wait_while_a_large_batch_is_read() -> None:
    """Whoever may submit had stopped an API process for seconds, time and again, by 16 MB of little values."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    body = b'{"tasks": [' + TASK + b"]}"
    assert await longest_turn(creates(2**20).batch(SCOPE, body, CALLER, "0" * 55, send)) < 0.4
    assert sent[0]["status"] == 207


async def test_others_do_not_wait_while_a_large_task_is_read() -> None:
    async def send(_: Message) -> None: ...

    async def refused() -> None:
        with pytest.raises(Problem, match="at most"):
            await creates(2**20).single(SCOPE, TASK, CALLER, "0" * 55, send)

    assert await longest_turn(refused()) < 0.4


async def longest_turn(work: Coroutine[Any, Any, None]) -> float:
    """How many seconds the loop was away at most while `work` went on."""
    working = asyncio.ensure_future(work)
    slowest = 0.0
    while not working.done():
        before = time.monotonic()
        await asyncio.sleep(0.001)
        slowest = max(slowest, time.monotonic() - before)
    await working
    return slowest
