"""Templates to pages, and the headers that every page has."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from services.api.console import formats
from services.api.console.assets import asset_url
from services.api.console.sessions import SEEING, form_token
from services.api.console.visit import Visit, address, theme_of

#: Nothing but what this package brings, and nothing written into the page is run.
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
#: Where a page is split.
MARK: Final = "<!--here-->"
HEADERS: Final = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Place(NamedTuple):
    """A page in the menu, for keys with one of the scopes."""

    name: str
    title: str
    path: str
    scopes: tuple[str, ...]
    key: str  #: pressed after `g`, it leads there


MENU: Final = (
    Place("overview", "Overview", "/console", SEEING, "o"),
    Place("tasks", "Tasks", "/console/tasks", SEEING, "t"),
    Place("models", "Models", "/console/models", SEEING, "m"),
    Place("dead", "Dead", "/console/dead", SEEING, "d"),
    Place("replays", "Replay jobs", "/console/replays", SEEING, "r"),
    Place("outbox", "Outbox", "/console/outbox", ("operate",), "b"),
    Place("executors", "Executors", "/console/executors", ("operate",), "e"),
    Place("tenants", "Tenants", "/console/tenants", ("operate",), "n"),
    Place("audit", "Audit", "/console/audit", ("operate",), "u"),
    Place("actions", "Actions", "/console/actions", ("operate",), "a"),
    Place("settings", "Settings", "/console/settings", ("operate",), "s"),
)


def page(visit: Visit, template: str, *, status: int = 200, **values: Any) -> Response:
    """A whole page for somebody who is signed in."""
    return HTMLResponse(part(visit, template, **values), status, HEADERS)


def split_page(visit: Visit, template: str, **values: Any) -> tuple[str, str]:
    """A whole page in two parts: what comes before and after its mark, where something is still being made."""
    before, _, after = part(visit, template, **values).partition(MARK)
    return before, after


def part(visit: Visit, template: str, **values: Any) -> str:
    """A part of a page, as a page holds it and as it is sent again when it has changed."""
    return _templates().get_template(template).render({**values, **_frame(visit)})


def fragment(visit: Visit, template: str, **values: Any) -> Response:
    """A part of a page as an answer of its own."""
    return HTMLResponse(part(visit, template, **values), headers=HEADERS)


def outside(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page for somebody who is not signed in."""
    frame = {"theme": theme_of(request), "visit": None}
    return HTMLResponse(_templates().get_template(template).render({**values, **frame}), status, HEADERS)


def seen_next(path: str) -> Response:
    """Where the browser goes after something was done: reading there again does nothing twice."""
    return RedirectResponse(path, 303, HEADERS)


def _frame(visit: Visit) -> dict[str, Any]:
    return {
        "visit": visit,
        "theme": visit.theme,
        "csrf": form_token(visit.cookie),
        "menu": [place for place in MENU if visit.viewer.scopes.intersection(place.scopes)],
    }


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("services.api.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(asset=asset_url, address=address)
    environment.filters.update(formats.FILTERS)
    return environment
