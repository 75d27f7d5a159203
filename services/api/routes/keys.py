"""/v1/keys: API keys of tenants; for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from libs.common.domain.errors import NotFound
from libs.common.operations.tenant_json import key_document, made_key_document
from services.api import examples
from services.api.answers import JsonAnswer
from services.api.auth import require
from services.api.routes.context import Cases, Operator, StrictRoute, name_of, number_of, tenant_of
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import KeyIn
from services.api.schemas_insight import TenantQuery
from services.api.schemas_tenants import KeyItems, KeyMadeOut

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=StrictRoute)


@router.post(
    "",
    summary="Make an API key",
    status_code=201,
    responses=answers(KeyMadeOut, examples.KEY_MADE, *BODY_ERRORS, status=201),
)
async def create_key(
    wanted: Annotated[KeyIn, examples.body(examples.KEY_IN)],
    of: Annotated[TenantQuery, Query()],
    caller: Operator,
    cases: Cases,
) -> Response:
    """The answer shows the key, once. Nobody gives a scope that the own key has not."""
    for scope in wanted.scopes:
        require(caller, scope)
    made = await cases.keys.create(tenant_of(caller, of.tenant), wanted.name, wanted.scopes, name_of(caller))
    return JsonAnswer(made_key_document(made), 201, {"Cache-Control": "no-store"})


@router.get("", summary="List a tenant's API keys", responses=answers(KeyItems, examples.KEY_ITEMS, "invalid"))
async def list_keys(of: Annotated[TenantQuery, Query()], caller: Operator, cases: Cases) -> Response:
    """Oldest first, those that were revoked too, without the keys themselves."""
    keys = await cases.keys.list_of(tenant_of(caller, of.tenant))
    return JsonAnswer({"items": [key_document(key) for key in keys]})


@router.delete(
    "/{key_id}",
    summary="Revoke an API key",
    status_code=204,
    responses=answers(None, None, "key_unknown", status=204),
)
async def revoke_key(key_id: str, caller: Operator, cases: Cases) -> Response:
    """Whoever uses it is refused within a second. It stays in the list, with the time of this."""
    number = number_of(key_id)
    if number is None:
        raise NotFound("key_unknown", "there is no such key")
    await cases.keys.revoke(number, name_of(caller))
    return Response(status_code=204)
