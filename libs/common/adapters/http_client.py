"""The HTTP client of a process: one aiohttp session, told to do nothing that we have not asked for."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from libs.common.adapters import names
from libs.common.adapters.egress import EgressGuard, refusal
from libs.common.runtime.seen import seen
from libs.common.runtime.shares import Shares, on_behalf_of

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType, Connection
    from aiohttp.tracing import Trace

CONNECT_SECONDS: Final = 10.0
#: Shorter than what servers keep an idle connection (gunicorn 2 s, uvicorn and Node 5 s), so that a request hardly
#: ever meets a connection that is being closed: we may not send it a second time.
KEEPALIVE_SECONDS: Final = 1.5
#: A busy connection would never be idle: whoever moves a name to another address would not get the calls that way.
_AGE_SECONDS: Final = 30
_READ_BUFFER: Final = 64 * 1024  #: aiohttp stops reading at twice as much
_HEADERS_LIMIT: Final = 256
_DNS_SECONDS: Final = 10
_DNS_LEAST_SECONDS: Final = 1
#: Heads of answers that may wait to be looked at, those of class 1xx included.
_HEADS_LIMIT: Final = 64
#: Names that are asked for at the same time.
_NAMES_AT_ONCE: Final = 512
_NAMES_KNOWN: Final = 10_000
_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

#: Dead peers and half-open connections are found within 30 s, however long a model thinks.
_KEEPALIVE_PROBES: Final = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


class Broken(Exception):
    """A connection that could not be made or did not hold; carries the client's own error, unfit for a log."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class NoPortLeft(aiohttp.ClientConnectionError):
    """This host uses all of its ports for connections to that address."""


@asynccontextmanager
async def open_http_client(guard: EgressGuard | None) -> AsyncIterator[ClientSession]:
    """A session without cookies, proxies from the environment, decompression, redirects' baggage or second tries.

    With a guard it reaches only what that permits and raises EgressRefused else; None is for addresses that
    operators set. Requests raise Broken where aiohttp would raise an error of the connection.
    """
    async with ClientSession(
        connector=GuardedConnector(guard),
        cookie_jar=DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        read_bufsize=_READ_BUFFER,
        max_headers=_HEADERS_LIMIT,
        middlewares=(_once,),
    ) as session:
        yield session


async def _once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Aiohttp sends idempotent requests again when a kept connection breaks (aio-libs/aiohttp#10790), and a GET may
    cost as much as a POST here. It does so for its own errors only, so they leave as another one.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientError, OSError) as error:
        raise Broken(error) from None


def _is_over(connection: Connection) -> bool:
    """Whether an idle connection brought bytes that nobody asked for, such as a 408 before it closes, or is old.

    Aiohttp would take the bytes for the answer to the next request, and a task would get another one's output.
    """
    protocol = connection.protocol
    if protocol is None or protocol.should_close:
        return True
    return isinstance(protocol, _Bounded) and protocol.until < monotonic()


