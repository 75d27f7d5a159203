"""The cheapest model service that there is: fixed 2 KB answers, a process of its own.

Run: `python -m benchmarks.mock_model PORT`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import uvloop

from libs.common.embedded.ports import accepts, free_port

_BODY = b"\x89PNG\r\n\x1a\n" + b"." * 2_040
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY


class _Model(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not say so
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(_ANSWER)


async def serve(port: int) -> None:
    """Answer until the process is ended."""
    server = await asyncio.get_running_loop().create_server(_Model, "127.0.0.1", port, backlog=1_024)
    await server.serve_forever()


@asynccontextmanager
async def running_model() -> AsyncIterator[int]:
    """One that runs beside the benchmark; its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.mock_model", str(port)])
    try:
        deadline = time.monotonic() + 10
        while not await accepts(port):
            if time.monotonic() > deadline:
                raise RuntimeError("the mock model did not start")
            await asyncio.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
