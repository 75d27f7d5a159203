"""/v1/tasks: read, list, cancel. Creates are next door, in create_task.py."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from libs.common.domain.ids import parse_task_ids
from libs.common.domain.task import TaskStatus
from libs.common.ports_tasks import TaskFilter
from services.api import examples
from services.api.answers import JsonAnswer
from services.api.bodies import until_gone
from services.api.conditions import etag, is_known
from services.api.cursors import before_of, cursor_of
from services.api.preferences import applied, wait_seconds
from services.api.problems import Problem
from services.api.routes.context import Cases, Reader, StrictRoute, Submitter, TaskId
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import STATUS_BY_WORD, TaskIdsIn, TaskQuery
from services.api.schemas_out import AttemptItems, CancelOut, HistoryItems, TaskItems, TaskOut, TaskPage
from services.api.views import attempt_view, history_view, task_view

router = APIRouter(prefix="/v1/tasks", tags=["tasks"], route_class=StrictRoute)


@router.post(
    "/read",
    summary="Read several tasks",
    responses=answers(TaskItems, examples.TASK_ITEMS, *BODY_ERRORS),
)
async def read_tasks(
    asked: Annotated[TaskIdsIn, examples.body(examples.TASK_IDS)], caller: Reader, cases: Cases
) -> Response:
    """Up to 1,000 tasks in the order of their ids; unknown ids are left out. Marks the successes as fetched."""
    ids = parse_task_ids(asked.ids)
    tasks = await cases.reading.several(caller, ids) if ids else []
    return JsonAnswer({"items": [task_view(task) for task in tasks]})


@router.get(
    "/{task_id}",
    summary="Read a task",
    responses={
        **answers(TaskOut, examples.TASK, "task_unknown"),
        304: {"description": "The task still has the version that If-None-Match names."},
    },
)
async def read_task(
    task_id: TaskId,
    caller: Reader,
    cases: Cases,
    request: Request,
    _prefer: Annotated[
        str | None, Header(alias="Prefer", description="`wait=n`: answer when the task ends, n <= 55 s.")
    ] = None,
    if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="ETag of an earlier answer.")
    ] = None,
) -> Response:
    """The task as it is now, or at its end when `Prefer: wait=n` gives it time. Marks a success as fetched."""
    seconds = wait_seconds(request.headers.getlist("prefer"))
    if seconds is not None:
        request.scope["waits"] = True
    read = cases.reading.outcome if "looks" in request.scope else cases.reading.one
    task = await read(caller, task_id, seconds or 0, lambda: until_gone(request.receive))
    headers = {"ETag": etag(task.version, weak=True), "Vary": "Prefer"}
    if seconds is not None:
        headers["Preference-Applied"] = applied(seconds)
    if is_known(task.version, if_none_match):
        return Response(status_code=304, headers=headers)
    return JsonAnswer(task_view(task), headers=headers)


@router.get(
    "",
    summary="List tasks",
    responses=answers(TaskPage, examples.TASK_PAGE, "invalid", "bad_cursor"),
)
async def list_tasks(wanted: Annotated[TaskQuery, Query()], caller: Reader, cases: Cases) -> Response:
    """Newest first. Filtered pages examine at most 10,000 tasks and may be short; follow next_cursor to its end."""
    narrowed = TaskFilter(wanted.model, _statuses(wanted.status), wanted.biz_name)
    before = before_of("task", wanted.cursor)
    tasks, following = await cases.reading.page(caller, narrowed, before, wanted.limit)
    return JsonAnswer({"items": [task_view(task) for task in tasks], "next_cursor": cursor_of("task", following)})


@router.post(
    "/{task_id}/cancel",
    summary="Cancel a task",
    responses=answers(CancelOut, examples.CANCEL, "task_unknown"),
)
async def cancel_task(task_id: TaskId, caller: Submitter, cases: Cases) -> Response:
    """Ends a waiting task at once and asks the executor of a running one to stop. Harmless to repeat."""
    result = await cases.canceling.cancel(caller, task_id)
    return JsonAnswer({"id": str(task_id), "verdict": result.verdict.value, "status": result.status.word})


@router.get(
    "/{task_id}/attempts",
    summary="Ended attempts of a task",
    responses=answers(AttemptItems, examples.ATTEMPTS, "task_unknown"),
)
async def list_attempts(task_id: TaskId, caller: Reader, cases: Cases) -> Response:
    """The newest 1,000, oldest first; the attempt under way is on the task itself."""
    rows = await cases.reading.attempts(caller, task_id)
    return JsonAnswer({"items": [attempt_view(row) for row in rows]})


@router.get(
    "/{task_id}/history",
    summary="What happened to a task beside its attempts",
    responses=answers(HistoryItems, examples.HISTORY, "task_unknown"),
)
async def list_history(task_id: TaskId, caller: Reader, cases: Cases) -> Response:
    """Retries, rescues, repairs, cancels and replays: the newest 1,000, oldest first."""
    rows = await cases.reading.history(caller, task_id)
    return JsonAnswer({"items": [history_view(row) for row in rows]})


def _statuses(words: str | None) -> list[TaskStatus] | None:
    if words is None:
        return None
    named = [word.strip() for word in words.split(",")]
    unknown = [word for word in named if word not in STATUS_BY_WORD]
    if unknown:
        complaint = {"parameter": "status", "detail": f"knows {', '.join(STATUS_BY_WORD)}"}
        raise Problem("invalid", "There is no such status.", errors=[complaint])
    return [STATUS_BY_WORD[word] for word in named]
