"""How a WebSocket says why it ends."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.push.outlets import SocketOutlet
from services.api.push.stream import Stream


@pytest.mark.parametrize(
    ("ends", "code"),
    [(lambda stream: None, 1000), (Stream.close, 1012), (Stream.bar, 1008)],
    ids=["all is told", "the process stops", "the key was revoked"],
)
async def test_a_closed_websocket_says_whether_to_come_again(ends: Any, code: int) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any: ...

    stream = Stream(7)
    ends(stream)
    await SocketOutlet({}, receive, send, None).end(stream)
    assert sent == [{"type": "websocket.close", "code": code}]
