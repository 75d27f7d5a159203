"""The streams as callers meet them: GET /v1/events and GET /v1/tasks/{id}/events, over SSE or WebSocket."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from libs.common.domain.errors import WrongSetting
from libs.common.ports_tasks import KeyOwner
from services.api.answers import send_nothing
from services.api.auth import require
from services.api.headers import named_headers
from services.api.identity import Identity
from services.api.problems import CONTENT_TYPE, NO_ROUTE, Problem
from services.api.push import asked as asking
from services.api.push.asked import TaskAsked
from services.api.push.outlets import SocketOutlet, SseOutlet
from services.api.push.telling import Telling

#: What a browser, which cannot set headers of a WebSocket, offers as subprotocols: ours, and its key.
SUBPROTOCOL: Final = "sluiceway.v1"
_KEY: Final = re.compile(r"sluiceway\.key\.(sw_[A-Za-z0-9_-]{43})")


class Origins:
    """Whose pages may open WebSockets: browsers ask nobody else."""

    def __init__(self, setting: str) -> None:
        """SLUICEWAY_PUSH_ORIGINS; raises WrongSetting."""
        self._all = {part.strip().rstrip("/").lower() for part in setting.split(",") if part.strip()}
        for origin in self._all - {"*"}:
            if not urlsplit(origin).netloc or origin.count("/") != 2:
                raise WrongSetting(f"SLUICEWAY_PUSH_ORIGINS: {origin!r} is no origin; write https://host, or *.")

    def welcome(self, named: Mapping[bytes, bytes]) -> bool:
        """Whether this is no browser's request, one of our own host's pages, or of an origin that is listed."""
        origin = named.get(b"origin", b"").decode("latin-1").lower()
        if not origin or "*" in self._all or origin in self._all:
            return True
        return urlsplit(origin).netloc == named.get(b"host", b"").decode("latin-1").lower()


class Push:
    """Answers streams."""

    def __init__(self, telling: Telling, identity: Identity, origins: Origins) -> None:
        self._telling = telling
        self._identity = identity
        self._origins = origins

    def owns(self, path: str) -> bool:
        """Whether this path is a stream's."""
        return asking.route_of(path) is not None

    async def sse(self, scope: Scope, receive: Receive, send: Send, caller: KeyOwner) -> None:
        """Answer by server-sent events. Raises Problem, Refused or Unavailable before it has begun."""
        scope["stream"] = asking.route_of(scope["path"])
        if scope["method"] != "GET":
            raise Problem("method_not_allowed", "A stream is read with GET.", headers={"Allow": "GET"})
        require(caller, "read")
        outlet = SseOutlet(scope, receive, send)
        try:
            if not await self._tell(scope, scope["named"], caller, outlet):
                # Nothing is left to tell: this answer, and no other, keeps browsers from coming again.
                await send_nothing(send)
        finally:
            await outlet.close()

    async def socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by WebSocket. Raises Problem, Refused or Unavailable before it has begun."""
        if not self.owns(scope["path"]):
            raise Problem("not_found", NO_ROUTE)
        named = dict(named_headers(scope))
        if not self._origins.welcome(named):
            raise Problem("forbidden", "Pages of this origin may not listen; see SLUICEWAY_PUSH_ORIGINS.")
        offered = scope["subprotocols"]
        if b"authorization" not in named:
            keys = [matched.group(1) for name in offered if (matched := _KEY.fullmatch(name))]
            if keys:
                named[b"authorization"] = f"Bearer {keys[0]}".encode()
        caller = await self._identity.identify(scope, named)
        require(caller, "read")
        outlet = SocketOutlet(scope, receive, send, SUBPROTOCOL if SUBPROTOCOL in offered else None)
        try:
            if not await self._tell(scope, named, caller, outlet):
                await outlet.accept_and_end()
        finally:
            await outlet.close()

    async def _tell(
        self, scope: Scope, named: Mapping[bytes, bytes], caller: KeyOwner, outlet: SseOutlet | SocketOutlet
    ) -> bool:
        wanted = asking.read(scope, named)
        if isinstance(wanted, TaskAsked):
            return await self._telling.task(caller, wanted, outlet, self._still(scope, named))
        await self._telling.tenant(caller, wanted, outlet, self._still(scope, named))
        return True

    def _still(self, scope: Scope, named: Mapping[bytes, bytes]) -> Callable[[], Awaitable[Any]]:
        async def still() -> None:
            require(await self._identity.identify(scope, named), "read")

        return still


async def refuse_socket(receive: Receive, send: Send, problem: Problem, trace_id: str) -> None:
    """Answer a WebSocket's handshake with a problem."""
    await receive()  # websocket.connect
    head = [(b"content-type", CONTENT_TYPE.encode()), *problem.raw_headers]
    with suppress(OSError):  # the other side has gone
        await send({"type": "websocket.http.response.start", "status": problem.status_code, "headers": head})
        await send({"type": "websocket.http.response.body", "body": problem.encoded(trace_id)})
