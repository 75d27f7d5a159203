"""Tenants: their weight beside the others, their pauses, their webhooks, their users' limits of the day."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from libs.common.domain.errors import Invalid, NotFound
from libs.common.operations.tenant_json import webhook_document
from services.api.console.rendering import page, seen_next
from services.api.console.tools import Tools
from services.api.console.visit import Visit, address, tenant_id_of

_PATH: Final = "/console/tenants"
_PAGE: Final = 50
_LIMITS: Final = 100


async def show(tools: Tools, visit: Visit) -> Response:
    """A page of tenants, in the order of their numbers."""
    if visit.asked("tenant"):
        return seen_next(f"{_PATH}/{tenant_id_of(visit.asked('tenant'))}")
    after = tenant_id_of(visit.asked("after")) if visit.asked("after") else None
    found, following = await tools.cases.weights.page(after, _PAGE)
    return page(
        visit,
        "tenants.html",
        tenants=found,
        first=after is None,
        next_url=address(_PATH, after=following) if following is not None else None,
    )


async def show_one(tools: Tools, visit: Visit) -> Response:
    """A tenant, its webhooks, and the limits of its users."""
    tenant = await tools.cases.weights.read(_tenant(visit))
    after = visit.asked("after") or None
    if after and "\x00" in after:
        raise Invalid("bad_cursor", "The address does not name a place in the list.")
    limits, following = await tools.cases.quota.limits(tenant.id, after, _LIMITS)
    # that of a model is shown with the model; a webhook has no page of its own
    pauses = [pause for pause in await tools.cases.sight.pauses(tenant.id) if pause.scope != "model"]
    values: dict[str, Any] = {
        "tenant": tenant,
        "limits": limits,
        "pauses": pauses,
        "webhooks": [
            {**webhook_document(webhook, operator=True), **counts._asdict()}
            for webhook, counts in await tools.cases.webhooks.counted(tenant.id)
        ],
        "first": after is None,
        "next_url": address(f"{_PATH}/{tenant.id}", after=following) if following is not None else None,
    }
    return page(visit, "tenant.html", **values)


async def weigh(tools: Tools, visit: Visit) -> Response:
    """Give a tenant its weight."""
    tenant = _tenant(visit)
    await tools.cases.weights.weigh(tenant, _whole(visit, "weight"))
    return seen_next(f"{_PATH}/{tenant}")


async def pause(tools: Tools, visit: Visit) -> Response:
    """Pause a tenant, or let it go on."""
    tenant, reason = _tenant(visit), visit.form.get("reason", "")
    if visit.form.get("resume"):
        await tools.cases.controls.resume_tenant(tenant, visit.by, reason)
    else:
        await tools.cases.controls.pause_tenant(tenant, visit.by, reason)
    return seen_next(f"{_PATH}/{tenant}")


async def limit(tools: Tools, visit: Visit) -> Response:
    """Set a user's limit of the day, or take it away."""
    tenant, user = _tenant(visit), visit.form.get("user", "")
    if visit.form.get("clear"):  # of the row whose button it is: its name may begin or end with a space
        await tools.cases.quota.clear_limit(tenant, user)
    else:
        await tools.cases.quota.set_limit(tenant, user.strip(), _whole(visit, "points"))
    return seen_next(f"{_PATH}/{tenant}")


def _tenant(visit: Visit) -> int:
    try:
        return tenant_id_of(str(visit.request.path_params["id"]))
    except Invalid as error:
        raise NotFound("tenant_unknown", "nobody has heard of this tenant") from error


def _whole(visit: Visit, name: str) -> int:
    text = visit.form.get(name, "").strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 17):
        raise Invalid("invalid", "is no whole number", field=f"/{name}")
    return int(text)
