"""Signing in and out, and the choice of colours."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from services.api.console.rendering import outside, seen_next
from services.api.console.sessions import SESSION_SECONDS, WrongKey, form_token, new_token
from services.api.console.tools import Tools, read_form
from services.api.console.visit import SESSION_COOKIE, THEME_COOKIE, THEMES, Visit, address, here
from services.api.problems import Problem

_PATH: Final = "/console"
SIGN_IN: Final = "/console/sign-in"
#: What is as good as done when the session has ended.
_LOST_GLADLY: Final = ("/console/sign-out", "/console/theme")
#: Binds the form of the sign-in page to the browser that asked for it.
_FORM_COOKIE: Final = "sluiceway_form"
_FORM_SECONDS: Final = 3_600
_YEAR_SECONDS: Final = 365 * 86_400


async def sign_in_page(tools: Tools, request: Request) -> Response:
    """The form, or straight on for somebody who is in already."""
    going = _inside(request.query_params.get("next"))
    if await tools.sessions.find(request.cookies.get(SESSION_COOKIE)) is not None:
        return seen_next(going)
    return _form(request, going, undone="undone" in request.query_params)


async def sign_in(tools: Tools, request: Request) -> Response:
    """A session for the owner of a key."""
    form = await read_form(request, request.cookies.get(_FORM_COOKIE))
    going = _inside(form.get("next"))
    source = request.client.host if request.client else ""
    try:
        cookie = await tools.sessions.open(form.get("key", "").strip())
    except WrongKey as error:
        try:
            tools.tries.failed(source)
        except Problem as refused:
            answer = _form(request, going, complaint=refused.detail, status=refused.status_code)
            answer.headers.update(refused.headers or {})
            return answer
        return _form(request, going, complaint=str(error), status=403)
    tools.tries.forget(source)
    await tools.sessions.close(request.cookies.get(SESSION_COOKIE))
    answer = seen_next(going)
    _keep(request, answer, SESSION_COOKIE, cookie, SESSION_SECONDS)
    answer.delete_cookie(_FORM_COOKIE, path=_PATH)
    return answer


async def sign_out(tools: Tools, visit: Visit) -> Response:
    """The session is over, here and in the database."""
    await tools.sessions.close(visit.cookie)
    answer = seen_next(SIGN_IN)
    answer.delete_cookie(SESSION_COOKIE, path=_PATH)
    return answer


async def choose_theme(tools: Tools, visit: Visit) -> Response:
    """Remember the colours, and go back."""
    answer = seen_next(_inside(visit.form.get("next")))
    chosen = visit.form.get("theme", "")
    _keep(visit.request, answer, THEME_COOKIE, chosen if chosen in THEMES else THEMES[0], _YEAR_SECONDS)
    return answer


def to_sign_in(request: Request) -> Response:
    """Where nobody is signed in: the way to the form and back.

    A link on another site opens a page of ours without its cookie, since that is strict. Then the page asks for itself
    once more, this time as one of ours.
    """
    if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
        return outside(request, "once_more.html", here=here(request))
    if request.method == "GET":
        there = address(SIGN_IN, next=here(request))
    else:
        there = address(SIGN_IN, undone=None if request.url.path in _LOST_GLADLY else "1")
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": SIGN_IN, "Cache-Control": "no-store"})
    return seen_next(there)


def _form(request: Request, going: str, *, complaint: str = "", status: int = 200, undone: bool = False) -> Response:
    cookie = request.cookies.get(_FORM_COOKIE) or new_token()
    values = {"csrf": form_token(cookie), "going": going, "complaint": complaint, "undone": undone}
    answer = outside(request, "sign_in.html", status=status, **values)
    _keep(request, answer, _FORM_COOKIE, cookie, _FORM_SECONDS)
    return answer


def _inside(path: str | None) -> str:
    """A path of the console; anything else leads to its first page."""
    if not path or not (path == _PATH or path.startswith((_PATH + "/", _PATH + "?"))) or "\\" in path:
        return _PATH
    return path if path.isprintable() else _PATH


def _keep(request: Request, answer: Response, name: str, value: str, seconds: int) -> None:
    secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    answer.set_cookie(name, value, max_age=seconds, path=_PATH, secure=secure, httponly=True, samesite="strict")
