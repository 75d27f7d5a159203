"""A model service whose own log is the truth about calls: how many, of which task, how many at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.serving import serving


@dataclass
class Call:
    """One call as the model saw it; monotonic seconds, `ended` stays None while it runs."""

    route: str
    name: str
    began: float
    ended: float | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass
class MockModel:
    """Answers POST /<any route> with a small PNG-headed body of its own.

    The payload steers it: {"name", "seconds", "fail": times to answer `status` first, "status", "size"}.
    """

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    most_at_once: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)
    by_name: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    held: asyncio.Event | None = None  #: while set to an unset event, answers wait for it

    def hold(self) -> None:
        """Let calls in and answer none until `let_go`."""
        self.held = asyncio.Event()

    def let_go(self) -> None:
        """Answer what waits, and everything later."""
        if self.held is not None:
            self.held.set()
        self.held = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        route, name = request.path, str(body.get("name", ""))
        call = Call(route, name, time.monotonic(), headers=dict(request.headers))
        self.calls.append(call)
        self.by_name[name] += 1
        self.running[route] += 1
        self.most_at_once[route] = max(self.most_at_once[route], self.running[route])
        try:
            if self.held is not None:
                await self.held.wait()
            await asyncio.sleep(float(body.get("seconds", 0)))
            if self.by_name[name] <= int(body.get("fail", 0)):
                return web.Response(status=int(body.get("status", 503)), text="not now")
            content = b"\x89PNG\r\n\x1a\n" + name.encode() + b"." * int(body.get("size", 32))
            return web.Response(body=content, content_type="image/png")
        finally:
            self.running[route] -= 1
            call.ended = time.monotonic()


@asynccontextmanager
async def mock_model() -> AsyncIterator[MockModel]:
    """A mock model on a free port of this process's loop."""
    model = MockModel()
    app = web.Application(client_max_size=16 * 2**20)
    app.router.add_post("/{route:.*}", model.answer)
    async with serving(app, handler_cancellation=True) as model.url:
        try:
            yield model
        finally:
            model.let_go()
