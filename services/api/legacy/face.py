"""The old routes: which there are, and how a request of one is answered. Bare ASGI, because every task passes here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import UUID

from starlette.types import Scope, Send

from libs.common.ports_tasks import KeyOwner
from services.api.answers import send_json
from services.api.auth import require
from services.api.bodies import require_plain
from services.api.legacy.decoding import decode
from services.api.legacy.envelope import enveloped, enveloped_refusal, refusal_of
from services.api.legacy.given import Given
from services.api.operation_log import OperationLog, requester_of
from services.api.parsing import Parsing
from services.api.problems import Problem
from services.api.schemas import BIZ_NAME_LIMIT
from services.api.tracing import trace_id_of

CREATE: Final = "/task/createTask"
_PREFIXES: Final = ("/model/", "/task/", "/stat/")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an old route is asked, and by whom."""

    caller: KeyOwner
    given: Given
    trace: str
    size: int  #: of the body
    key: bytes | None  #: the Idempotency-Key, as it was sent


class Replayed(dict[str, Any]):
    """Data that an earlier request with the same Idempotency-Key was answered with."""


Handler: TypeAlias = Callable[[Asked], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class OldRoute:
    """One route: the scope that it needs, and what answers it. `path_format` names it in the metrics."""

    path_format: str
    scope: str
    handle: Handler


class LegacyFace:
    """Answers requests of the old routes, refusals included."""

    def __init__(
        self,
        routes: Mapping[tuple[str, str], tuple[str, Handler]],
        operations: OperationLog,
        parsing: Parsing,
        *,
        refuse_with_200: bool,
    ) -> None:
        self._routes = {
            (method, path): OldRoute(path, scope, handle) for (method, path), (scope, handle) in routes.items()
        }
        self._operations = operations
        self._parsing = parsing
        self._refuse_with_200 = refuse_with_200

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a path belongs to the old gateway; what is unknown there is refused in its envelope."""
        return path.startswith(_PREFIXES)

    async def answer(self, scope: Scope, body: bytes, caller: KeyOwner, trace: str, send: Send) -> None:
        """Answer with data; raises what the route raises, for `refuse`."""
        scope["body"] = body
        scope["route"] = route = self._route(scope["method"], scope["path"])
        require(caller, route.scope)
        named = scope["named"]
        if body:
            require_plain(named)
        read = partial(self._parsing.run, caller.tenant_id, len(body))
        scope["given"] = given = await decode(scope["query_string"], named, body, read)
        data = await route.handle(Asked(caller, given, trace, len(body), named.get(b"idempotency-key")))
        answer, replayed = enveloped(data), isinstance(data, Replayed)
        if route.path_format == CREATE:
            self._note(scope, answer, task_id=UUID(data["taskId"]), replayed=replayed)
        await send_json(send, 200, answer, [(b"idempotent-replayed", b"true")] if replayed else [])

    async def refuse(self, scope: Scope, send: Send, problem: Problem) -> None:
        """Answer with a refusal."""
        if problem.code == "outcome_unknown":
            problem = _unsure(scope.get("route"), problem)
        elif problem.code == "internal":  # the envelope has no place of its own for the trace
            problem = Problem("internal", f"This is our fault. Quote {trace_id_of(scope['trace'])} when you report it.")
        refusal = refusal_of(problem)
        answer = enveloped_refusal(refusal)
        if scope["path"] == CREATE and scope["method"] == "POST" and "caller" in scope:
            self._note(scope, answer, error=f"{refusal.code}: {refusal.message}")
        await send_json(send, 200 if self._refuse_with_200 else refusal.status, answer, problem.raw_headers)

    def _note(
        self,
        scope: Scope,
        response: dict[str, Any],
        *,
        task_id: UUID | None = None,
        replayed: bool = False,
        error: str = "",
    ) -> None:
        """A create, as far as it could be read."""
        given: Given | None = scope.get("given")
        self._operations.note(
            requester_of(scope, scope["caller"]),
            request=scope.get("body") or scope["query_string"],
            response=response,
            model=_said(given, "modelName"),
            biz_name=_said(given, "bizName"),
            task_id=task_id,
            replayed=replayed,
            error=error,
        )

    def _route(self, method: str, path: str) -> OldRoute:
        route = self._routes.get((method, path))
        if route is not None:
            return route
        methods = sorted(known for known, there in self._routes if there == path)
        if methods:
            raise Problem(
                "method_not_allowed", f"{path} takes {', '.join(methods)}", headers={"Allow": ", ".join(methods)}
            )
        raise Problem("not_found", "there is no such route")


def _unsure(route: OldRoute | None, problem: Problem) -> Problem:
    """An answer of the database was lost. Of these routes one alone knows a key that a request is repeated with."""
    if route is not None and route.path_format == CREATE:
        return problem
    reads = route is not None and route.scope == "read"
    detail = (
        "The database did not answer: try again." if reads else "Nobody can tell yet whether this was done: look first."
    )
    return Problem(problem.code, detail, headers=problem.headers)


def _said(given: Given | None, name: str) -> str:
    """A text of the request, for the log; what cannot be read is none."""
    try:
        return (given.text(name, BIZ_NAME_LIMIT) if given is not None else None) or ""
    except Problem:
        return ""
