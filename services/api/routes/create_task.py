"""POST /v1/tasks and POST /v1/tasks/batch: bare ASGI, because every task passes here."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Scope, Send

from libs.common.ports_tasks import KeyOwner
from libs.common.runtime.logging import get_logger
from services.api.answers import send_json
from services.api.auth import require
from services.api.orders import Orders
from services.api.problems import Problem, pointer, problem_of
from services.api.submission import Order, Submission
from services.api.tracing import trace_id_of
from services.api.views import accepted_view

log = get_logger()


class CreateTask:
    """Answers creates; raises what Submission and Orders raise."""

    def __init__(self, submission: Submission, orders: Orders) -> None:
        self._submission = submission
        self._orders = orders

    async def single(self, scope: Scope, body: bytes, caller: KeyOwner, trace: str, send: Send) -> None:
        """202 with the task's address."""
        require(caller, "submit")
        order = self._orders.single(body, trace, scope["named"].get(b"idempotency-key"))
        accepted = await self._submission.submit(caller, order)
        task_id = str(accepted.public_id)
        headers = [(b"location", b"/v1/tasks/" + task_id.encode())]
        if accepted.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        await send_json(send, 202, accepted_view(task_id, order.model, accepted.status), headers)

    async def batch(self, scope: Scope, body: bytes, caller: KeyOwner, trace: str, send: Send) -> None:
        """202 when all were accepted, else 207; a verdict for each task in its place."""
        require(caller, "submit")
        orders = self._orders.batch(body, trace, scope["named"].get(b"idempotency-key"))
        items = await asyncio.gather(
            *[self._verdict(order, place, caller, trace) for place, order in enumerate(orders)]
        )
        accepted = all(item["http_status"] == 202 for item in items)
        await send_json(send, 202 if accepted else 207, {"items": items})

    async def _verdict(self, order: Order | Problem, place: int, caller: KeyOwner, trace: str) -> dict[str, Any]:
        try:
            if isinstance(order, Problem):
                raise order
            accepted = await self._submission.submit(caller, order)
        except Exception as error:  # whatever it is: the neighbours' verdicts must not be lost with it
            problem = problem_of(error)
            if problem.code == "internal":
                log.error("request.failed", path="/v1/tasks/batch", trace_id=trace_id_of(trace), exc_info=True)
            body = problem.body(trace_id_of(trace), inside=pointer("tasks", place))
            return {"http_status": problem.status_code, "problem": body}
        view = accepted_view(str(accepted.public_id), order.model, accepted.status)
        return {"http_status": 202, **view, "replayed": accepted.replayed}
