"""A provider that speaks Replicate's predictions API, breaks every promise on demand, and keeps a log of its own.

Its log is the truth about jobs: `submits` has every create that it understood, `jobs` what it made of them. By default
a job goes one step on with every GET: starting, processing, succeeded.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientSession, web

from tests.support.serving import serving

PNG = b"\x89PNG\r\n\x1a\n" + b"provider's picture"
#: What the adapter puts into a job's input to find it again.
MARKER = "sluiceway_job"
TOKEN = "r8-provider-token"


@dataclass(frozen=True)
class Plan:
    """How a job goes: its statuses, one for each GET, the last one for ever; what it brings when it succeeds.

    `output`: None for `files` links of this provider, else the output itself. `hold_at`: the status (of the plan) that
    it does not leave until `let_go`.
    """

    statuses: tuple[str, ...] = ("starting", "processing", "succeeded")
    files: int = 1
    output: Any = None
    content: bytes = PNG
    error: Any = "the model ran out of luck"
    logs: tuple[str, ...] = ("", "Using seed: 1\n 50%|#####     | 5/10 [00:01<00:01]", "100%|##########| 10/10 [00:02]")
    hold_at: str = ""


@dataclass
class Job:
    """One prediction."""

    id: str
    marker: str  #: the intent key of ours that its input carries; empty: none
    body: dict[str, Any]
    plan: Plan
    created_at: str
    step: int = 0
    canceled: bool = False
    gone: bool = False  #: GET answers 404
    data_removed: bool = False
    held: bool = True
    gets: int = 0

    @property
    def status(self) -> str:
        if self.canceled:
            return "canceled"
        return self.plan.statuses[min(self.step, len(self.plan.statuses) - 1)]

    @property
    def over(self) -> bool:
        return self.status in ("succeeded", "failed", "canceled", "aborted")

    @property
    def webhook(self) -> str:
        return str(self.body.get("webhook", ""))

    def advance(self) -> None:
        if not (self.held and self.plan.hold_at == self.status):
            self.step += 1


@dataclass(frozen=True)
class Submit:
    """One create, as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def marker(self) -> str:
        return _marker(self.body)


