"""The API as a service: uvicorn inside the life that every process has."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from libs.common.runtime.logging import get_logger
from libs.common.runtime.periodic import Periodic
from services.api.push.hub import Hub
from services.api.push.outlets import CONNECTION
from services.api.push.telling import HEARTBEAT_SECONDS
from services.api.waiting import WaitRoom

log = get_logger()

#: Between "not ready" and the end of listening: balancers notice, keep-alive clients are asked to leave.
LEAD_SECONDS: Final = 1.0
_KEEP_ALIVE_SECONDS: Final = 75
_BACKLOG: Final = 2_048
#: Of a request line and its headers: several times what any gateway lets through. No smaller than what the loop reads
#: at once (uvloop 256,000 bytes, asyncio 262,144): the end of a body counts as what follows it until that is parsed.
HEAD_BYTES: Final = 256 * 1024
HEAD_SECONDS: Final = 30.0
#: Who takes no byte of an answer for so long does not want it; meanwhile it fills our memory.
TAKING_SECONDS: Final = 60.0
#: Listeners have nothing to say to us.
_SOCKET_MESSAGE_BYTES: Final = 4_096


class ApiService:
    """Answers requests until stopped; then those under way end, and waiting callers get what there is."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        room: WaitRoom,
        hub: Hub,
        refresh: Periodic,
        listen: Callable[[], Coroutine[Any, Any, None]],
        *,
        drain_seconds: float,
    ) -> None:
        self._listener = listener
        self.room = room
        self.hub = hub
        self._refresh = refresh
        self._listen = listen
        self._lead = min(LEAD_SECONDS, drain_seconds / 4)
        self._stopping = asyncio.Event()
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Http,
                ws=_WebSocket,
                ws_max_size=_SOCKET_MESSAGE_BYTES,
                ws_ping_interval=HEARTBEAT_SECONDS,
                ws_ping_timeout=HEARTBEAT_SECONDS,
                ws_per_message_deflate=False,
                lifespan="off",
                interface="asgi3",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                backlog=_BACKLOG,
            )
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run(self) -> None:
        """Serve until stopped and every answer is out. A part that fails ends the process."""
        async with asyncio.TaskGroup() as parts:
            beside = [
                parts.create_task(self.room.run(), name="wait-room"),
                parts.create_task(self.hub.run(), name="push"),
                parts.create_task(self._refresh.run(), name="model-refresh"),
                parts.create_task(self._listen(), name="model-hints"),
            ]
            leaving = parts.create_task(self._leave(), name="leaving")
            log.info("api.listening", url=self.url)
            await self._server.serve([self._listener])
            for part in (*beside, leaving):
                part.cancel()

    def stop(self) -> None:
        """Take no more; new connections are refused a moment later."""
        self.room.close()
        self.hub.close()
        self._stopping.set()

    async def _leave(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._lead)
        self._server.should_exit = True


class _Http(HttpToolsProtocol):
    """Shows the transport to the application: a stream whose reader takes nothing is dropped, buffers and all.

    And it bounds what the parser takes without end: the head of a request, in size and in time, and the trailers behind
    a body, which the parser also takes for headers. Where a client offers another protocol (Java's does, HTTP/2), the
    parser would take the request for one without a body, and its body for the next request: the offer is declined.
    """

    _text: int = 0  #: bytes that came since a message began, or since the last of its body: of its head, or of trailers
    _in_head: bool = False
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        # Who has said nothing yet may be silent as long as who has nothing more to say.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: {"transport": self.transport}}
        self._text, self._in_head = 0, True
        self._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unset_keepalive_if_required()  # the answer before may have ended in the middle of this head
        if not self._declines():
            super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.headers = []  # trailers go there, not to what the application sees

    def on_body(self, body: bytes) -> None:
        self._text = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._declines():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        rest: memoryview | None = memoryview(data)
        while rest:
            rest = self._parse(rest)
        self._text += len(data)
        if self._text > HEAD_BYTES:
            self._refuse(f"The head of a request, or what follows its body, may have at most {HEAD_BYTES} bytes.")
        if not self._in_head:
            self._stop_waiting()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _parse(self, data: memoryview) -> memoryview | None:
        """Returns what stands behind an offer that is declined: more of them may, any number."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            if self._answering and not self.cycle.more_body:
                self.cycle.keep_alive = False  # the answers to what came before are given, then it is over
            else:
                self._refuse("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as offer:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            elif self._declines():
                self.parser.feed_data(self._head_without_offer())
                return data[offer.args[0] :]
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def _declines(self) -> bool:
        """Whether another protocol is offered than the one that is known here."""
        if not self.parser.should_upgrade() or self.parser.get_method() == b"CONNECT":
            return False
        return any(name == b"upgrade" for name, _ in self.headers) and not self._should_upgrade()

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _head_is_late(self) -> None:
        if self._answering:  # reading may stand still meanwhile, and it is not the client's fault
            self._late = self.loop.call_later(HEAD_SECONDS, self._head_is_late)
        else:
            self._refuse(f"The head of the request did not arrive within {HEAD_SECONDS:.0f} s.")

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, text: str) -> None:
        cycle = self.cycle
        if self._answering and (self.pipeline or cycle.response_started or not cycle.more_body):
            self.transport.close()  # this would be taken for another request's answer
        elif not self.transport.is_closing():
            self.send_400_response(text)


class _WebSocket(WebSocketsSansIOProtocol):
    """The same for WebSockets."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and not self.handshake_complete:
            self.scope.setdefault("extensions", {})[CONNECTION] = {"transport": self.transport}


class _Server(uvicorn.Server):
    """Leaves signals to the process: `runtime.process.serve` is the only one to handle them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Says TCP outright: asyncio sends small answers at once (TCP_NODELAY) only where it knows that it is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # what is accepted inherits it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TAKING_SECONDS * 1_000))
        listener.setblocking(False)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
