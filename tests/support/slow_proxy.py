"""A TCP proxy that holds answers back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from urllib.parse import urlsplit


class SlowProxy:
    """Passes requests on at once and answers after `delay` seconds; with `silent` they never come.

    While it is `gone`, it takes no connection. Of the connection that finds a `hold` the answers wait for that event.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay = 0.0
        self.silent = False
        self.gone = False
        self.hold: asyncio.Event | None = None
        self.url = ""
        self.connections = 0  #: made since the start
        self._host = host
        self._port = port
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()

    def lead_to(self, url: str) -> None:
        """Pass new connections on to another server; those that there are stay where they are."""
        server = urlsplit(url)
        assert server.hostname is not None
        self._host, self._port = server.hostname, server.port or 6379

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.gone:
            writer.close()
            return
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        self._writers.add(writer)
        hold, self.hold = self.hold, None
        # A cancelled handler makes asyncio complain about its callback.
        with closing(writer), suppress(asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
            with closing(up_writer):
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, up_writer, slowly=False))
                    both.create_task(self._pass_on(up_reader, writer, slowly=True, hold=hold))
        self._links.discard(link)
        self._writers.discard(writer)

    def reset(self) -> None:
        """Break every connection with an RST, as a firewall does that rejects it."""
        for writer in self._writers:
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()

    def forget(self) -> None:
        """Say nothing more on the connections that there are, as a network that was changed under them."""
        self._forgotten |= self._writers

    async def close(self) -> None:
        """Break every connection."""
        for link in self._links:
            link.cancel()
        if self._links:
            await asyncio.wait(self._links)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        slowly: bool,
        hold: asyncio.Event | None = None,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if hold is not None:
                    await hold.wait()
                if slowly and (self.silent or writer in self._forgotten):
                    continue
                if slowly and self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def slow_proxy(redis_url: str) -> AsyncIterator[SlowProxy]:
    """A proxy before the server of this URL; `url` is what clients use instead."""
    server = urlsplit(redis_url)
    assert server.hostname is not None
    proxy = SlowProxy(server.hostname, server.port or 6379)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    credentials, at, _ = server.netloc.rpartition("@")
    proxy.url = server._replace(netloc=f"{credentials}{at}127.0.0.1:{port}").geturl()
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
