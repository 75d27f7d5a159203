"""The mock model for hundreds of calls that begin at once: a web framework would delay the clock beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import cast

import orjson

from tests.support.mock_model import Call, MockModel


class _Connection(asyncio.Protocol):
    """Requests one after the other, as clients with kept connections send them."""

    def __init__(self, model: MockModel) -> None:
        self._model = model
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, _, rest = self._unread.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:")
        if at < 0 or len(rest) < int(head[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self._unread = b""
        body = orjson.loads(rest)
        call = Call(head.split(b" ", 2)[1].decode(), str(body["name"]), monotonic())
        self._model.calls.append(call)
        self._model.by_name[call.name] += 1
        asyncio.get_running_loop().call_later(float(body.get("seconds", 0)), self._answer, call)

    def _answer(self, call: Call) -> None:
        call.ended = monotonic()
        content = b"\x89PNG\r\n\x1a\n" + call.name.encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
        )


@asynccontextmanager
async def quick_model() -> AsyncIterator[MockModel]:
    """A model on a free port of this process's loop that knows `name` and `seconds` alone."""
    model = MockModel()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(model), "127.0.0.1", 0, backlog=1_024)
    model.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield model
    finally:
        server.close()
