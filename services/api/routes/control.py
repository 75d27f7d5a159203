"""What operators order: pauses, and executors that shall finish and leave."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from libs.common.domain.errors import NotFound
from services.api import examples
from services.api import examples_insight as shown
from services.api.answers import JsonAnswer
from services.api.routes.context import Cases, Operator, StrictRoute, name_of, number_of, tenant_of
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import TenantId
from services.api.schemas_insight import ReasonIn, TenantQuery, VerdictOut

router = APIRouter(prefix="/v1", tags=["control"], route_class=StrictRoute)

Reason = Annotated[ReasonIn | None, examples.body(shown.REASON)]
Tenant = Annotated[TenantId, Path()]


@router.post(
    "/dispatch/pause", summary="Pause all dispatching", responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS)
)
async def pause_all(caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """Nothing starts any more, whoever's it is; what runs goes on, creates are accepted and wait."""
    return _verdict(await cases.controls.pause_all(name_of(caller), _reason(asked)))


@router.post(
    "/dispatch/resume", summary="Resume all dispatching", responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS)
)
async def resume_all(caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """What tenants and models are paused by themselves stays paused."""
    return _verdict(await cases.controls.resume_all(name_of(caller), _reason(asked)))


@router.post(
    "/tenants/{tenant_id}/pause",
    summary="Pause a tenant",
    responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS, "tenant_unknown"),
)
async def pause_tenant(tenant_id: Tenant, caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """Nothing of this tenant starts any more; what runs goes on."""
    return _verdict(await cases.controls.pause_tenant(tenant_id, name_of(caller), _reason(asked)))


@router.post(
    "/tenants/{tenant_id}/resume",
    summary="Resume a tenant",
    responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS, "tenant_unknown"),
)
async def resume_tenant(tenant_id: Tenant, caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """The time of the pause does not count as waiting."""
    return _verdict(await cases.controls.resume_tenant(tenant_id, name_of(caller), _reason(asked)))


@router.post(
    "/models/{name:path}/pause",
    summary="Pause a model",
    responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS, "model_unknown"),
)
async def pause_model(
    name: str, of: Annotated[TenantQuery, Query()], caller: Operator, cases: Cases, asked: Reason = None
) -> Response:
    """Nothing of this tenant's model starts any more; what runs goes on."""
    tenant = tenant_of(caller, of.tenant)
    return _verdict(await cases.controls.pause_model(tenant, name, name_of(caller), _reason(asked)))


@router.post(
    "/models/{name:path}/resume",
    summary="Resume a model",
    responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS, "model_unknown"),
)
async def resume_model(
    name: str, of: Annotated[TenantQuery, Query()], caller: Operator, cases: Cases, asked: Reason = None
) -> Response:
    """The time of the pause does not count as waiting."""
    tenant = tenant_of(caller, of.tenant)
    return _verdict(await cases.controls.resume_model(tenant, name, name_of(caller), _reason(asked)))


@router.post(
    "/executors/{name:path}/drain",
    summary="Have an executor finish and leave",
    responses=answers(VerdictOut, shown.DRAINING, *BODY_ERRORS, "executor_unknown"),
)
async def drain_executor(name: str, caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """It takes nothing new, gives back what only waits there, lets end what runs, and its process ends."""
    return _verdict(await cases.controls.drain(name, name_of(caller), _reason(asked)))


@router.post(
    "/executors/{name:path}/undrain",
    summary="Have an executor stay after all",
    responses=answers(VerdictOut, shown.STAYING, *BODY_ERRORS, "executor_unknown"),
)
async def undrain_executor(name: str, caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """If it has not left yet."""
    return _verdict(await cases.controls.undrain(name, name_of(caller), _reason(asked)))


@router.post(
    "/webhooks/{webhook_id}/pause",
    summary="Let a webhook's deliveries wait",
    responses=answers(VerdictOut, shown.PAUSED, *BODY_ERRORS, "webhook_unknown"),
)
async def pause_webhook(webhook_id: str, caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """Of whatever tenant it is, which cannot lift this; they go out when it is resumed."""
    return _verdict(await cases.controls.pause_webhook(_webhook(webhook_id), name_of(caller), _reason(asked)))


@router.post(
    "/webhooks/{webhook_id}/resume",
    summary="Let a webhook's deliveries go on",
    responses=answers(VerdictOut, shown.RESUMED, *BODY_ERRORS, "webhook_unknown"),
)
async def resume_webhook(webhook_id: str, caller: Operator, cases: Cases, asked: Reason = None) -> Response:
    """What waited goes out, too, unless its tenant holds it."""
    return _verdict(await cases.controls.resume_webhook(_webhook(webhook_id), name_of(caller), _reason(asked)))


def _webhook(text: str) -> int:
    number = number_of(text)
    if number is None:
        raise NotFound("webhook_unknown", "there is no such webhook")
    return number


def _reason(asked: ReasonIn | None) -> str:
    return asked.reason if asked is not None else ""


def _verdict(verdict: str) -> Response:
    return JsonAnswer({"verdict": verdict})