@dataclass(frozen=True)
class Refusal:
    """An answer instead of what was asked for."""

    status: int
    body: Any = field(default_factory=lambda: {"detail": "not now"})
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ReplicateProvider:
    """The provider. Queues of faults are used up one by one; sets stay until they are emptied.

    faults of the next calls:
        creates: deque of Refusal (nothing is made), or "lost" (made, connection cut instead of an answer),
                 "garbage" (made, answered with no JSON), "early" (made, called back before its answer), "in between"
                 (made, a CDN answers that it took too long), seconds until it is made
        gets:    deque of Refusal, "cut", "garbage", "other" (answers with another job's id)
        lists:   deque of Refusal
        files:   deque of Refusal for downloads
        anything: deque of any of these for whatever create or get comes next
    switches:
        call_back: "never", "over" (once the job is over) or "each" (at each change)
        shows_markers: whether lists show the input's unknown names, as Replicate does
    """

    url: str = ""
    plan: Plan = field(default_factory=Plan)
    submits: list[Submit] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    callbacks: list[tuple[str, int]] = field(default_factory=list)  #: (job, status of our answer)
    creates: deque[Any] = field(default_factory=deque)
    gets: deque[Any] = field(default_factory=deque)
    lists: deque[Any] = field(default_factory=deque)
    files: deque[Any] = field(default_factory=deque)
    anything: deque[Any] = field(default_factory=deque)
    call_back: str = "never"
    shows_markers: bool = True
    expired: bool = False  #: every link
    page_size: int = 100
    checks_token: bool = True
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _session: ClientSession | None = None

    def made_for(self, marker: str) -> list[Job]:
        """The jobs of one intent; more than one is what must never happen."""
        return [job for job in self.jobs.values() if job.marker == marker]

    def twice(self) -> list[str]:
        """The intents that have more than one job."""
        counts = Counter(job.marker for job in self.jobs.values() if job.marker)
        return sorted(marker for marker, count in counts.items() if count > 1)

    def let_go(self) -> None:
        """Held jobs go on."""
        for job in self.jobs.values():
            job.held = False

    async def send_callback(self, job: Job, *, url: str = "", **changes: Any) -> int:
        """Call back about a job as it stands, or as `changes` claim; gives the status of the answer, 0 for none."""
        assert self._session is not None
        try:
            body = json.dumps({**self.shown(job), **changes}).encode()
            headers = {"Content-Type": "application/json", "webhook-id": f"msg_{next(self._numbers)}"}
            async with self._session.post(url or job.webhook, data=body, headers=headers) as answer:
                status = answer.status
        except OSError:
            status = 0
        self.callbacks.append((job.id, status))
        return status

    def shown(self, job: Job, *, listed: bool = False) -> dict[str, Any]:
        """A prediction as the API shows it."""
        given = dict(job.body.get("input") or {})
        if listed and not self.shows_markers:
            given.pop(MARKER, None)
        done = job.status == "succeeded"
        output = job.plan.output
        if output is None:
            output = [f"{self.url}/files/{job.id}/{number}.png" for number in range(job.plan.files)]
        return {
            "id": job.id,
            "model": "acme/picture",
            "version": job.body.get("version", "hidden"),
            "input": given,
            "status": job.status,
            "logs": job.plan.logs[min(job.step, len(job.plan.logs) - 1)] if job.plan.logs else None,
            "error": job.plan.error if job.status == "failed" else None,
            "output": output if done and not job.data_removed else None,
            "data_removed": job.data_removed,
            "created_at": job.created_at,
            "source": "api",
            "urls": {
                "get": f"{self.url}/v1/predictions/{job.id}",
                "cancel": f"{self.url}/v1/predictions/{job.id}/cancel",
            },
        }

    # what is served

    async def create(self, request: web.Request) -> web.StreamResponse:
        self.calls["create"] += 1
        if (refused := self._unauthorised(request)) is not None:
            return refused
        body = await request.json()
        fault = self._next(self.creates)
        if isinstance(fault, Refusal):
            return _refused(fault)
        if not isinstance(body.get("input"), dict):
            return _refused(Refusal(422, {"title": "Input validation failed", "detail": "- input is required\n"}))
        self.submits.append(Submit(request.path, dict(request.headers), body))
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        job = Job(f"job{next(self._numbers):04}", _marker(body), body, self.plan, datetime.now(UTC).isoformat())
        self.jobs[job.id] = job
        if fault == "early":
            await self.send_callback(job)
        if fault == "lost":
            return _cut(request)
        if fault == "garbage":
            return web.Response(text="<html>oops", content_type="text/html", status=201)
        if fault == "in between":
            return web.Response(text="<html>a timeout occurred", content_type="text/html", status=524)
        return web.json_response(self.shown(job), status=201)

    async def get(self, request: web.Request) -> web.StreamResponse:
        self.calls["get"] += 1
        fault = self._next(self.gets)
        if isinstance(fault, Refusal):
            return _refused(fault)
        if fault in ("cut", "lost"):
            return _cut(request)
        if fault == "garbage":
            return web.Response(text="<html>oops", content_type="text/html")
        job = self.jobs.get(request.match_info["id"])
        if job is None or job.gone:
            return _refused(Refusal(404, {"detail": "Not found."}))
        job.gets += 1
        before = job.status
        job.advance()
        if (self.call_back == "each" and before != job.status) or (self.call_back == "over" and job.over):
            self._soon(job)
        shown = self.shown(job)
        return web.json_response({**shown, "id": "another"} if fault == "other" else shown)

    async def list(self, request: web.Request) -> web.StreamResponse:
        self.calls["list"] += 1
        fault = self.lists.popleft() if self.lists else None
        if isinstance(fault, Refusal):
            return _refused(fault)
        since = request.query.get("created_after")
        found = [job for job in reversed(self.jobs.values()) if since is None or _after(job.created_at, since)]
        start = int(request.query.get("cursor", "0"))
        end = start + self.page_size
        more = {**request.query, "cursor": str(end)}
        page = {
            "next": str(request.url.with_query(more)) if end < len(found) else None,
            "previous": None,
            "results": [self.shown(job, listed=True) for job in found[start:end]],
        }
        return web.json_response(page)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        self.calls["cancel"] += 1
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return _refused(Refusal(404, {"detail": "Not found."}))
        if not job.over:
            job.canceled = True
        return web.json_response(self.shown(job))

    async def file(self, request: web.Request) -> web.StreamResponse:
        self.calls["file"] += 1
        fault = self.files.popleft() if self.files else None
        if isinstance(fault, Refusal):
            return _refused(fault)
        job = self.jobs.get(request.match_info["id"])
        if job is None or self.expired:
            return web.Response(
                status=404, text="<Error><Code>NoSuchKey</Code></Error>", content_type="application/xml"
            )
        return web.Response(body=job.plan.content + request.match_info["name"].encode(), content_type="image/png")

    def _next(self, faults: deque[Any]) -> Any:
        waiting = faults or self.anything
        return waiting.popleft() if waiting else None

    def _unauthorised(self, request: web.Request) -> web.Response | None:
        if not self.checks_token or request.headers.get("Authorization") == f"Bearer {TOKEN}":
            return None
        return _refused(Refusal(401, {"title": "Unauthenticated", "detail": "You did not pass a valid token"}))

    def _soon(self, job: Job) -> None:
        if job.webhook:
            task = asyncio.create_task(self._quietly(replace(job)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _quietly(self, job: Job) -> None:
        await self.send_callback(job)


@asynccontextmanager
async def replicate_provider(**settings: Any) -> AsyncIterator[ReplicateProvider]:
    """The provider on a free port of this machine."""
    provider = ReplicateProvider(**settings)
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/predictions", provider.create)
    app.router.add_post("/v1/models/{owner}/{name}/predictions", provider.create)
    app.router.add_post("/v1/deployments/{owner}/{name}/predictions", provider.create)
    app.router.add_get("/v1/predictions", provider.list)
    app.router.add_get("/v1/predictions/{id}", provider.get)
    app.router.add_post("/v1/predictions/{id}/cancel", provider.cancel)
    app.router.add_get("/files/{id}/{name}", provider.file)
    async with serving(app) as provider.url, ClientSession() as provider._session:
        yield provider
        await asyncio.gather(*provider._tasks)


def _marker(body: dict[str, Any]) -> str:
    return str((body.get("input") or {}).get(MARKER, ""))


def _after(created: str, since: str) -> bool:
    return datetime.fromisoformat(created) >= datetime.fromisoformat(since.replace("Z", "+00:00"))


def _refused(refusal: Refusal) -> web.Response:
    return web.json_response(refusal.body, status=refusal.status, headers=refusal.headers)


def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response(status=500)
