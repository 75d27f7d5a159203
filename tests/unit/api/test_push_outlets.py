"""How streams look on the wire, and connections that are no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from uvicorn.protocols.utils import ClientDisconnected

from services.api.problems import Problem
from services.api.push.face import refuse_socket
from services.api.push.outlets import CONNECTION, SocketOutlet, SseOutlet
from services.api.push.stream import Stream

GONE = {"http": "http.disconnect", "websocket": "websocket.disconnect"}


async def begun_too_late(kind: str) -> list[str]:
    """What is sent on a stream whose other side left before it began."""
    server = await asyncio.start_server(lambda _, other: other.close(), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert writer.get_extra_info("socket")  # the server looks at it, too; without that uvloop has none for us
    writer.transport.abort()
    await asyncio.sleep(0.01)
    sent: list[str] = []

    async def receive() -> Any:
        return {"type": GONE[kind]}

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if kind == "websocket":
            raise ClientDisconnected

    scope = {"type": kind, "extensions": {CONNECTION: {"transport": writer.transport}}}
    stream = Stream(7)
    outlet = SseOutlet(scope, receive, send) if kind == "http" else SocketOutlet(scope, receive, send, None)
    try:
        await outlet.begin(stream, "")
        await asyncio.sleep(0)
    finally:
        await outlet.close()
        server.close()
        await server.wait_closed()
    assert stream.closed
    return sent


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_who_left_before_the_stream_began_is_no_failure(
    run: Callable[[Coroutine[Any, Any, list[str]]], list[str]], kind: str
) -> None:
    assert run(begun_too_late(kind))


async def test_a_socket_that_left_can_be_refused_and_ended() -> None:
    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        raise ClientDisconnected

    await refuse_socket(receive, send, Problem("not_found", "Not Found"), "0" * 32)
    await SocketOutlet({"type": "websocket"}, receive, send, None).accept_and_end()


@pytest.mark.parametrize(
    ("ends", "code"),
    [(lambda stream: None, 1000), (Stream.close, 1012), (Stream.bar, 1008)],
    ids=["all is told", "the process stops", "the key was revoked"],
)
async def test_a_closed_websocket_says_whether_to_come_again(ends: Callable[[Stream], None], code: int) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any: ...

    stream = Stream(7)
    ends(stream)
    await SocketOutlet({}, receive, send, None).end(stream)
    assert sent == [{"type": "websocket.close", "code": code}]
