"""What every page of the console works with, and how a page becomes a route."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.operations.audit import Report
from libs.common.ports_tasks import KeyOwner
from libs.common.runtime.logging import get_logger
from libs.common.settings import Settings
from services.api.bodies import read_body
from services.api.console.sessions import Sessions, Tries, is_form_token
from services.api.console.visit import SESSION_COOKIE, Visit, require_any
from services.api.headers import named_headers
from services.api.problems import Problem
from services.api.push.hub import Hub
from services.api.routes.context import UseCases

log = get_logger()

#: No form of ours is larger, but those that say so.
FORM_BYTES: Final = 64 * 1024
_MOST_FIELDS: Final = 2_000


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting as an operator may see it."""

    name: str
    value: str
    meaning: str
    given: bool  #: not its default


def setting_rows(settings: Settings) -> list[SettingRow]:
    """Every setting, secrets and passwords in addresses hidden."""
    fields = Settings.model_fields.items()
    return [
        SettingRow(shown, str(value), field.description or "", given=name in settings.model_fields_set)
        for (name, field), (shown, value) in zip(fields, settings.redacted().items(), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Tools:
    """What there is to work with."""

    cases: UseCases
    sessions: Sessions
    tries: Tries
    settings: Sequence[SettingRow]
    draining: Callable[[], bool]
    audit: Callable[[bool], Coroutine[Any, Any, Report]]  #: of all stores; true: with the repairs that are safe
    auditing: asyncio.Lock
    hub: Hub
    watching: Counter[int]  #: live parts that are open, by the tenant of the key that watches


Show: TypeAlias = Callable[[Tools, Visit], Awaitable[Response]]


class SignInNeeded(Exception):
    """Nobody is signed in."""


def shown(tools: Tools, path: str, show: Show, *scopes: str) -> Route:
    """A page for keys that have one of the scopes."""

    async def endpoint(request: Request) -> Response:
        return await show(tools, await enter(tools, request, scopes))

    return Route(path, endpoint, methods=["GET"])


def done(tools: Tools, path: str, do: Show, *scopes: str, most: int = FORM_BYTES) -> Route:
    """What a form of ours does, for keys that have one of the scopes. The form may have `most` bytes."""

    async def endpoint(request: Request) -> Response:
        entered = await enter(tools, request, scopes)
        visit = entered.with_form(await read_form(request, entered.cookie, most))
        answer = await do(tools, visit)
        who = {"key": visit.viewer.id, "by": visit.viewer.name, "tenant": visit.caller.tenant_id}
        log.info("console.action", action=path, path=request.url.path, **who)
        return answer

    return Route(path, endpoint, methods=["POST"])


async def enter(tools: Tools, request: Request, scopes: tuple[str, ...]) -> Visit:
    """Who makes a request; raises SignInNeeded, or Problem (403) when they may not."""
    cookie = request.cookies.get(SESSION_COOKIE, "")
    viewer = await tools.sessions.find(cookie)
    if viewer is None:
        raise SignInNeeded
    require_any(viewer, scopes)
    return Visit(request, viewer, cookie)


async def still_in(tools: Tools, visit: Visit) -> bool:
    """Whether the same session with the same rights holds: asked by what lasts longer than a moment."""
    viewer: KeyOwner | None = await tools.sessions.find(visit.cookie)
    return viewer is not None and viewer.scopes == visit.viewer.scopes


async def read_form(request: Request, cookie: str | None, most: int = FORM_BYTES) -> Mapping[str, str]:
    """The fields of a form that came from a page of ours; raises Problem (400, 403, 413)."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem("forbidden", "This form was sent by another site.")
    body = await read_body(named_headers(request.scope), request.receive, most)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise Problem("invalid", "The form cannot be read.") from None
    form = dict(pairs)
    if not is_form_token(cookie, form.get("csrf", "")):
        said = "This form is too old. Go back, load the page again, and repeat what you did."
        raise Problem("form_too_old", said, status=403)  # `forbidden` would blame the key
    return form
