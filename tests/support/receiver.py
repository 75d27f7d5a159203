"""A receiver of webhooks whose own log is the truth: what came, when, and whether its signature fits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from tests.support.serving import serving


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.body)
        return message

    def signed_by(self, secret: str) -> bool:
        """What the receivers' own library says of it."""
        try:
            Webhook(secret).verify(self.body.decode(), self.headers)
        except Exception:
            return False
        return True


@dataclass
class Receiver:
    """Answers 200, or what `answers` has for the path: a status, or a function that makes the answer."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answers: dict[str, int | Callable[[], web.StreamResponse]] = field(default_factory=dict)
    slow: dict[str, asyncio.Event] = field(default_factory=dict)  #: paths that answer when theirs is set

    def at(self, path: str) -> list[Received]:
        return [one for one in self.received if one.path == path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path, headers, body))
        if request.path in self.slow:
            await self.slow[request.path].wait()
        wanted = self.answers.get(request.path, 200)
        if not isinstance(wanted, int):
            return wanted()
        return web.Response(status=wanted, text=f"answered {wanted}" + "." * 5_000)


@asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port of this process's loop."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{route:.*}", receiver.answer)
    async with serving(app, handler_cancellation=True) as receiver.url:
        try:
            yield receiver
        finally:
            for event in receiver.slow.values():
                event.set()
