"""A server that answers as Cog's does, and can be told to misbehave: what the real one will not do on demand."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.serving import serving


@dataclass
class CogProvider:
    """Runs a prediction at once; with `Prefer: respond-async` it stays in `running` until the test ends it."""

    url: str = ""
    runs: list[str] = field(default_factory=list)  #: ids in the order of their runs
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: deque[Any] = field(default_factory=deque)
    calls: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    slots: int = 1

    async def predict(self, request: web.Request) -> web.StreamResponse:
        self.calls[request.method] += 1
        body = await request.json()
        self.bodies.append(body)
        name = request.match_info.get("id") or body.get("id", "")
        if name in self.running:
            return web.json_response(self.running[name], status=202)
        fault = self.faults.popleft() if self.faults else None
        if fault is not None and not isinstance(fault, str):
            return web.json_response(dict(fault.body), status=fault.status, headers=dict(fault.headers))
        if len(self.running) >= self.slots:
            full = {"error": "At capacity - all prediction slots busy", "status": "failed"}
            return web.json_response(full, status=409)
        self.runs.append(name)
        if fault == "lost":
            assert request.transport is not None
            request.transport.abort()
        if fault == "garbage":
            return web.Response(text="<html>oops")
        if request.headers.get("Prefer") == "respond-async":
            self.running[name] = {"id": name, "status": "processing", "webhook": body.get("webhook")}
            return web.json_response({"id": name, "status": "starting"}, status=202)
        output = "data:text/plain;base64,aGVsbG8="
        return web.json_response({"id": name, "status": "succeeded", "output": output, "logs": "", "metrics": {}})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        self.calls["cancel"] += 1
        known = self.running.pop(request.match_info["id"], None) is not None
        return web.json_response({}, status=200 if known else 404)


@asynccontextmanager
async def cog_provider() -> AsyncIterator[CogProvider]:
    """The server on a free port of this machine."""
    provider = CogProvider()
    app = web.Application()
    app.router.add_post("/predictions", provider.predict)
    app.router.add_put("/predictions/{id}", provider.predict)
    app.router.add_post("/predictions/{id}/cancel", provider.cancel)
    async with serving(app) as provider.url:
        yield provider
