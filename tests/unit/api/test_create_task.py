"""Creates that are costly to read."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from starlette.types import Message, Scope

from libs.common.ports_tasks import KeyOwner
from services.api.operation_log import OperationLog
from services.api.orders import Orders
from services.api.routes.create_task import CreateTask
from services.api.submission import Submission

SCOPE: Scope = {
    "type": "http", "method": "POST", "path": "/v1/tasks/batch", "named": {}, "headers": [], "client": None,
    "began": 0.0,
}  # fmt: skip


class Noted:
    def note(self, *_: Any, **__: Any) -> None: ...


async def test_others_do_not_wait_while_a_large_batch_is_read() -> None:
    """Whoever may submit had stopped an API process for seconds, time and again, by 16 MB of little values."""
    create = CreateTask(cast("Submission", None), Orders(2**20), cast("OperationLog", Noted()))
    payload = b"[" + b",".join([b'{"a":1}'] * 1_000_000) + b"]"
    body = b'{"tasks": [{"model": "m", "payload": ' + payload + b"}]}"
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    caller = KeyOwner(1, 1, "somebody", frozenset({"submit"}))
    creating = asyncio.ensure_future(create.batch(SCOPE, body, caller, "0" * 55, send))
    slowest = 0.0
    while not creating.done():
        before = time.monotonic()
        await asyncio.sleep(0.001)
        slowest = max(slowest, time.monotonic() - before)
    await creating
    assert sent[0]["status"] == 207
    assert slowest < 0.4
