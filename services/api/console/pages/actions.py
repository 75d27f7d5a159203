"""What operators did: pauses, resumes, drains, keys made and revoked, with who and why."""

from __future__ import annotations

from starlette.responses import Response

from services.api.console.rendering import page
from services.api.console.tools import Tools
from services.api.console.visit import Visit, address
from services.api.cursors import before_of, cursor_of

_PATH = "/console/actions"
_PAGE = 100


async def show(tools: Tools, visit: Visit) -> Response:
    """A page of records, newest first."""
    before = before_of("action", visit.asked("cursor") or None)
    records, following = await tools.cases.controls.actions(before, _PAGE)
    next_url = address(_PATH, cursor=cursor_of("action", following)) if following else None
    return page(visit, "actions.html", records=records, first=before is None, next_url=next_url)
