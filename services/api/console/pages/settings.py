"""The settings of this process, secrets hidden."""

from __future__ import annotations

from starlette.responses import Response

from services.api.console.rendering import page
from services.api.console.tools import Tools
from services.api.console.visit import Visit


async def show(tools: Tools, visit: Visit) -> Response:
    """Every setting, what it means, and whether somebody set it."""
    return page(visit, "settings.html", settings=tools.settings)
