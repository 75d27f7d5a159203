"""Models: their limits and settings."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from libs.common.domain.model import window
from services.api.console.desk import Desk
from services.api.console.rendering import page
from services.api.console.visit import Visit
from services.api.cursors import before_of, cursor_of
from services.api.views import MASK

_PAGE = 100


async def show(desk: Desk, visit: Visit) -> Response:
    """A page of models, newest first."""
    before = before_of("model", visit.asked("cursor") or None)
    found, following = await desk.cases.administration.page(visit.caller, before, _PAGE)
    cursor = cursor_of("model", following)
    next_url = visit.link("/console/models", cursor=cursor) if cursor else None
    return page(visit, "models.html", models=found, first=before is None, next_url=next_url)


async def show_one(desk: Desk, visit: Visit) -> Response:
    """Everything that is set for a model; its secret is masked."""
    model = await desk.cases.administration.get(visit.caller, visit.request.path_params["name"])
    config = orjson.dumps(orjson.loads(model.adapter_config), option=orjson.OPT_INDENT_2).decode()
    return page(visit, "model.html", model=model, window=window(model.max_concurrency), config=config, mask=MASK)
