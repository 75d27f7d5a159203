"""/task/...: tasks as the old gateway's callers create and read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from libs.common.domain.errors import NotFound
from libs.common.domain.ids import parse_task_id, parse_task_ids
from libs.common.domain.task import Compact, TaskStatus, compact
from libs.common.ports_legacy import LegacyRows, TaskSearch
from services.api.legacy.face import CREATE, Asked, Replayed
from services.api.legacy.given import Given, required
from services.api.legacy.rows import Rows
from services.api.orders import key_of
from services.api.parsing import Parsing
from services.api.problems import Problem
from services.api.reading import Reading
from services.api.schemas import BATCH_LIMIT, BIZ_NAME_LIMIT, INPUT_REF_LIMIT, NAME_LIMIT
from services.api.submission import Order, Submission

_KEYS_ROUTE: Final = f"POST {CREATE}"
_ID_LIMIT: Final = 64
_STATES: Final = {
    state: [status for status in TaskStatus if state in (compact(status, fetched=False), compact(status, fetched=True))]
    for state in Compact
}


class LegacyTasks:
    """Answers /task/...; raises what Submission and Reading raise."""

    def __init__(
        self,
        submission: Submission,
        reading: Reading,
        stored: LegacyRows,
        rows: Rows,
        parsing: Parsing,
        *,
        payload_limit: int,
    ) -> None:
        self._submission = submission
        self._reading = reading
        self._stored = stored
        self._rows = rows
        self._parsing = parsing
        self._payload_limit = payload_limit

    async def create(self, asked: Asked) -> dict[str, Any]:
        """POST /task/createTask: the road of /v1, under the old names."""
        order = await self._parsing.run(asked.caller.tenant_id, asked.size, lambda: self._order(asked))
        accepted = await self._submission.submit(asked.caller, order)
        data = {"taskId": str(accepted.public_id)}
        return Replayed(data) if accepted.replayed else data

    async def result(self, asked: Asked) -> dict[str, Any]:
        """GET /task/getTaskResult: the first read of a success answers state 2, later ones 4."""
        public_id = parse_task_id(required(asked.given.text("taskId", _ID_LIMIT), "taskId"))
        row = await self._stored.task(asked.caller.tenant_id, public_id) if public_id else None
        if row is None:
            raise NotFound("task_unknown", "there is no such task")
        if row.status is TaskStatus.SUCCESS and row.fetched_at is None:
            first = await self._reading.mark_fetched(asked.caller, [row.public_id])
            if not first:  # another caller read it meanwhile: this read is a later one
                row = await self._stored.task(asked.caller.tenant_id, row.public_id) or row
        return self._rows.task(row)

    async def batch(self, asked: Asked) -> dict[str, Any]:
        """POST /task/getTaskBatch"""
        ids = parse_task_ids(required(asked.given.texts("taskIds", BATCH_LIMIT), "taskIds"))
        tasks = await self._reading.several(asked.caller, ids) if ids else []
        return {
            "list": [
                {
                    "taskId": str(task.public_id),
                    "state": int(compact(task.status, fetched=task.fetched_at is not None)),
                    "ossFile": task.oss_file or "",
                }
                for task in tasks
            ]
        }

    async def page(self, asked: Asked) -> dict[str, Any]:
        """POST /task/listTask"""
        page = asked.given.page()
        rows, total = await self._stored.tasks(asked.caller.tenant_id, _search(asked.given), page.offset, page.limit)
        return {"list": [self._rows.task(row) for row in rows], "total": total}

    def _order(self, asked: Asked) -> Order:
        given = asked.given
        payload = given.payload("requestPayload")
        if len(payload) > self._payload_limit:
            raise Problem("payload_too_large", f"requestPayload may have at most {self._payload_limit} bytes")
        order = Order(
            model=required(given.text("modelName", NAME_LIMIT), "modelName"),
            payload=payload,
            biz_name=given.text("bizName", BIZ_NAME_LIMIT) or "",
            input_ref=given.text("inputRef", INPUT_REF_LIMIT) or "",
            trace=asked.trace,
        )
        if asked.key is None:
            return order
        return replace(order, key=key_of(_KEYS_ROUTE, asked.key, _meaning(order)))


def _meaning(order: Order) -> bytes:
    """What makes two requests the same, as a form, a query or JSON: names are spelt in many ways, values in one."""
    return repr((order.model, order.biz_name, order.input_ref, order.payload)).encode("utf-8", "backslashreplace")


def _search(given: Given) -> TaskSearch:
    model_name = given.text("modelName", NAME_LIMIT) or ""
    task_id = (given.text("taskId", _ID_LIMIT) or "").lower()
    number = given.number("state")
    if number is None:
        return TaskSearch(model_name, task_id)
    if number not in list(Compact):
        raise Problem("invalid", f"state must be one of 0 to {max(Compact)}")
    state = Compact(number)
    fetched = {Compact.SUCCESS: False, Compact.FETCHED: True}.get(state)
    return TaskSearch(model_name, task_id, _STATES[state], fetched)
