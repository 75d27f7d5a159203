"""The settings of this process, secrets hidden."""

from __future__ import annotations

from starlette.responses import Response

from services.api.console.desk import Desk
from services.api.console.rendering import page
from services.api.console.visit import Visit


async def show(desk: Desk, visit: Visit) -> Response:
    """Every setting, what it means, and whether somebody set it."""
    return page(visit, "settings.html", settings=desk.settings)
