"""Who runs: executors, dispatchers, janitors; and the drain of an executor."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from services.api.console.live import LivePart
from services.api.console.rendering import page, part, seen_next
from services.api.console.tools import Tools
from services.api.console.visit import Visit

_PATH = "/console/executors"


async def show(tools: Tools, visit: Visit) -> Response:
    """Everybody who lives, or lived lately."""
    return page(visit, "executors.html", **await _fleet(tools))


async def live(tools: Tools, visit: Visit) -> Response:
    """The same again, whenever it has changed."""

    async def render() -> tuple[str, bool]:
        return part(visit, "_executors.html", **await _fleet(tools)), False

    return LivePart(tools, visit, render)


async def drain(tools: Tools, visit: Visit) -> Response:
    """Let an executor finish and leave, or stay after all."""
    name, reason = visit.form.get("name", ""), visit.form.get("reason", "")
    if visit.form.get("stay"):
        await tools.cases.controls.undrain(name, visit.by, reason)
    else:
        await tools.cases.controls.drain(name, visit.by, reason)
    return seen_next(_PATH)


async def _fleet(tools: Tools) -> dict[str, Any]:
    return {"executors": await tools.cases.sight.executors(), "processes": await tools.cases.sight.processes()}
