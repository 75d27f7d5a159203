"""The ASGI application: one gate for every request, then the framework, a hot route or the old routes behind it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from libs.common.domain.errors import DatabaseUnavailable, OutcomeUnknown, SluicewayError
from libs.common.ports_dead import KEPT_BYTES
from libs.common.ports_tasks import KeyOwner
from libs.common.runtime import metrics
from libs.common.runtime.health import Health
from libs.common.runtime.logging import get_logger
from libs.common.runtime.shares import Shares
from services.api import callbacks, openapi
from services.api.answers import Begun, ProblemAnswer, send_json, send_problem
from services.api.bodies import ClientGone, announced, read_body, replay, require_json
from services.api.callbacks import Callbacks
from services.api.console.app import Console
from services.api.headers import named_headers
from services.api.identity import Identity
from services.api.legacy.face import LegacyFace
from services.api.parsing import Parsing
from services.api.problems import Problem, problem_of
from services.api.push.face import Push, refuse_socket
from services.api.queries import check_once
from services.api.routes import (
    control,
    dead,
    docs,
    health,
    insight,
    keys,
    models,
    op_log,
    quota,
    replays,
    results,
    tasks,
    tenants,
    webhooks,
)
from services.api.routes.context import UseCases
from services.api.routes.create_task import CreateTask
from services.api.tracing import trace_id_of, traceparent_of

log = get_logger()

_FACE: Final = "/v1/"
_BODILESS: Final = ("GET", "HEAD", "DELETE")
_CREATE: Final = "/v1/tasks"
_BATCH: Final = "/v1/tasks/batch"
#: Names, keys and numbers around a payload.
_AROUND_PAYLOAD: Final = 64 * 1024
#: What takes no payload says less: a model, at most, with its configuration of 65,536 characters.
_PLAIN_BYTES: Final = 512 * 1024
_BATCH_BYTES: Final = 16 * 2**20
#: Larger bodies than this are in memory one for each of so many places; who comes next waits unread.
_LARGE_BYTES: Final = 2**20 + _AROUND_PAYLOAD
_LARGE_AT_ONCE: Final = 16
_REPLAYS: Final = "/v1/replays"
#: A message that was mended, in base64.
_MENDED_BYTES: Final = KEPT_BYTES * 4 // 3 + _AROUND_PAYLOAD


def rest_app() -> FastAPI:
    """Everything but the hot route; its use cases and health are put into `app.state`."""
    app = FastAPI(
        title=openapi.TITLE,
        version=openapi.VERSION,
        description=openapi.DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
    )
    for router in (
        insight.router,
        control.router,
        tasks.router,
        results.router,
        models.router,
        op_log.router,
        dead.router,
        replays.router,
        quota.router,
        tenants.router,
        keys.router,
        webhooks.router,
        health.router,
        docs.router,
    ):
        app.include_router(router)
    for kind in (SluicewayError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_problem)
    described = openapi.document()
    app.openapi = lambda: described  # type: ignore[method-assign]  # FastAPI's documented way to give its own
    app.state.methods = openapi.Methods(described)
    return app


class Gateway:
    """What uvicorn calls. Of a tenant's request it knows caller, trace and the whole body before anything else runs."""

    def __init__(
        self,
        identity: Identity,
        create: CreateTask,
        legacy: LegacyFace,
        push: Push,
        cases: UseCases,
        console: Console,
        callbacks: Callbacks,
        health: Health,
        parsing: Parsing,
        *,
        payload_limit: int,
    ) -> None:
        self._identity = identity
        self._create = create
        self._legacy = legacy
        self._console = console
        self._callbacks = callbacks
        self._push = push
        self._health = health
        self._body_limit = payload_limit + _AROUND_PAYLOAD
        self._limits = {
            _CREATE: self._body_limit,
            _BATCH: max(_BATCH_BYTES, self._body_limit),
            _REPLAYS: _MENDED_BYTES,
        }
        self._large = Shares(_LARGE_AT_ONCE)
        self._rest = rest_app()
        self._rest.state.use_cases = cases
        self._rest.state.health = health
        self._rest.state.parsing = parsing
        self._requests: dict[tuple[str, str, int], _Figures] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._socket(scope, receive, send)
            return
        answer = _Watched(send, closing=self._health.draining)
        scope["began"] = began = time.perf_counter()
        try:
            await self._answer(scope, receive, answer)
        finally:
            figures = self._figures(scope, answer.status)
            if "stream" in scope or "waits" in scope:
                figures.count_untimed()
            else:
                figures.count(scope.get("accepted", time.perf_counter()) - began)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace = traceparent_of(_traceparent(scope))
        begun = Begun(send)
        try:
            await self._push.socket(scope, receive, begun)
        except Exception as error:
            problem = problem_of(error)
            if problem.code == "internal":
                log.error("request.failed", path=self._shown(scope["path"]), trace_id=trace_id_of(trace), exc_info=True)
            if not begun.yes:
                await refuse_socket(receive, send, problem, trace_id_of(trace))

    async def _answer(self, scope: Scope, receive: Receive, send: _Watched) -> None:
        scope["trace"] = trace = traceparent_of(_traceparent(scope))
        old = self._legacy.owns(scope["path"])
        try:
            if self._callbacks.owns(scope["path"]):
                await self._callbacks.answer(scope, receive, send)
            elif scope["path"].startswith(_FACE):
                await self._face(scope, receive, send, trace)
            elif old:
                caller, body = await self._enter(scope, receive, self._body_limit)
                await self._legacy.answer(scope, body, caller, trace, send)
            elif self._console.owns(scope["path"]):
                await self._console(scope, receive, send)
            else:
                await self._rest(scope, receive, send)
        except ClientGone:
            return
        except Exception as error:
            problem = _problem_of(error, scope["method"])
            if problem.code == "internal":
                log.error("request.failed", path=self._shown(scope["path"]), trace_id=trace_id_of(trace), exc_info=True)
            if send.status:
                return
            if old:
                await self._legacy.refuse(scope, send, problem)
            else:
                await send_problem(send, problem, trace_id_of(trace))
        finally:
            self._make_room(scope)

    async def _enter(self, scope: Scope, receive: Receive, limit: int) -> tuple[KeyOwner, bytes]:
        """Who sends the request, and its body."""
        scope["named"] = named = named_headers(scope)
        scope["caller"] = caller = await self._identity.identify(scope, named)
        if limit > _LARGE_BYTES and (b"transfer-encoding" in named or _LARGE_BYTES < announced(named) <= limit):
            await self._large.take(caller.tenant_id)
            scope["large"] = caller.tenant_id
        return caller, await read_body(named, receive, limit)

    def _make_room(self, scope: Scope) -> None:
        if "large" in scope:
            self._large.give_back(scope.pop("large"))

    async def _face(self, scope: Scope, receive: Receive, send: Send, trace: str) -> None:
        path, hot = scope["path"], scope["method"] == "POST"
        try:
            caller, body = await self._enter(scope, receive, self._limits.get(path, _PLAIN_BYTES))
            if body:
                require_json(scope["named"])
        except Problem as problem:
            if hot and path in (_CREATE, _BATCH) and "caller" in scope:
                self._create.unread(scope, scope["caller"], problem, trace)
            raise
        if hot and path == _CREATE:
            view, headers = await self._create.single(scope, body, caller, trace)
            if b"prefer" in scope["named"]:
                scope["accepted"] = time.perf_counter()
                del body  # a wait may be long
                self._make_room(scope)
                view, applied = await self._create.wait(scope, receive, caller, view)
                headers += applied
            await send_json(send, 202, view, headers)
        elif hot and path == _BATCH:
            await self._create.batch(scope, body, caller, trace, send)
        elif self._push.owns(path):
            await self._push.sse(scope, receive, send, caller)
        else:
            if scope["query_string"]:
                check_once(scope["query_string"])
            await self._ask_rest(scope, replay(body, receive), send)

    async def _ask_rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        """HEAD is asked as GET, whose body the server leaves out, and marks nothing."""
        if scope["method"] != "HEAD" or not self._rest.state.methods.looks(scope["path"]):
            await self._rest(scope, receive, send)
            return
        asked = {**scope, "method": "GET", "looks": True}
        try:
            await self._rest(asked, receive, send)
        finally:  # what the framework has answered as internal it raises again
            scope.update(asked, method="HEAD")

    def _shown(self, path: str) -> str:
        """A path without what is secret in it."""
        return callbacks.SHOWN if self._callbacks.owns(path) else path

    def _figures(self, scope: Scope, status: int) -> _Figures:
        route = scope.get("route")
        path = getattr(route, "path_format", None) or scope.get("stream")
        path = path or (scope["path"] if scope["path"] in (_CREATE, _BATCH) else "other")
        known = (path, scope["method"] if route or path != "other" else "other", status)
        figures = self._requests.get(known)
        if figures is None:
            figures = self._requests[known] = _Figures(*known)
        return figures


