"""The old routes: which there are, and how a request of one is answered. Bare ASGI, because every task passes here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from starlette.types import Scope, Send

from libs.common.ports_tasks import KeyOwner
from services.api.auth import require
from services.api.bodies import require_plain
from services.api.legacy.decoding import decode
from services.api.legacy.envelope import send_data, send_refusal
from services.api.legacy.given import Given
from services.api.problems import Problem

_PREFIXES: Final = ("/model/", "/task/", "/stat/")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an old route is asked, and by whom."""

    caller: KeyOwner
    given: Given
    trace: str


Handler: TypeAlias = Callable[[Asked], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class OldRoute:
    """One route: the scope that it needs, and what answers it. `path_format` names it in the metrics."""

    path_format: str
    scope: str
    handle: Handler


class LegacyFace:
    """Answers requests of the old routes, refusals included."""

    def __init__(self, routes: Mapping[tuple[str, str], tuple[str, Handler]], *, refuse_with_200: bool) -> None:
        self._routes = {
            (method, path): OldRoute(path, scope, handle) for (method, path), (scope, handle) in routes.items()
        }
        self._refuse_with_200 = refuse_with_200

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a path belongs to the old gateway; what is unknown there is refused in its envelope."""
        return path.startswith(_PREFIXES)

    async def answer(self, scope: Scope, body: bytes, caller: KeyOwner, trace: str, send: Send) -> None:
        """Answer with data; raises what the route raises, for `refuse`."""
        scope["route"] = route = self._route(scope["method"], scope["path"])
        require(caller, route.scope)
        named = scope["named"]
        if body:
            require_plain(named)
        given = await decode(scope["query_string"], named, body)
        await send_data(send, await route.handle(Asked(caller, given, trace)))

    async def refuse(self, send: Send, problem: Problem) -> None:
        """Answer with a refusal."""
        await send_refusal(send, problem, status=200 if self._refuse_with_200 else None)

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
