"""The little HTTP server that answers probes and scrapes for processes without an API of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from libs.common.runtime.health import Answer, Health
from libs.common.runtime.logging import get_logger

log = get_logger()

_HEAD_BYTES: Final = 8192
_CLIENT_SECONDS: Final = 5.0
_MOST_CLIENTS: Final = 32


@asynccontextmanager
async def open_probe_server(health: Health, host: str, port: int) -> AsyncIterator[int]:
    """Answer PROBE_PATHS at host and port (0 is any free one) for as long as the block lasts; gives the port.

    Raises OSError when the address cannot be had.
    """
    clients = 0

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal clients
        clients += 1
        try:
            # A client that dawdles, or one too many, is dropped: probes are for few and quick ones.
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_CLIENT_SECONDS):
                    if clients <= _MOST_CLIENTS:
                        await _converse(health, reader, writer)
        except asyncio.CancelledError:
            # The loop is closing. Swallowed: Python 3.11's stream protocol reports a cancelled handler as an error.
            return
        finally:
            clients -= 1
            writer.close()

    server = await asyncio.start_server(serve_client, host, port, limit=_HEAD_BYTES)
    bound: int = server.sockets[0].getsockname()[1]
    log.info("probes.listening", host=host, port=bound)
    try:
        yield bound
    finally:
        server.close()


async def _converse(health: Health, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    if method in ("GET", "HEAD"):
        answer = await health.probe(rest.partition(" ")[0].partition("?")[0])
    else:
        answer = Answer(405, "application/json", b'{"status":"only GET"}')
    writer.write(_response(answer, with_body=method != "HEAD"))
    await writer.drain()


def _response(answer: Answer, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        f"content-type: {answer.content_type}\r\n"
        f"content-length: {len(answer.body)}\r\n"
        "cache-control: no-store\r\n"
        "connection: close\r\n\r\n"
    ).encode("latin-1")
    return head + answer.body if with_body else head
