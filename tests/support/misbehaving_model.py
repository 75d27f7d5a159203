"""A model service that breaks every rule on demand: `GET|POST /<behaviour>` picks how it answers."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from tests.support.waiting import until

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(56)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int  #: which connection it came on, counted from 1

    def header(self, name: str) -> str | None:
        """The only value of a header; None without one."""
        values = [value for given, value in self.headers if given.lower() == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that waits for its answer."""

    model: MisbehavingModel
    request: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def until_given_up(self) -> None:
        """Until the caller closes the connection."""
        while await self.reader.read(65_536):
            pass


Behaviour = Callable[[Exchange], Awaitable[None]]


@dataclass
class MisbehavingModel:
    """The server and its log of requests. `answers` holds scripted raw answers by path."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)
    #: Answers by path and turn; None drops the connection, and the last one stays.
    turns: dict[str, list[bytes | None]] = field(default_factory=dict)
    #: Connections on which every request after the first is answered by closing.
    closes_kept_connections: bool = False
    speak_up: asyncio.Event = field(default_factory=asyncio.Event)
    spoke_up: bool = False
    unasked: int = 0  #: answers sent that nobody asked for

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        number, served = self.connections, 0
        try:
            while (request := await _read_request(reader, number)) is not None:
                self.seen.append(request)
                served += 1
                if self.closes_kept_connections and served > 1:
                    return
                await self._answer(Exchange(self, request, reader, writer))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self.open_connections -= 1
            with suppress(ConnectionError):
                writer.close()

    async def _answer(self, exchange: Exchange) -> None:
        path = exchange.request.target.partition("?")[0]
        if path in self.turns:
            script = self.turns[path]
            scripted = script.pop(0) if len(script) > 1 else script[0]
            if scripted is None:
                exchange.writer.transport.abort()
            else:
                exchange.writer.write(scripted)
                if b"Connection: close" in scripted:
                    await exchange.writer.drain()
                    exchange.writer.close()
            return
        if path in self.answers:
            exchange.writer.write(self.answers[path])
            return
        await BEHAVIOURS[path.strip("/").partition("/")[0]](exchange)

    async def until_idle(self) -> None:
        """Wait until every connection is closed."""
        await until(lambda: self.open_connections == 0)


async def _read_request(reader: asyncio.StreamReader, number: int) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("utf-8").rstrip("\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    method, target, _ = first.split(" ")
    if method == "POST" and target.startswith("/early"):
        return Seen(method, target, headers, b"", number)
    return Seen(method, target, headers, await reader.readexactly(length), number)


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A well-formed answer; `Retry_After=...` becomes a header of that name."""
    lines = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", **headers: str) -> bytes:
    """A chunked answer, `end` being its last piece."""
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n".encode() + body + end


async def _ok(exchange: Exchange) -> None:
    exchange.writer.write(answer(PNG, Content_Type="image/png"))


async def _echo(exchange: Exchange) -> None:
    exchange.writer.write(answer(exchange.request.body or exchange.request.target.encode()))


async def _hang(exchange: Exchange) -> None:
    await exchange.until_given_up()


async def _drip(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not exchange.writer.is_closing():
        exchange.writer.write(b".")
        await exchange.writer.drain()
        await asyncio.sleep(0.02)


async def _drip_error(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\nbusy")
    await exchange.until_given_up()


async def _drip_head(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\n")
    while not exchange.writer.is_closing():
        exchange.writer.write(b"X: y\r\n")
        await exchange.writer.drain()
        await asyncio.sleep(0.02)


async def _reset(exchange: Exchange) -> None:
    exchange.writer.transport.abort()


async def _close(exchange: Exchange) -> None:
    exchange.writer.close()


async def _reset_inside(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
    await exchange.writer.drain()
    exchange.writer.close()


async def _chunk_cut(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n64\r\nabc")
    await exchange.writer.drain()
    exchange.writer.close()


async def _flood(exchange: Exchange) -> None:
    """A body without an end."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    while not exchange.writer.is_closing():
        exchange.writer.write(block)
        await exchange.writer.drain()


async def _many_headers(exchange: Exchange) -> None:
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n")
    exchange.writer.write(b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\nok")


async def _long_header(exchange: Exchange) -> None:
    exchange.writer.write(answer(b"ok", X_Long="y" * 100_000))


async def _interim_flood(exchange: Exchange) -> None:
    while not exchange.writer.is_closing():
        exchange.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 10)
        await exchange.writer.drain()
        await asyncio.sleep(0.01)


async def _early(exchange: Exchange) -> None:
    """Refuse before the body was read."""
    exchange.writer.write(answer(b"too large", "413 Content Too Large", Connection="close"))
    await exchange.writer.drain()
    exchange.writer.close()


async def _talkative(exchange: Exchange) -> None:
    """Answer, and a moment later send an answer that nobody asked for."""
    exchange.writer.write(answer(PNG))
    await exchange.writer.drain()
    await exchange.model.speak_up.wait()
    exchange.writer.write(answer(b"unasked", "408 Request Timeout"))
    exchange.model.spoke_up = True


async def _chatter(exchange: Exchange) -> None:
    """Answer, and then send answers without an end that nobody asked for."""
    exchange.writer.write(answer(PNG))
    await exchange.writer.drain()
    await exchange.model.speak_up.wait()
    while not exchange.writer.is_closing():
        exchange.writer.write(answer(X_Long="y" * 4_000) * 100)
        await exchange.writer.drain()
        exchange.model.unasked += 100


async def _raw(exchange: Exchange) -> None:
    exchange.writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def gzip_bomb(megabytes: int) -> bytes:
    """So many megabytes of zeros, a thousandth of that packed."""
    return gzip.compress(bytes(megabytes * 2**20), 9)


def bare_deflate(body: bytes) -> bytes:
    """Deflate without the zlib wrapper, as many servers send it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


BEHAVIOURS: Final[dict[str, Behaviour]] = {
    "ok": _ok,
    "echo": _echo,
    "hang": _hang,
    "drip": _drip,
    "drip-error": _drip_error,
    "drip-head": _drip_head,
    "reset": _reset,
    "close": _close,
    "reset-inside": _reset_inside,
    "chunk-cut": _chunk_cut,
    "flood": _flood,
    "many-headers": _many_headers,
    "long-header": _long_header,
    "interim-flood": _interim_flood,
    "early": _early,
    "talkative": _talkative,
    "chatter": _chatter,
    "raw": _raw,
}


@asynccontextmanager
async def misbehaving_model(host: str = "127.0.0.1") -> AsyncIterator[MisbehavingModel]:
    """The server on a free port of this process's loop."""
    model = MisbehavingModel()
    server = await asyncio.start_server(model.serve, host, 0)
    model.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield model
    finally:
        server.close()
