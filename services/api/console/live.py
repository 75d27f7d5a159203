"""Parts of a page that are sent again whenever they have changed, as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeAlias

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.domain.errors import OutcomeUnknown, Refused, Unavailable
from libs.common.runtime.backoff import set_within
from services.api.bodies import until_gone
from services.api.console.rendering import part
from services.api.console.tools import Tools, still_in
from services.api.console.visit import Visit
from services.api.push.stream import Stream

#: A silent connection is given up by proxies; a comment keeps it.
_COMMENT_SECONDS: Final = 15.0
#: Of one process, and of one tenant's keys in it: each reads the database about once a second.
MOST_OPEN: Final = 200
MOST_OF_ONE: Final = 50
_COMMENT: Final = b":\n\n"
#: Nothing will change any more: the browser need not ask again.
_END: Final = b"event: end\ndata:\n\n"
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]

#: The part as it is now, and whether it is as it will stay.
Render: TypeAlias = Callable[[], Awaitable[tuple[str, bool]]]
Listen: TypeAlias = Callable[[], Awaitable[Stream]]


class LivePart(Response):
    """Sends a part of a page when it differs from what was sent last, until its reader leaves, it will not change any
    more, the session is over, or the process drains (then the browser asks another one)."""

    def __init__(
        self, tools: Tools, visit: Visit, render: Render, *, seconds: float = 1.0, news: Listen | None = None
    ) -> None:
        """`news` opens a stream of status changes: with each of them the part is looked at, at the latest after
        `seconds`."""
        super().__init__()
        self._listen = news
        self._tools = tools
        self._visit = visit
        self._render = render
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching, tenant = self._tools.watching, self._visit.viewer.tenant_id
        if watching.total() >= MOST_OPEN or watching[tenant] >= MOST_OF_ONE:
            await not_now()(scope, receive, send)
            return
        scope["stream"] = scope["route"].path_format  # its duration says nothing, so it is not counted
        watching[tenant] += 1
        gone = asyncio.Event()
        listening = asyncio.create_task(_hear_the_end(receive, gone), name="console-reader")
        stream = None
        try:
            stream = await self._stream()
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async for piece in self._pieces(gone, stream):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            return  # the reader left in the middle of a piece
        finally:
            listening.cancel()
            watching[tenant] -= 1
            if not watching[tenant]:
                del watching[tenant]
            if stream is not None:
                await self._tools.hub.leave(stream)

    async def _pieces(self, gone: asyncio.Event, stream: Stream | None) -> AsyncIterator[bytes]:
        sent, spoke, over = "", 0.0, False
        while not over and not gone.is_set() and not self._tools.draining():
            text, over = await self._now(sent)
            if text != sent:
                yield _message(text)
                sent, spoke = text, time.monotonic()
            elif time.monotonic() - spoke > _COMMENT_SECONDS:
                yield _COMMENT
                spoke = time.monotonic()
            if over:
                yield _END
            elif stream is None or stream.closed:
                await set_within(gone, self._seconds)
            else:
                await _first(gone.wait(), stream.next(self._seconds))

    async def _stream(self) -> Stream | None:
        """The stream of changes; none where there are too many already: then the part is looked at again and again."""
        with suppress(Refused, Unavailable, OutcomeUnknown):
            return await self._listen() if self._listen is not None else None
        return None

    async def _now(self, sent: str) -> tuple[str, bool]:
        """What the reader should see now, and whether that is the last of it."""
        try:
            if not await still_in(self._tools, self._visit):
                return part(self._visit, "_signed_out.html"), True
            return await self._render()
        except (Unavailable, OutcomeUnknown):
            return sent, False  # a store is away: what was sent is the latest that anybody knows
        except Refused as error:
            return part(self._visit, "_gone.html", message=error.message), True


def not_now(retry_after: str = "30") -> Response:
    """A refusal after which the page stands as it was loaded; only what looks like a stream is asked for again."""
    return Response(status_code=503, headers={"Retry-After": retry_after}, media_type="text/event-stream")


def is_live(path: str) -> bool:
    """Whether a live part was asked for."""
    return path.endswith("/live")


async def _hear_the_end(receive: Receive, gone: asyncio.Event) -> None:
    await until_gone(receive)
    gone.set()


async def _first(*awaited: Coroutine[Any, Any, Any]) -> None:
    """Return when one of them has."""
    running = [asyncio.create_task(one, name="console-wait") for one in awaited]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _message(text: str) -> bytes:
    return b"".join(b"data: " + line.encode() + b"\n" for line in text.splitlines()) + b"\n"
