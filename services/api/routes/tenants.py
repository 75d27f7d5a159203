"""/v1/tenants: how tenants stand beside each other; for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from libs.common.operations.tenant_json import tenant_document, tenant_use_document
from services.api import examples
from services.api.answers import JsonAnswer
from services.api.cursors import cursor_of, number_after
from services.api.routes.context import Cases, Operator, StrictRoute
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import PageQuery, TenantId, TenantIn
from services.api.schemas_tenants import TenantOut, TenantPage

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], route_class=StrictRoute)

Tenant = Annotated[TenantId, Path()]


@router.get(
    "",
    summary="List tenants",
    responses=answers(TenantPage, examples.TENANT_PAGE, "invalid", "bad_cursor"),
)
async def list_tenants(wanted: Annotated[PageQuery, Query()], _caller: Operator, cases: Cases) -> Response:
    """By their numbers, with their models and the calls of today that were counted so far."""
    page, following = await cases.weights.page(number_after("tenant", wanted.cursor), wanted.limit)
    items = [tenant_use_document(use) for use in page]
    return JsonAnswer({"items": items, "next_cursor": cursor_of("tenant", following)})


@router.get(
    "/{tenant_id}",
    summary="Read a tenant",
    responses=answers(TenantOut, examples.TENANT, "invalid", "tenant_unknown"),
)
async def read_tenant(tenant_id: Tenant, _caller: Operator, cases: Cases) -> Response:
    """Its weight, and whether it is paused."""
    return JsonAnswer(tenant_document(await cases.weights.read(tenant_id)))


@router.put(
    "/{tenant_id}",
    summary="Give a tenant its weight",
    responses=answers(TenantOut, examples.TENANT, *BODY_ERRORS),
)
async def weigh_tenant(
    tenant_id: Tenant,
    wanted: Annotated[TenantIn, examples.body(examples.TENANT_IN)],
    _caller: Operator,
    cases: Cases,
) -> Response:
    """While several tenants wait, a tenant of weight 3 starts three tasks for each one of a tenant of weight 1."""
    return JsonAnswer(tenant_document(await cases.weights.weigh(tenant_id, wanted.weight)))
