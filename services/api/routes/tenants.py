"""/v1/tenants: how tenants stand beside each other; for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from services.api import examples
from services.api.answers import JsonAnswer
from services.api.routes.context import Cases, Operator, StrictRoute
from services.api.routes.documented import answers
from services.api.schemas import TenantIn
from services.api.schemas_out import TenantOut
from services.api.views import tenant_view

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], route_class=StrictRoute)

TenantId = Annotated[int, Path(ge=-(2**63), le=2**63 - 1, description="A signed 64-bit number.")]


@router.get(
    "/{tenant_id}",
    summary="Read a tenant",
    responses=answers(TenantOut, examples.TENANT, "invalid", "tenant_unknown"),
)
async def read_tenant(tenant_id: TenantId, _caller: Operator, cases: Cases) -> Response:
    """Its weight, and whether it is paused."""
    return JsonAnswer(tenant_view(await cases.weights.read(tenant_id)))


@router.put(
    "/{tenant_id}",
    summary="Give a tenant its weight",
    responses=answers(TenantOut, examples.TENANT, "bad_json", "invalid", "body_too_large", "unsupported_media_type"),
)
async def weigh_tenant(
    tenant_id: TenantId,
    wanted: Annotated[TenantIn, examples.body(examples.TENANT_IN)],
    _caller: Operator,
    cases: Cases,
) -> Response:
    """While several tenants wait, a tenant of weight 3 starts three tasks for each one of a tenant of weight 1."""
    return JsonAnswer(tenant_view(await cases.weights.weigh(tenant_id, wanted.weight)))
