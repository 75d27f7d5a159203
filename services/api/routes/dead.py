"""/v1/dead: what will not be tried again without an operator."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from libs.common.domain.errors import NotFound
from libs.common.operations.dead_json import details_document, entry_document, groups_document
from libs.common.ports_dead import DeadKind
from services.api import examples_dead as examples
from services.api.answers import JsonAnswer
from services.api.cursors import place_cursor, place_of
from services.api.routes.context import Cases, Seeing
from services.api.routes.documented import answers
from services.api.schemas_dead import DeadDetailsOut, DeadGroupQuery, DeadGroupsOut, DeadPage, DeadQuery

router = APIRouter(prefix="/v1/dead", tags=["dead"])


@router.get(
    "",
    summary="List the dead",
    responses=answers(DeadPage, examples.DEAD_PAGE, "invalid", "bad_cursor"),
)
async def list_dead(wanted: Annotated[DeadQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """Tasks, events, deliveries and messages, newest first. A key with `operate` sees those of all tenants, any other
    its own.

    Filtered pages examine a bounded number of rows and may be short; follow next_cursor to its end.
    """
    entries, following = await cases.dead.page(reach.tenant, wanted.filter(), place_of(wanted.cursor), wanted.limit)
    return JsonAnswer({"items": [entry_document(entry) for entry in entries], "next_cursor": place_cursor(following)})


@router.get(
    "/groups",
    summary="Count the dead by cause",
    responses=answers(DeadGroupsOut, examples.DEAD_GROUPS, "invalid"),
)
async def group_dead(wanted: Annotated[DeadGroupQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """By kind, error code and model, with the first and the last. Counts the newest 50,000 tasks at most, 10,000 where
    `text` is given, and the newest 10,000 of each other kind.
    """
    return JsonAnswer(groups_document(await cases.dead.groups(reach.tenant, wanted.filter())))


@router.get(
    "/{kind}/{id}",
    summary="Show one of the dead",
    responses=answers(DeadDetailsOut, examples.DETAILS, "dead_unknown"),
)
async def show_dead(kind: str, id: str, reach: Seeing, cases: Cases) -> Response:
    """With attempts, history, what the model is sent (secrets masked), provider jobs, events, log entries, replays."""
    if kind not in tuple(DeadKind):
        raise NotFound("dead_unknown", f"the kinds are {', '.join(DeadKind)}")
    details = await cases.dead.show(reach.tenant, DeadKind(kind), id)
    return JsonAnswer(details_document(details, cases.open_sealed))
