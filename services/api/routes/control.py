"""What operators order: pauses, and executors that shall finish and leave."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Path, Query, Response

from libs.common.domain.errors import NotFound
from services.api import examples
from services.api import examples_insight as shown
from services.api.answers import JsonAnswer
from services.api.routes.context import Cases, Operator, StrictRoute, name_of, number_of, tenant_of
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import TenantId
from services.api.schemas_insight import ReasonIn, TenantQuery, VerdictOut

router = APIRouter(prefix="/v1", tags=["control"], route_class=StrictRoute)


class _Order(NamedTuple):
    """Who orders something, and why, for the record."""

    by: str
    reason: str


def _order(caller: Operator, asked: Annotated[ReasonIn | None, examples.body(shown.REASON)] = None) -> _Order:
    return _Order(name_of(caller), asked.reason if asked is not None else "")


Ordered = Annotated[_Order, Depends(_order)]
Tenant = Annotated[TenantId, Path()]


@router.post(
    "/dispatch/pause", summary="Pause all dispatching", responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS)
)
async def pause_all(order: Ordered, cases: Cases) -> Response:
    """Nothing starts any more, whoever's it is; what runs goes on, creates are accepted and wait."""
    return _verdict(await cases.controls.pause_all(*order))


@router.post(
    "/dispatch/resume", summary="Resume all dispatching", responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS)
)
async def resume_all(order: Ordered, cases: Cases) -> Response:
    """What tenants and models are paused by themselves stays paused."""
    return _verdict(await cases.controls.resume_all(*order))


@router.post(
    "/tenants/{tenant_id}/pause",
    summary="Pause a tenant",
    responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS, "tenant_unknown"),
)
async def pause_tenant(tenant_id: Tenant, order: Ordered, cases: Cases) -> Response:
    """Nothing of this tenant starts any more; what runs goes on."""
    return _verdict(await cases.controls.pause_tenant(tenant_id, *order))


@router.post(
    "/tenants/{tenant_id}/resume",
    summary="Resume a tenant",
    responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS, "tenant_unknown"),
)
async def resume_tenant(tenant_id: Tenant, order: Ordered, cases: Cases) -> Response:
    """The time of the pause does not count as waiting."""
    return _verdict(await cases.controls.resume_tenant(tenant_id, *order))


@router.post(
    "/models/{name:path}/pause",
    summary="Pause a model",
    responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS, "model_unknown"),
)
async def pause_model(
    name: str, of: Annotated[TenantQuery, Query()], caller: Operator, order: Ordered, cases: Cases
) -> Response:
    """Nothing of this tenant's model starts any more; what runs goes on."""
    return _verdict(await cases.controls.pause_model(tenant_of(caller, of.tenant), name, *order))


@router.post(
    "/models/{name:path}/resume",
    summary="Resume a model",
    responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS, "model_unknown"),
)
async def resume_model(
    name: str, of: Annotated[TenantQuery, Query()], caller: Operator, order: Ordered, cases: Cases
) -> Response:
    """The time of the pause does not count as waiting."""
    return _verdict(await cases.controls.resume_model(tenant_of(caller, of.tenant), name, *order))


@router.post(
    "/executors/{name:path}/drain",
    summary="Have an executor finish and leave",
    responses=answers(VerdictOut, shown.DRAINING, *BODY_ERRORS, "executor_unknown"),
)
async def drain_executor(name: str, order: Ordered, cases: Cases) -> Response:
    """It takes nothing new, gives back what only waits there, lets end what runs, and its process ends."""
    return _verdict(await cases.controls.drain(name, *order))


@router.post(
    "/executors/{name:path}/undrain",
    summary="Have an executor stay after all",
    responses=answers(VerdictOut, shown.STAYING, *BODY_ERRORS, "executor_unknown"),
)
async def undrain_executor(name: str, order: Ordered, cases: Cases) -> Response:
    """If it has not left yet."""
    return _verdict(await cases.controls.undrain(name, *order))


@router.post(
    "/webhooks/{webhook_id}/pause",
    summary="Let a webhook's deliveries wait",
    responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS, "webhook_unknown"),
)
async def pause_webhook(webhook_id: str, order: Ordered, cases: Cases) -> Response:
    """Of whatever tenant it is, which cannot lift this; they go out when it is resumed."""
    return _verdict(await cases.controls.pause_webhook(_webhook(webhook_id), *order))


@router.post(
    "/webhooks/{webhook_id}/resume",
    summary="Let a webhook's deliveries go on",
    responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS, "webhook_unknown"),
)
async def resume_webhook(webhook_id: str, order: Ordered, cases: Cases) -> Response:
    """What waited goes out, too, unless its tenant holds it."""
    return _verdict(await cases.controls.resume_webhook(_webhook(webhook_id), *order))


def _webhook(text: str) -> int:
    number = number_of(text)
    if number is None:
        raise NotFound("webhook_unknown", "there is no such webhook")
    return number


def _verdict(verdict: str) -> Response:
    return JsonAnswer({"verdict": verdict})
