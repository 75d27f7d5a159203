"""/v1/quota: what users may spend a day, and have spent."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from libs.common.operations.tenant_json import account_document, limit_document
from services.api import examples
from services.api.answers import JsonAnswer
from services.api.auth import require
from services.api.cursors import after_of, cursor_after
from services.api.problems import NO_ROUTE, Problem
from services.api.routes.context import Cases, Moving, Seeing, StrictRoute, tenant_of
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import QuotaLimitIn
from services.api.schemas_insight import LimitQuery, TenantQuery, UserQuery
from services.api.schemas_out import QuotaLimitOut, QuotaLimitPage, QuotaOut

router = APIRouter(prefix="/v1/quota", tags=["quota"], route_class=StrictRoute)

_EVERYBODY = ""

Whose = Annotated[TenantQuery, Query()]


@router.get("", summary="What a user has spent today", responses=answers(QuotaOut, examples.QUOTA, "invalid"))
async def read_quota(wanted: Annotated[UserQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """The caller's own account, or with the scope `admin` beside `read` another user's; operators read all."""
    user = reach.caller.name if wanted.user is None else wanted.user
    tenant = tenant_of(reach.caller, wanted.tenant)
    if user != reach.caller.name and reach.tenant is not None:
        require(reach.caller, "admin")
    return JsonAnswer(account_document(await cases.quota.account(tenant, user)))


@router.get(
    "/limits",
    summary="List the limits of users",
    responses=answers(QuotaLimitPage, examples.QUOTA_LIMIT_PAGE, "invalid", "bad_cursor"),
)
async def list_limits(wanted: Annotated[LimitQuery, Query()], reach: Moving, cases: Cases) -> Response:
    """By the users' names; first, with an empty name, the limit of all who have none of their own."""
    after = after_of("limit", wanted.cursor)
    limits, following = await cases.quota.limits(tenant_of(reach.caller, wanted.tenant), after, wanted.limit)
    items = [limit_document(limit) for limit in limits]
    return JsonAnswer({"items": items, "next_cursor": cursor_after("limit", following)})


@router.put(
    "/limits",
    summary="Limit all users who have no limit of their own",
    responses=answers(QuotaLimitOut, examples.QUOTA_LIMIT_OF_ALL, *BODY_ERRORS),
)
async def limit_everybody(
    wanted: Annotated[QuotaLimitIn, examples.body(examples.QUOTA_LIMIT_IN)], of: Whose, reach: Moving, cases: Cases
) -> Response:
    """Each of them may spend so much a day, from the next create on. 0 refuses every task that costs something."""
    return await _limit(tenant_of(reach.caller, of.tenant), cases, _EVERYBODY, wanted)


@router.delete(
    "/limits",
    summary="Take the limit of all users away",
    status_code=204,
    responses=answers(None, None, "invalid", "limit_unknown", status=204),
)
async def free_everybody(of: Whose, reach: Moving, cases: Cases) -> Response:
    """Limits of single users stay."""
    await cases.quota.clear_limit(tenant_of(reach.caller, of.tenant), _EVERYBODY)
    return Response(status_code=204)


def _user(user: str) -> str:
    """A user's name in the address: none at all is no user, least of all everybody."""
    if user == _EVERYBODY:
        raise Problem("not_found", NO_ROUTE)
    return user


User = Annotated[str, Depends(_user)]


# A user's name may hold slashes, written as %2F: hence `:path`, which knows no line breaks (no address, then).
@router.put(
    "/limits/{user:path}",
    summary="Limit a user",
    responses=answers(QuotaLimitOut, examples.QUOTA_LIMIT, "not_found", *BODY_ERRORS),
)
async def limit_user(
    user: User,
    wanted: Annotated[QuotaLimitIn, examples.body(examples.QUOTA_LIMIT_IN)],
    of: Whose,
    reach: Moving,
    cases: Cases,
) -> Response:
    """The user may spend so much a day, from the next create on. 0 refuses every task that costs something."""
    return await _limit(tenant_of(reach.caller, of.tenant), cases, user, wanted)


@router.delete(
    "/limits/{user:path}",
    summary="Take a user's limit away",
    status_code=204,
    responses=answers(None, None, "invalid", "limit_unknown", "not_found", status=204),
)
async def free_user(user: User, of: Whose, reach: Moving, cases: Cases) -> Response:
    """The limit of all users, if there is one, holds for the user again."""
    await cases.quota.clear_limit(tenant_of(reach.caller, of.tenant), user)
    return Response(status_code=204)


async def _limit(tenant: int, cases: Cases, user: str, wanted: QuotaLimitIn) -> Response:
    await cases.quota.set_limit(tenant, user, wanted.points_per_day)
    return JsonAnswer({"user": user, "points_per_day": wanted.points_per_day})