class _Bounded(ResponseHandler):
    """A connection that is closed when it brings answer after answer that nobody asked for.

    Aiohttp keeps them all until the connection is used or given up: hundreds of megabytes, while it only lies idle.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.until = monotonic() + _AGE_SECONDS

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self) > _HEADS_LIMIT:
            self.abort()


class _Dial:
    """What became of one attempt to connect."""

    __slots__ = ("host", "no_port", "permitted", "refused")

    def __init__(self, host: str) -> None:
        self.host = host
        self.no_port = False
        self.permitted = 0
        self.refused = 0


_dialled: ContextVar[_Dial] = ContextVar("dialled")


class _Socket(socket.socket):
    """Says of its address alone why it could not be called: of several, what comes out of aiohttp says nothing."""

    def connect(self, address: Any) -> None:
        try:
            super().connect(address)
        except OSError as error:
            # By IPv6 it says just so that this host has no address of that kind, for ever.
            if self.family == socket.AF_INET and error.errno == errno.EADDRNOTAVAIL:
                _dialled.get().no_port = True
            raise


#: Told, for the requests of this context, when the connection is there: from then on the other side may have heard of
#: the request; before, it certainly has not. What it raises ends the request there.
about_to_send: ContextVar[Callable[[], None] | None] = ContextVar("about_to_send", default=None)


def _tell(connection: Connection) -> None:
    if (tell := about_to_send.get()) is None:
        return
    try:
        tell()
    except BaseException:
        connection.close()
        raise


_Name: TypeAlias = tuple[str, int, int]


class _Names(AbstractResolver):
    """Asks for names beside the loop's own threads, and remembers what was answered.

    A name that nobody answers for keeps its thread for up to a minute, whoever has left meanwhile: no tenant's names
    take all of them. What is known, or being asked, waits behind nobody: so aiohttp may not remember in our place, it
    would have everybody wait for whoever asked first.
    """

    def __init__(self) -> None:
        self._room = Shares(_NAMES_AT_ONCE)
        self._known: dict[_Name, tuple[float, list[ResolveResult]]] = {}
        self._asked: dict[_Name, asyncio.Future[Any]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        name = (host, port, int(family))
        if (found := self._remembered(name)) is not None:
            return found
        asked = self._under_way(name) or await self._asking(name, on_behalf_of.get())
        if asked is None:  # somebody was answered while we waited
            return list(self._known[name][1])
        answer = await asyncio.shield(asked)
        found = [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=_NUMERIC)
            for kind, _, protocol, _, address in answer
        ]
        self._remember(name, found)
        return found

    async def _asking(self, name: _Name, tenant: int) -> asyncio.Future[Any] | None:
        await self._room.take(tenant)
        asked = self._under_way(name)
        if asked is not None or self._remembered(name) is not None:
            self._room.give_back(tenant)
            return asked
        loop = asyncio.get_running_loop()

        def over() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._room.give_back, tenant)

        host, port, family = name
        asked = self._asked[name] = asyncio.wrap_future(names.ask(host, port, family, over=over))
        asked.add_done_callback(lambda done: self._answered(name, done))
        return asked

    def _under_way(self, name: _Name) -> asyncio.Future[Any] | None:
        """From Python 3.14 on, who waits may go on before `_answered` is called."""
        asked = self._asked.get(name)
        return None if asked is None or asked.done() else asked

    def _answered(self, name: _Name, asked: asyncio.Future[Any]) -> None:
        if self._asked.get(name) is asked:
            del self._asked[name]
        seen(asked)

    def _remembered(self, name: _Name) -> list[ResolveResult] | None:
        until, found = self._known.get(name, (0.0, []))
        if until <= monotonic():
            return None
        found.append(found.pop(0))  # each address in its turn
        return list(found)

    def _remember(self, name: _Name, found: list[ResolveResult]) -> None:
        if len(self._known) >= _NAMES_KNOWN:
            self._known.clear()
        if found:
            self._known[name] = (monotonic() + _DNS_SECONDS, list(found))

    def forget(self, name: _Name) -> None:
        """Nobody is there: who asks again may hear where the host is now. Each second at most, or a dead host would
        have its name asked for with every call.
        """
        until, _ = self._known.get(name, (inf, []))
        if until - monotonic() < _DNS_SECONDS - _DNS_LEAST_SECONDS:
            del self._known[name]

    async def close(self) -> None:
        """Nothing to close."""


class GuardedConnector(aiohttp.TCPConnector):
    """Asks the guard about every address in the moment of dialling it.

    A refusal inside aiohttp would come out as one of many failures to connect; here it is an EgressRefused, unless
    another address of the same name was permitted and failed by itself.
    """

    def __init__(self, guard: EgressGuard | None) -> None:
        self._names = _Names()
        super().__init__(
            resolver=self._names,
            limit=0,  # the executor's slots are the limit
            use_dns_cache=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            socket_factory=self._socket,
        )
        protocol: type[ResponseHandler] = _Bounded
        self._factory = functools.partial(protocol, loop=self._loop)
        self._guard = guard

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        dial = _Dial(req.url.raw_host or "")
        before = _dialled.set(dial)  # the tasks that race for the fastest address inherit it
        try:
            while _is_over(connection := await super().connect(req, traces, timeout)) and not dial.permitted:
                connection.close()
            _tell(connection)
            return connection
        except (aiohttp.ClientError, OSError):
            self._names.forget((dial.host, req.url.port or 0, int(self._family)))
            if dial.refused and not dial.permitted:
                raise refusal(dial.host, req.url.port or 0) from None
            if dial.no_port:
                raise NoPortLeft from None
            raise
        finally:
            _dialled.reset(before)

    def _socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, place = address
        dial = _dialled.get()
        if self._guard is not None and not self._guard.permits(dial.host, str(place[0]), int(place[1])):
            dial.refused += 1
            raise ConnectionRefusedError("not permitted")
        dial.permitted += 1
        made = _Socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE_PROBES:
            if hasattr(socket, option):  # macOS names them otherwise
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return made
