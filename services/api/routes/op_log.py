"""/v1/op-log: who asked for which task, and what was answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from libs.common.ports_operations import OperationFilter
from services.api import examples
from services.api.answers import JsonAnswer
from services.api.cursors import before_of, cursor_of
from services.api.routes.context import Cases, Reader
from services.api.routes.documented import answers
from services.api.schemas import OperationQuery
from services.api.schemas_out import OperationPage
from services.api.views import operation_view

router = APIRouter(prefix="/v1/op-log", tags=["operations"])


@router.get(
    "",
    summary="List attempts to create tasks",
    responses=answers(OperationPage, examples.OPERATION_PAGE, "invalid", "bad_cursor"),
)
async def list_operations(wanted: Annotated[OperationQuery, Query()], caller: Reader, cases: Cases) -> Response:
    """Every create of the tenant, accepted or refused, newest first; there within a second of its answer.

    Filtered pages examine at most 10,000 entries and may be short; follow next_cursor to its end.
    """
    narrowed = OperationFilter(wanted.task_id, wanted.biz_name)
    before = before_of("operation", wanted.cursor)
    entries, following = await cases.operations.list_page(caller.tenant_id, narrowed, before, wanted.limit)
    items = [operation_view(entry) for entry in entries]
    return JsonAnswer({"items": items, "next_cursor": cursor_of("operation", following)})
