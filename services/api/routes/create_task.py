"""POST /v1/tasks and POST /v1/tasks/batch: bare ASGI, because every task passes here."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias
from uuid import UUID

from starlette.types import Receive, Scope, Send

from libs.common.domain.errors import OutcomeUnknown, RowsLocked, SluicewayError, Unavailable
from libs.common.ports_tasks import KeyOwner
from libs.common.runtime.logging import get_logger
from services.api.answers import send_json
from services.api.auth import require
from services.api.bodies import until_gone
from services.api.operation_log import OperationLog, Requester, requester_of
from services.api.orders import Misformed, Orders
from services.api.parsing import Parsing
from services.api.preferences import applied, wait_seconds
from services.api.problems import Problem, pointer, problem_of
from services.api.reading import Reading
from services.api.submission import Accepted, Order, Submission
from services.api.tracing import trace_id_of
from services.api.views import accepted_view, task_view

log = get_logger()

Header: TypeAlias = tuple[bytes, bytes]


class CreateTask:
    """Answers creates, and notes each in the operation log; raises what Submission and Orders raise."""

    def __init__(
        self, submission: Submission, orders: Orders, operations: OperationLog, parsing: Parsing, reading: Reading
    ) -> None:
        self._submission = submission
        self._orders = orders
        self._operations = operations
        self._parsing = parsing
        self._reading = reading

    async def single(
        self, scope: Scope, body: bytes, caller: KeyOwner, trace: str
    ) -> tuple[dict[str, Any], list[Header]]:
        """The accepted task, to be sent with 202, and headers with its address."""
        requester, order = requester_of(scope, caller), None
        try:
            require(caller, "submit")
            key = scope["named"].get(b"idempotency-key")
            order = await self._parsing.run(caller.tenant_id, len(body), lambda: self._orders.single(body, trace, key))
            accepted = await self._submission.submit(caller, order)
        except Exception as error:
            said = error if isinstance(error, Misformed) else order
            self._refused(requester, said, body, problem_of(error), trace)
            raise
        view = self._accepted(requester, order, body, accepted)
        headers = [(b"location", b"/v1/tasks/" + view["id"].encode())]
        if accepted.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        return view, headers

    async def wait(
        self, scope: Scope, receive: Receive, caller: KeyOwner, accepted: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Header]]:
        """What became of a task that was accepted just now, within the time that `Prefer` gives it, and headers.

        Who may not read hears no more than that it is accepted, and so does everybody while it cannot be read.
        """
        seconds = wait_seconds(value.decode("latin-1") for name, value in scope["headers"] if name == b"prefer")
        if seconds is None or "read" not in caller.scopes:
            return accepted, []
        try:
            task = await self._reading.outcome(caller, UUID(accepted["id"]), seconds, lambda: until_gone(receive))
        except SluicewayError:
            return accepted, []
        return task_view(task), [(b"preference-applied", applied(seconds).encode())]

    async def batch(self, scope: Scope, body: bytes, caller: KeyOwner, trace: str, send: Send) -> None:
        """202 when all were accepted, else 207; a verdict for each task in its place. What is away for all of them is
        raised."""
        requester = requester_of(scope, caller)
        try:
            require(caller, "submit")
            key = scope["named"].get(b"idempotency-key")
            orders = await self._parsing.run(caller.tenant_id, len(body), lambda: self._orders.batch(body, trace, key))
        except Exception as error:
            self._refused(requester, None, body, problem_of(error), trace)
            raise
        items = await asyncio.gather(
            *[
                self._verdict(requester, written, order, place, caller, trace)
                for place, (written, order) in enumerate(orders)
            ]
        )
        if all(item["http_status"] == 503 for item in items):
            # Whoever looks at the status alone must not take that for an acceptance.
            raise _outage({item["problem"]["code"] for item in items})
        accepted = all(item["http_status"] == 202 for item in items)
        await send_json(send, 202 if accepted else 207, {"items": items})

    def unread(self, scope: Scope, caller: KeyOwner, problem: Problem, trace: str) -> None:
        """Note a create whose body was not even read."""
        self._refused(requester_of(scope, caller), None, b"", problem, trace)

    async def _verdict(
        self, requester: Requester, written: bytes, order: Order | Misformed, place: int, caller: KeyOwner, trace: str
    ) -> dict[str, Any]:
        try:
            if isinstance(order, Misformed):
                raise order
            accepted = await self._submission.submit(caller, order)
        except Exception as error:  # whatever it is: the neighbours' verdicts must not be lost with it
            problem = problem_of(error)
            if problem.code == "internal":
                log.error("request.failed", path="/v1/tasks/batch", trace_id=trace_id_of(trace), exc_info=True)
            inside = pointer("tasks", place)
            body = self._refused(requester, order, written, problem, trace, inside=inside)
            return {"http_status": problem.status_code, "problem": body}
        view = self._accepted(requester, order, written, accepted)
        return {"http_status": 202, **view, "replayed": accepted.replayed}

    def _accepted(self, requester: Requester, order: Order, request: bytes, accepted: Accepted) -> dict[str, Any]:
        """Note it; returns the answer."""
        view = accepted_view(str(accepted.public_id), order.model, accepted.status)
        self._operations.note(
            requester,
            request=request,
            response=view,
            model=order.model,
            biz_name=order.biz_name,
            task_id=accepted.public_id,
            replayed=accepted.replayed,
        )
        return view

    def _refused(
        self,
        requester: Requester,
        said: Order | Misformed | None,
        request: bytes,
        problem: Problem,
        trace: str,
        *,
        inside: str = "",
    ) -> dict[str, Any]:
        """Note it; returns the problem document."""
        body = problem.body(trace_id_of(trace), inside=inside)
        self._operations.note(
            requester,
            request=request,
            response=body,
            model=said.model if said is not None else "",
            biz_name=said.biz_name if said is not None else "",
            error=f"{problem.code}: {problem.detail}",
        )
        return body


def _outage(codes: set[str]) -> SluicewayError:
    """What a whole batch is refused with, of which each task was with one of these."""
    if "outcome_unknown" in codes:
        return OutcomeUnknown("the batch")
    return RowsLocked("the batch") if codes == {"rows_locked"} else Unavailable("the batch")
