"""A provider of jobs that costs next to nothing: predictions that run until they are told to end.

Run: `python -m benchmarks.mock_provider PORT [OUTPUT_BYTES]`. It speaks as much of Replicate's API as a waiting job
hears. GET /done lets every job succeed from now on, with an output inside the answer; GET /counts answers how many
submits and looks there were.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
from typing import Any, cast

import uvloop

_OUTPUT = "data:text/plain;base64,"


class _Provider:
    done = False
    submits = 0
    looks = 0
    numbers = itertools.count(1)

    def __init__(self, output_bytes: int) -> None:
        self._output = _OUTPUT + base64.b64encode(b"x" * output_bytes).decode()

    def answer(self, method: bytes, path: bytes) -> tuple[int, dict[str, Any]]:
        """Status and document."""
        if path == b"/done":
            self.done = True
        if path in (b"/done", b"/counts"):
            return 200, {"submits": self.submits, "looks": self.looks}
        if method == b"POST":
            self.submits += 1
            return 201, {"id": f"b{next(self.numbers)}", "status": "starting", "output": None}
        self.looks += 1
        name = path.rpartition(b"/")[2].decode()
        status, output = ("succeeded", self._output) if self.done else ("processing", None)
        return 200, {"id": name, "status": status, "output": output}


class _Connection(asyncio.Protocol):
    def __init__(self, provider: _Provider) -> None:
        self._provider = provider
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not say so

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            method, path, _ = head.split(b" ", 2)
            status, document = self._provider.answer(method, path)
            body = json.dumps(document).encode()
            self._transport.write(
                b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
                + body
            )


async def serve(port: int, output_bytes: int) -> None:
    """Answer until the process is ended."""
    provider = _Provider(output_bytes)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(provider), "127.0.0.1", port, backlog=1_024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 4))
