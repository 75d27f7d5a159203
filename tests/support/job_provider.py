"""A small provider of jobs over HTTP, and its adapter. The provider's own log is the truth about submits and cancels.

A job goes one step on with every look; what it does is in its submit's body: {"steps": [...], "output": text or null}.
The adapter's config says what the provider can do: {"dedupes", "polls", "finds", "settle": seconds}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp
from aiohttp import web

from libs.common.domain.model_errors import Busy, JobGone, ModelError, TooEarly
from libs.common.ports_jobs import JobCall, JobOutput, JobReport, JobStatus
from tests.support.serving import serving

DONE = ("queued", "processing", "succeeded")


@dataclass
class ProvidedJob:
    """One job at the provider."""

    id: str
    key: str
    steps: list[Any]
    output: str | None
    callback: str = ""
    step: int = 0
    canceled: bool = False

    @property
    def shown(self) -> dict[str, Any]:
        step = self.steps[min(self.step, len(self.steps) - 1)]
        told = step if isinstance(step, dict) else {"status": step}
        if self.canceled:
            told = {"status": "canceled"}
        outputs = [] if self.output is None else [self.output]
        return {"id": self.id, "key": self.key, "outputs": outputs if told["status"] == "succeeded" else [], **told}

    @property
    def over(self) -> bool:
        return self.shown["status"] in ("succeeded", "failed", "canceled")


@dataclass
class JobProvider:
    """The provider; queues of faults are used up one by one."""

    url: str = ""
    submits: list[str] = field(default_factory=list)  #: keys, in order: every submit that it understood
    callbacks: list[str] = field(default_factory=list)  #: addresses that it was given
    jobs: dict[str, ProvidedJob] = field(default_factory=dict)
    canceled: list[str] = field(default_factory=list)  #: ids
    keys: list[str] = field(default_factory=list)  #: the Authorization of each call
    looks: Counter[str] = field(default_factory=Counter)
    submit_faults: deque[Any] = field(default_factory=deque)  #: "lost", "cut", (status, headers), seconds to wait
    look_faults: deque[Any] = field(default_factory=deque)  #: the same
    dedupes: bool = False
    gone: bool = False
    held: asyncio.Event | None = None  #: submits are understood, and answered once it is set
    deaf: bool = False  #: cancels are heard and never answered
    same_id: str = ""  #: what it names every job
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def of(self, key: UUID | str) -> list[ProvidedJob]:
        """The jobs of one intent."""
        return [job for job in self.jobs.values() if job.key == str(key)]

    def most_for_an_intent(self) -> int:
        """How many jobs the intent has that has most."""
        return max(Counter(job.key for job in self.jobs.values()).values(), default=0)

    async def submit(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization", ""))
        fault = self.submit_faults.popleft() if self.submit_faults else None
        if isinstance(fault, tuple):
            if self.held is not None:
                await self.held.wait()
            return web.Response(status=fault[0], headers=fault[1])
        body = await request.json()
        if fault == "cut":
            return _cut(request)
        key, given = body["key"], body["input"]
        self.submits.append(key)
        self.callbacks.append(body.get("callback", ""))
        known = self.of(key) if self.dedupes else []
        if known:
            job = known[0]
        else:
            name = self.same_id or f"p{next(self._numbers)}"
            job = ProvidedJob(
                name, key, given.get("steps", list(DONE)), given.get("output", "done"), self.callbacks[-1]
            )
            self.jobs[job.id + (key if self.same_id else "")] = job
        if self.held is not None:
            await self.held.wait()
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        return _cut(request) if fault == "lost" else web.json_response(job.shown, status=201)

    async def look(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization", ""))
        fault = self.look_faults.popleft() if self.look_faults else None
        if isinstance(fault, tuple):
            return web.Response(status=fault[0], headers=fault[1])
        if fault == "cut":
            return _cut(request)
        job = self.jobs.get(request.match_info["id"])
        if job is None or self.gone:
            return web.Response(status=404)
        self.looks[job.id] += 1
        job.step += 1
        return web.json_response(job.shown)

    async def find(self, request: web.Request) -> web.StreamResponse:
        return web.json_response([job.shown for job in self.of(request.query["key"])])

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        self.canceled.append(name)
        if self.deaf:
            await asyncio.sleep(3_600)
        if name in self.jobs:
            self.jobs[name].canceled = True
        return web.Response(status=200)


class ProviderAdapter:
    """Implements JobAdapter for that provider."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def dedupes(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get("dedupes"))

    def polls(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get("polls", True))

    def keyed(self, config: Mapping[str, Any]) -> bool:
        return False

    def check(self, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        """Every configuration will do."""

    async def submit(self, call: JobCall) -> JobReport:
        body = {"key": call.intent_key, "input": json.loads(call.payload), "callback": call.callback_url}
        return _report(await self._ask(call, "POST", "/jobs", json=body))

    async def find(self, call: JobCall) -> JobReport | None:
        if not call.config.get("finds"):
            raise LookupError
        if call.since_submit < call.config.get("settle", 0):
            raise TooEarly(retry_after=0.0)
        found = await self._ask(call, "GET", "/jobs", params={"key": call.intent_key})
        return _report(found[0]) if found else None

    async def get(self, call: JobCall, provider_id: str) -> JobReport:
        assert call.payload == b""
        return _report(await self._ask(call, "GET", f"/jobs/{provider_id}"))

    async def cancel(self, call: JobCall, provider_id: str) -> None:
        await self._ask(call, "POST", f"/jobs/{provider_id}/cancel")

    def called_back(self, call: JobCall, headers: Mapping[str, str], body: bytes) -> JobReport | None:
        try:
            told = json.loads(body)
            return _report(told) if told["key"] == call.intent_key else None
        except (ValueError, KeyError, TypeError):
            return None

    async def _ask(self, call: JobCall, method: str, path: str, **more: Any) -> Any:
        try:
            async with (
                asyncio.timeout(call.timeout_seconds),
                self._session.request(method, call.base_url + path, headers=dict(call.headers), **more) as answer,
            ):
                if answer.status in (409, 429):
                    raise Busy("full", retry_after=float(answer.headers.get("Retry-After", "1")))
                if answer.status == 404:
                    raise JobGone("there is no such job")
                if answer.status >= 400:
                    after = answer.headers.get("Retry-After")
                    raise ModelError(
                        f"model_http_{answer.status}",
                        f"the provider answered {answer.status}",
                        retryable=answer.status >= 500,
                        retry_after=float(after) if after else None,
                        answered=True,
                    )
                return await answer.json() if answer.content_type == "application/json" else None
        except aiohttp.ClientConnectorError:
            raise ModelError("model_unreachable", "no connection", retryable=True, sent=False) from None
        except aiohttp.ClientError:
            raise ModelError("model_unreachable", "the connection broke", retryable=True) from None
        except TimeoutError:
            raise ModelError("model_timeout", "no answer in time", retryable=True) from None


def _report(told: dict[str, Any]) -> JobReport:
    return JobReport(
        JobStatus(told["status"]),
        provider_id=told.get("id", ""),
        unit_progress=told.get("progress"),
        message=told.get("message", ""),
        outputs=tuple(JobOutput(content=text.encode(), content_type="text/plain") for text in told.get("outputs", ())),
        error_code=told.get("error_code", ""),
        retryable=told.get("retryable", False),
        ask_again_after=told.get("after"),
    )


def _cut(request: web.Request) -> web.Response:
    """The connection breaks before any answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@asynccontextmanager
async def job_provider() -> AsyncIterator[tuple[JobProvider, ProviderAdapter]]:
    """A running provider, and an adapter that speaks to it."""
    provider = JobProvider()
    app = web.Application()
    app.add_routes(
        [
            web.post("/jobs", provider.submit),
            web.get("/jobs", provider.find),
            web.get("/jobs/{id}", provider.look),
            web.post("/jobs/{id}/cancel", provider.cancel),
        ]
    )
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        serving(app, shutdown_timeout=0.1) as provider.url,
    ):
        try:
            yield provider, ProviderAdapter(session)
        finally:
            if provider.held is not None:
                provider.held.set()
