"""What has to leave, by channel; and the webhooks to which nothing is sent."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from libs.common.domain.errors import NotFound
from services.api.console.live import LivePart
from services.api.console.rendering import page, part, seen_next
from services.api.console.tools import Tools
from services.api.console.visit import Visit
from services.api.routes.context import number_of

_PATH: Final = "/console/outbox"


async def show(tools: Tools, visit: Visit) -> Response:
    """Dispatch, events, webhooks: how much, how old, what went wrong, what is held."""
    return page(visit, "outbox.html", **await _now(tools))


async def live(tools: Tools, visit: Visit) -> Response:
    """The same again, whenever it has changed."""

    async def render() -> tuple[str, bool]:
        return part(visit, "_outbox.html", **await _now(tools)), False

    return LivePart(tools, visit, render)


async def pause(tools: Tools, visit: Visit) -> Response:
    """Let the deliveries of a webhook wait, or go on."""
    webhook, reason = number_of(visit.form.get("webhook", "").strip()), visit.form.get("reason", "")
    if webhook is None:
        raise NotFound("webhook_unknown", "there is no such webhook")
    if visit.form.get("resume"):
        await tools.cases.controls.resume_webhook(webhook, visit.by, reason)
    else:
        await tools.cases.controls.pause_webhook(webhook, visit.by, reason)
    return seen_next(_PATH)


async def _now(tools: Tools) -> dict[str, Any]:
    pauses = [pause for pause in await tools.cases.sight.pauses(None) if pause.scope == "webhook"]
    return {"channels": await tools.cases.sight.outbox(), "pauses": pauses}