class _Watched:
    """A `send` that remembers the status, and asks keep-alive clients to leave while we drain."""

    __slots__ = ("_closing", "_send", "status")

    def __init__(self, send: Send, *, closing: bool) -> None:
        self._send = send
        self._closing = closing
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._closing:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        return self._send(message)


class _Figures:
    """The counters of one route, method and status."""

    __slots__ = ("_requests", "_seconds")

    def __init__(self, route: str, method: str, status: int) -> None:
        labels = {"route": route, "method": method, "status": str(status)}
        self._requests = metrics.counter("sluiceway_http_requests_total").labels(**labels)
        self._seconds = metrics.histogram("sluiceway_http_request_seconds").labels(route=route)

    def count_untimed(self) -> None:
        """A stream, or a wait, lasts as long as whoever asked likes: its duration says nothing."""
        self._requests.inc()

    def count(self, seconds: float) -> None:
        self._requests.inc()
        self._seconds.observe(seconds)


def _traceparent(scope: Scope) -> bytes | None:
    """Before anything can be wrong with the request: problems name the trace."""
    return next((value for name, value in scope["headers"] if name == b"traceparent"), None)


def _problem_of(error: Exception, method: str) -> Problem:
    """A read whose answer is lost leaves nobody in doubt: it can be asked again. Without a body, what is wrong is a
    parameter."""
    if isinstance(error, OutcomeUnknown) and method in ("GET", "HEAD"):
        error = DatabaseUnavailable(str(error))
    problem = problem_of(error)
    if method in _BODILESS:
        problem.errors = tuple(map(_parameter, problem.errors))
    return problem


def _parameter(error: Mapping[str, str]) -> Mapping[str, str]:
    return {("parameter" if key == "pointer" else key): said.removeprefix("/") for key, said in error.items()}


async def _answer_problem(request: Request, error: Exception) -> Response:
    problem = _problem_of(error, request.method)
    methods = request.app.state.methods.of(request.url.path) if problem.status_code == 405 else []
    if methods:  # the framework knows the methods of one route alone
        problem.headers = {"Allow": ", ".join(methods)}
        problem.detail = f"This route takes {', '.join(methods)}."
    return ProblemAnswer(problem, trace_id_of(request.scope["trace"]))
