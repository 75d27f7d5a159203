"""How the old routes are described in the OpenAPI document; nothing is ever served from here (legacy/routes.py)."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel

from services.api.examples import body
from services.api.legacy import examples
from services.api.legacy.envelope import CODES
from services.api.legacy.schemas import (
    Enveloped,
    ModelIdOut,
    Nothing,
    OldModelIn,
    OldModelOut,
    OldModelPage,
    OldModelSearch,
    OldModelUpdate,
    OldStatSearch,
    OldTaskIds,
    OldTaskIn,
    OldTaskOut,
    OldTaskPage,
    OldTaskSearch,
    RefusalOut,
    StatPage,
    TaskIdOut,
    TaskStates,
)
from services.api.routes.context import Admin, Reader, Submitter
from services.api.routes.documented import REPLAYED, RETRY_AFTER, IdempotencyHeader

router = APIRouter(tags=["go gateway"])

_ALWAYS: Final = (40_001, 40_002, 40_006, 40_007, 40_008, 401, 403, 500, 503)
_CONFIGURATION: Final = (40_003, 40_004, 40_005, 40_901)
#: Names stay the old gateway's: the id goes by text, its sender may write it either way.
ModelId = Annotated[str, Query(alias="id", pattern="^[0-9]{1,18}$")]


def _answers(data: type[BaseModel], example: Any, *codes: int, **more: Any) -> dict[int | str, dict[str, Any]]:
    shown = {"code": 0, "message": "OK", "data": example}
    media = {"application/json": {"example": shown}}
    by_status: dict[int, list[int]] = defaultdict(list)
    for code in sorted({*_ALWAYS, *codes}):
        by_status[int(str(code)[:3])].append(code)
    described: dict[int | str, dict[str, Any]] = {
        200: {"description": "As asked.", "model": Enveloped[data], "content": media, **more}  # type: ignore[valid-type]
    }
    return {**described, **{status: _refusal(status, by_status[status]) for status in sorted(by_status)}}


def _refusal(status: int, codes: list[int]) -> dict[str, Any]:
    shown = {str(code): {"value": {"code": code, "message": CODES[code], "data": None}} for code in codes}
    described: dict[str, Any] = {
        "description": "; ".join(f"`{code}`: {CODES[code]}" for code in codes) + ".",
        "model": RefusalOut,
        "content": {"application/json": {"examples": shown}},
    }
    if status in (429, 503):
        described["headers"] = RETRY_AFTER
    return described


@router.post(
    "/model/createModel",
    summary="Make a model",
    responses=_answers(ModelIdOut, examples.MODEL_ID, *_CONFIGURATION),
)
def create_model(model: Annotated[OldModelIn, body(examples.MODEL_IN)], caller: Admin) -> None:
    """What is left out gets its default."""


@router.api_route(
    "/model/updateModel",
    methods=["PUT"],
    summary="Change a model",
    responses=_answers(Nothing, {}, 404, 409, 40_903, *_CONFIGURATION),
)
@router.api_route(
    "/model/updateModel",
    methods=["POST"],
    summary="Change a model",
    responses=_answers(Nothing, {}, 404, 409, 40_903, *_CONFIGURATION),
)
def update_model(change: Annotated[OldModelUpdate, body(examples.MODEL_UPDATE)], caller: Admin) -> None:
    """Changes only the fields given. Holds in every process within a second."""


@router.delete("/model/deleteModel", summary="Delete a model", responses=_answers(Nothing, {}, 404))
def delete_model(model_id: ModelId, caller: Admin) -> None:
    """Frees the name. Waiting tasks fail, running ones finish."""


@router.get("/model/getModel", summary="Read a model", responses=_answers(OldModelOut, examples.MODEL, 404))
def get_model(model_id: ModelId, caller: Reader) -> None:
    """The model, its apiKey masked."""


@router.post("/model/listModel", summary="List models", responses=_answers(OldModelPage, examples.MODEL_PAGE))
def list_models(wanted: Annotated[OldModelSearch, body(examples.MODEL_SEARCH)], caller: Reader) -> None:
    """Newest first."""


@router.post(
    "/task/createTask",
    summary="Create a task",
    responses=_answers(TaskIdOut, examples.TASK_ID, 404, 40_009, 40_902, 422, 429, 42_901, headers=REPLAYED),
)
def create_task(
    task: Annotated[OldTaskIn, body(examples.TASK_IN)],
    caller: Submitter,
    idempotency_key: IdempotencyHeader = None,
) -> None:
    """Accepts a task durably. Refused and nothing written when the model's queue is full or the points are used up.

    The same Idempotency-Key returns the task that it made first, even when the queue is full now; with another request
    it is refused.
    """


@router.get("/task/getTaskResult", summary="Read a task", responses=_answers(OldTaskOut, examples.TASK, 404))
def get_task_result(task_id: Annotated[str, Query(alias="taskId", min_length=1)], caller: Reader) -> None:
    """The first read of a success answers state 2 and starts the time until it is cleaned, later ones answer 4."""


@router.post("/task/getTaskBatch", summary="Read tasks", responses=_answers(TaskStates, examples.TASK_STATES))
def get_task_batch(wanted: Annotated[OldTaskIds, body(examples.TASK_IDS)], caller: Reader) -> None:
    """Up to 1,000 tasks; unknown ids are left out. Marks the successes as fetched."""


@router.post("/task/listTask", summary="List tasks", responses=_answers(OldTaskPage, examples.TASK_PAGE))
def list_tasks(wanted: Annotated[OldTaskSearch, body(examples.TASK_SEARCH)], caller: Reader) -> None:
    """Newest first. A page shows at most 16 MiB of payloads, then null."""


@router.post("/stat/listModelStat", summary="Daily counts", responses=_answers(StatPage, examples.STAT_PAGE))
def list_model_stat(wanted: Annotated[OldStatSearch, body(examples.STAT_SEARCH)], caller: Reader) -> None:
    """Calls by day, user and model; the own tenant's, or all for operators and SLUICEWAY_STAT_READERS."""
