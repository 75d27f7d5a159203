"""How a stream looks on the wire: server-sent events, or a WebSocket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from services.api.bodies import until_gone
from services.api.push.news import News
from services.api.push.stream import Stream
from services.api.push.telling import Line
from services.api.views import encoded

#: An extension of our server's scope: the transport, so that a reader who takes nothing can be dropped for good.
CONNECTION: Final = "sluiceway.connection"
#: The system would keep megabytes for each reader that does not read.
_KERNEL_BYTES: Final = 64 * 1024
#: Browsers come back after this.
_RETRY: Final = b"retry: 2000\n"
_SSE_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
#: Close codes of RFC 6455 and its registry.
_DONE: Final = 1000
_BARRED: Final = 1008
_RESTART: Final = 1012


class SseOutlet:
    """Implements telling.Outlet as text/event-stream."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._watching: asyncio.Task[None] | None = None

    async def begin(self, stream: Stream, place: str) -> None:
        self._watching = asyncio.create_task(self._watch(stream), name="sse-gone")
        _bound_kernel_buffer(self._scope)
        await self._send({"type": "http.response.start", "status": 200, "headers": list(_SSE_HEADERS)})
        await self._write(_RETRY + _placed(place) + b"\n")

    async def news(self, lines: Sequence[Line]) -> None:
        await self._write(b"".join([_event(news, place) for news, place in lines]))

    async def caught_up(self, document: dict[str, Any], place: str) -> None:
        await self._write(_placed(place) + b"event: caught_up\ndata: %s\n\n" % encoded(document))

    async def beat(self, place: str) -> None:
        await self._write(b": still here\n" + _placed(place) + b"\n")

    async def end(self, stream: Stream) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        _abort(self._scope)

    async def close(self) -> None:
        """Nobody watches for the other side any more."""
        await _stop(self._watching)

    async def _watch(self, stream: Stream) -> None:
        await until_gone(self._receive)
        stream.close()

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


class SocketOutlet:
    """Implements telling.Outlet as a WebSocket: one JSON object a message. What the other side says is ignored."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, subprotocol: str | None) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._subprotocol = subprotocol
        self._watching: asyncio.Task[None] | None = None
        self._gone = False

    async def begin(self, stream: Stream, place: str) -> None:
        """Accepts without `place`: each message is a status change. Who was told none comes back with the time at which
        the socket was opened."""
        _bound_kernel_buffer(self._scope)
        with suppress(OSError):  # the other side has gone, as `_watch` will hear
            await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol})
        self._watching = asyncio.create_task(self._watch(stream), name="websocket-gone")

    async def news(self, lines: Sequence[Line]) -> None:
        for news, place in lines:
            await self._text(b'{"event_id":%s,%s' % (encoded(place), news.body[1:]))

    async def caught_up(self, document: dict[str, Any], place: str) -> None:
        await self._text(encoded({"event": "caught_up", "event_id": place or None, **document}))

    async def beat(self, place: str) -> None:
        """The server pings by itself."""

    async def end(self, stream: Stream) -> None:
        # Closed from here while something could still follow: the caller shall come again, unless it may not.
        code = _BARRED if stream.barred else _RESTART if stream.closed else _DONE
        if not self._gone:
            with suppress(OSError):
                await self._send({"type": "websocket.close", "code": code})

    async def accept_and_end(self) -> None:
        """There is nothing to tell."""
        with suppress(OSError):
            await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol})
            await self._send({"type": "websocket.close", "code": _DONE})

    def abort(self) -> None:
        _abort(self._scope)

    async def close(self) -> None:
        """Nobody watches for the other side any more."""
        await _stop(self._watching)

    async def _watch(self, stream: Stream) -> None:
        while (await self._receive())["type"] != "websocket.disconnect":
            pass
        self._gone = True
        stream.close()

    async def _text(self, body: bytes) -> None:
        if not self._gone:
            with suppress(OSError):  # uvicorn says so when the other side has gone
                await self._send({"type": "websocket.send", "text": body.decode()})


def _event(news: News, place: str | None) -> bytes:
    if place is None:
        return b"data: %s\n\n" % news.body
    return news.sse_in_time if place is news.place_in_time else news.sse_in_task


def _placed(place: str | None) -> bytes:
    return b"id: %s\n" % place.encode() if place else b""


async def _stop(watching: asyncio.Task[None] | None) -> None:
    if watching is not None:
        watching.cancel()
        await asyncio.wait([watching])


def _bound_kernel_buffer(scope: Scope) -> None:
    transport = _transport(scope)
    endpoint = transport.get_extra_info("socket") if transport is not None else None
    if endpoint is not None:
        with suppress(OSError, ValueError):  # it is closed already; uvloop's has no descriptor any more then
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)


def _abort(scope: Scope) -> None:
    transport = _transport(scope)
    if transport is not None:
        transport.abort()


def _transport(scope: Scope) -> Any:
    return scope.get("extensions", {}).get(CONNECTION, {}).get("transport")
