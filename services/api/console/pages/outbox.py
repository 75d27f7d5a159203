"""What has to leave, by channel."""

from __future__ import annotations

from starlette.responses import Response

from services.api.console.desk import Desk
from services.api.console.live import LivePart
from services.api.console.rendering import page, part
from services.api.console.visit import Visit


async def show(desk: Desk, visit: Visit) -> Response:
    """Dispatch, events, webhooks: how much, how old, what went wrong."""
    return page(visit, "outbox.html", channels=await desk.cases.sight.outbox())


async def live(desk: Desk, visit: Visit) -> Response:
    """The same again, whenever it has changed."""

    async def render() -> tuple[str, bool]:
        return part(visit, "_outbox.html", channels=await desk.cases.sight.outbox()), False

    return LivePart(desk, visit, render)
