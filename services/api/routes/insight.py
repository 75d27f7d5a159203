"""What flows, what waits and why: for operators over everything, for a tenant over its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from libs.common.operations import insight_json as shown
from libs.common.ports_insight import SeriesWanted
from services.api import examples_insight as examples
from services.api.answers import JsonAnswer
from services.api.auth import require
from services.api.cursors import before_of, cursor_of
from services.api.routes.context import Cases, Operator, Seeing, TaskId, tenant_of
from services.api.routes.documented import answers
from services.api.routes.models import read_model
from services.api.schemas import PageQuery
from services.api.schemas_insight import (
    ActionPage,
    ExecutorItems,
    LanePage,
    LaneQuery,
    ModelWhyOut,
    OutboxItems,
    OverviewOut,
    PauseItems,
    ProcessItems,
    SeriesOut,
    SeriesQuery,
    TaskWhyOut,
    TenantQuery,
)

_HOUR: Final = timedelta(hours=1)
#: Before this there is nothing to read, and soon no calendar.
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)

router = APIRouter(prefix="/v1", tags=["insight"])


@router.get(
    "/tasks/{task_id}/why",
    summary="Why a task waits",
    responses=answers(TaskWhyOut, examples.TASK_WHY, "task_unknown"),
)
async def why_task(task_id: TaskId, reach: Seeing, cases: Cases) -> Response:
    """Which limit holds it, its value and limit, its position, and when it may start. Operators ask for any task."""
    why = await cases.why.task(reach.tenant, task_id)
    return JsonAnswer(shown.task_why_document(why))


@router.get(
    "/models/{name:path}/why",
    summary="Why a model's tasks wait",
    responses=answers(ModelWhyOut, examples.MODEL_WHY, "invalid", "forbidden", "model_unknown"),
)
async def why_model(
    name: str, asked: Annotated[TenantQuery, Query()], reach: Seeing, cases: Cases, request: Request
) -> Response:
    """What holds the model's tasks, the binding limit first, and how much of each limit is used."""
    if request.scope.get("raw_path", b"").partition(b"?")[0].upper().endswith(b"%2FWHY"):
        require(reach.caller, "read")
        return await read_model(name + "/why", reach.caller, cases)  # a model's name ends so
    why = await cases.why.model(tenant_of(reach.caller, asked.tenant), name)
    return JsonAnswer(shown.model_why_document(why, operator=reach.tenant is None))


@router.get("/overview", summary="The numbers of everything", responses=answers(OverviewOut, examples.OVERVIEW))
async def read_overview(_caller: Operator, cases: Cases) -> Response:
    """Cheap enough for every second; read from the stores once a second at most."""
    return JsonAnswer(shown.overview_document(await cases.sight.overview()))


@router.get(
    "/lanes",
    summary="Models as the queue sees them",
    responses=answers(LanePage, examples.LANES, "invalid", "bad_cursor"),
)
async def list_lanes(asked: Annotated[LaneQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """Window, permits, gate, backlog, age and pace of each. A tenant sees its own, an operator all."""
    tenant = asked.tenant if reach.tenant is None else tenant_of(reach.caller, asked.tenant)
    after = before_of("lane", asked.cursor) or 0
    lanes, following = await cases.sight.lanes(tenant, after=after, limit=asked.limit, busy=asked.busy)
    items = [shown.lane_document(lane, operator=reach.tenant is None) for lane in lanes]
    return JsonAnswer({"items": items, "next_cursor": cursor_of("lane", following)})


@router.get("/executors", summary="Executors", responses=answers(ExecutorItems, examples.EXECUTORS))
async def list_executors(_caller: Operator, cases: Cases) -> Response:
    """Those that have not stopped: heartbeat, load, posture, and what they work on."""
    return JsonAnswer({"items": [shown.executor_document(one) for one in await cases.sight.executors()]})


@router.get("/processes", summary="Dispatchers and janitors", responses=answers(ProcessItems, examples.PROCESSES))
async def list_processes(_caller: Operator, cases: Cases) -> Response:
    """When each last said that it lives, and whether it reaches the broker."""
    return JsonAnswer({"items": [shown.process_document(one) for one in await cases.sight.processes()]})


@router.get("/outbox", summary="What has to leave, by channel", responses=answers(OutboxItems, examples.OUTBOX))
async def read_outbox(_caller: Operator, cases: Cases) -> Response:
    """Counts, age and last error of messages and events on their way out."""
    return JsonAnswer({"items": [shown.outbox_document(one) for one in await cases.sight.outbox()]})


@router.get("/pauses", summary="What is paused", responses=answers(PauseItems, examples.PAUSES))
async def list_pauses(reach: Seeing, cases: Cases) -> Response:
    """A tenant sees its own pauses and those of all."""
    pauses = await cases.sight.pauses(reach.tenant)
    return JsonAnswer({"items": [shown.pause_document(pause, operator=reach.tenant is None) for pause in pauses]})


@router.get(
    "/series",
    summary="Series for plots",
    responses=answers(SeriesOut, examples.SERIES, "invalid", "forbidden", "model_unknown"),
)
async def read_series(asked: Annotated[SeriesQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """Ends by outcome, wait and run times, error rate, backlog: of a model (one that was deleted, too, while no other
    has its name), a tenant, or (for operators) everything.

    Minutes are kept for a day, hours for eight. The last minute appears when it is over and settled, about 20 s later.
    """
    tenant = asked.tenant
    if reach.tenant is not None or asked.model is not None:
        tenant = tenant_of(reach.caller, asked.tenant)
    until = asked.until or datetime.now(UTC)
    wanted = SeriesWanted(asked.since or max(until, _BEGINNING) - _HOUR, until, asked.step, tenant, asked.model)
    return JsonAnswer(shown.series_document(await cases.series.read(wanted), asked.step))


@router.get(
    "/actions",
    summary="What operators did",
    responses=answers(ActionPage, examples.ACTIONS, "invalid", "bad_cursor"),
)
async def list_actions(asked: Annotated[PageQuery, Query()], _caller: Operator, cases: Cases) -> Response:
    """Pauses, resumes, drains, keys made and revoked: who, when and why, newest first."""
    actions, following = await cases.controls.actions(before_of("action", asked.cursor), asked.limit)
    items = [shown.action_document(action) for action in actions]
    return JsonAnswer({"items": items, "next_cursor": cursor_of("action", following)})
