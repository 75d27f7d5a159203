"""Models: what they have to do now, their limits, and their pauses."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.responses import Response

from libs.common.domain.errors import Invalid
from services.api.console.live import LivePart
from services.api.console.plots import SPANS, read_plots
from services.api.console.rendering import page, part, seen_next
from services.api.console.tools import Tools
from services.api.console.visit import Visit, address
from services.api.routes.context import number_of
from services.api.views import MASK

_PATH: Final = "/console/models"
_ONE: Final = "/console/model"
_PAGE: Final = 100
_LARGEST: Final = 2**31 - 1


async def show(tools: Tools, visit: Visit) -> Response:
    """A page of models with what each has to do; operators see all tenants'."""
    return page(visit, "models.html", live_url=visit.stay(f"{_PATH}/live"), **await _lanes(tools, visit))


async def live(tools: Tools, visit: Visit) -> Response:
    """The rows again, whenever one of them has changed."""

    async def render() -> tuple[str, bool]:
        return part(visit, "_model_rows.html", **await _lanes(tools, visit)), False

    return LivePart(tools, visit, render, seconds=2.0)


async def show_one(tools: Tools, visit: Visit) -> Response:
    """What holds a model, what it does, how it went, and everything that is set for it; its secret is masked."""
    name = visit.asked("name")
    model = await tools.cases.administration.get(visit.caller, name)
    config = orjson.dumps(orjson.loads(model.adapter_config), option=orjson.OPT_INDENT_2).decode()
    return page(
        visit,
        "model.html",
        model=model,
        config=config,
        mask=MASK,
        plots=await read_plots(tools.cases.series, visit, model),
        spans=SPANS,
        why=await tools.cases.why.model(model.tenant_id, name),
        live_url=visit.link(f"{_ONE}/live", name=name),
    )


async def live_one(tools: Tools, visit: Visit) -> Response:
    """What a model does and what holds it, whenever it has changed."""

    async def render() -> tuple[str, bool]:
        why = await tools.cases.why.model(visit.caller.tenant_id, visit.asked("name"))
        return part(visit, "_model_state.html", why=why), False

    return LivePart(tools, visit, render)


async def pause(tools: Tools, visit: Visit) -> Response:
    """Pause a model, or let it go on."""
    name, reason = visit.form.get("name", ""), visit.form.get("reason", "")
    tenant = visit.caller.tenant_id
    if visit.form.get("resume"):
        await tools.cases.controls.resume_model(tenant, name, visit.by, reason)
    else:
        await tools.cases.controls.pause_model(tenant, name, visit.by, reason)
    return seen_next(visit.link(_ONE, name=name))


async def pause_all(tools: Tools, visit: Visit) -> Response:
    """Pause all dispatching, or let it go on."""
    reason = visit.form.get("reason", "")
    if visit.form.get("resume"):
        await tools.cases.controls.resume_all(visit.by, reason)
    else:
        await tools.cases.controls.pause_all(visit.by, reason)
    return seen_next("/console")


async def _lanes(tools: Tools, visit: Visit) -> dict[str, Any]:
    after = number_of(visit.asked("after") or "0")
    if after is None or after > _LARGEST:
        raise Invalid("bad_cursor", "The address does not name a place in the list.")
    tenant = visit.asked("tenant") if visit.operates else ""
    lanes, following = await tools.cases.sight.lanes(
        visit.caller.tenant_id if tenant else visit.reach, after=after, limit=_PAGE, busy=False
    )
    return {
        "lanes": lanes,
        "first": after == 0,
        "first_url": address(_PATH, tenant=tenant),
        "next_url": address(_PATH, tenant=tenant, after=following) if following else None,
    }
