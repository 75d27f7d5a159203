"""The operation log: every attempt to create a task, kept in memory for a moment and written together.

A create never waits for it and never fails by it. What an accepted create loses here (the process is killed, memory
is bounded) the janitor writes from the task itself; a refused one may lose the last 200 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple
from uuid import UUID

from starlette.types import Scope

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.domain.texts import storable
from libs.common.ports_operations import Operation, Operations
from libs.common.ports_tasks import KeyOwner
from libs.common.runtime.body_redaction import kept_body
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter
from services.api.views import encoded

log = get_logger()

#: Bytes of a request and of an answer that are kept.
REQUEST_BYTES: Final = 4_096
RESPONSE_BYTES: Final = 1_024
_GATHER_SECONDS: Final = 0.1
_AWAY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 3.0
_FLUSH: Final = 500
#: Entries that wait at most: what comes on top is dropped and counted.
_MOST: Final = 10_000
#: Masking one body takes microseconds, unless it is full of secrets: the loop breathes after so much of it.
_BREATH_SECONDS: Final = 0.002
_NAME_LIMIT: Final = 512
_ERROR_LIMIT: Final = 2_000
_HEADER_LIMIT: Final = 256


class Requester(NamedTuple):
    """Who asks for a task, from where, by which route; `began` by time.perf_counter."""

    tenant_id: int
    creator: str
    ip: str
    user_agent: bytes
    path: str
    method: str
    began: float


def requester_of(scope: Scope, caller: KeyOwner) -> Requester:
    """Who sends a request of ours."""
    peer = scope["client"]
    address = scope.get("sender") or (peer[0] if peer else "")
    agent = scope["named"].get(b"user-agent", b"")[:_HEADER_LIMIT]
    return Requester(caller.tenant_id, caller.name, address, agent, scope["path"], scope["method"], scope["began"])


class _Noted(NamedTuple):
    """An attempt as it was noted; everything that costs time is done when it is written."""

    requester: Requester
    at: float
    model: str
    biz_name: str
    task_id: UUID | None
    replayed: bool
    error: str
    request: bytes
    request_bytes: int
    response: bytes


class OperationLog:
    """Takes notes, and writes them."""

    def __init__(self, operations: Operations, *, is_data_error: Callable[[BaseException], bool]) -> None:
        self._operations = operations
        self._is_data_error = is_data_error
        self._noted: list[_Noted] = []
        self._some = asyncio.Event()

    def note(
        self,
        requester: Requester,
        *,
        request: bytes,
        response: Any,
        model: str = "",
        biz_name: str = "",
        task_id: UUID | None = None,
        replayed: bool = False,
        error: str = "",
    ) -> None:
        """Remember one attempt: accepted with its task, else refused with its error. `response` is the document that
        answers it; it is kept as it is, so nothing in it may be secret.

        Everything is cut here: there may be many while PostgreSQL is away, and what strangers send may be large."""
        noted = self._noted
        if len(noted) >= _MOST:
            counter("sluiceway_operations_dropped_total").inc()
            return
        noted.append(
            _Noted(
                requester, time.perf_counter(), model, biz_name, task_id, replayed, error[:_ERROR_LIMIT],
                request[:REQUEST_BYTES], len(request), encoded(response)[:RESPONSE_BYTES],
            )
        )  # fmt: skip
        if len(noted) == 1:
            self._some.set()

    async def run(self) -> None:
        """Write what is noted, within 200 ms while PostgreSQL answers; until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            try:
                await self._flush()
            except Unavailable:
                await asyncio.sleep(_AWAY_SECONDS)

    async def close(self) -> None:
        """Write what is left, if PostgreSQL takes it in time."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._flush()
        except (TimeoutError, Unavailable):
            log.warning("operations.unwritten", rows=len(self._noted))

    async def _flush(self) -> None:
        """Raises Unavailable and keeps what is not written yet; nothing is kept that cannot be written."""
        while self._noted:
            await self._carry(self._noted[:_FLUSH])
        self._some.clear()

    async def _carry(self, batch: Sequence[_Noted]) -> None:
        """Write the oldest entries and forget them. One that cannot be stored costs its neighbours nothing: the batch
        is halved until it stands alone."""
        try:
            await failpoint("api/before-operations")
            await self._add(await _fit(batch))
        except Unavailable:
            raise
        except Exception as error:
            if len(batch) > 1 and self._is_data_error(error):
                half = len(batch) // 2
                await self._carry(batch[:half])
                await self._carry(batch[half:])
                return
            log.error("operations.dropped", rows=len(batch), error=type(error).__name__, exc_info=True)
            counter("sluiceway_operations_dropped_total").inc(len(batch))
        del self._noted[: len(batch)]

    async def _add(self, rows: Sequence[Operation]) -> None:
        try:
            await self._operations.add_many(rows)
        except OutcomeUnknown:
            # Perhaps they are written. Those of tasks can be written again, each has one entry; the refused cannot.
            accepted = [row for row in rows if row.success and not row.replayed]
            counter("sluiceway_operations_dropped_total").inc(len(rows) - len(accepted))
            await failpoint("api/before-operations")
            with contextlib.suppress(OutcomeUnknown):  # what is lost again is the janitor's
                await self._operations.add_many(accepted)


@asynccontextmanager
async def open_operation_log(
    operations: Operations, *, is_data_error: Callable[[BaseException], bool]
) -> AsyncIterator[OperationLog]:
    """A log that writes beside the requests, and what is left at the end."""
    opened = OperationLog(operations, is_data_error=is_data_error)
    writing = asyncio.create_task(opened.run(), name="operation-log")
    try:
        yield opened
    finally:
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        await opened.close()


async def _fit(batch: Sequence[_Noted]) -> list[Operation]:
    rows, now = [], time.perf_counter()
    breathed = now
    for noted in batch:
        rows.append(_operation(noted, now))
        if time.perf_counter() - breathed > _BREATH_SECONDS:
            await asyncio.sleep(0)
            breathed = time.perf_counter()
    return rows


def _operation(noted: _Noted, now: float) -> Operation:
    requester = noted.requester
    return Operation(
        requester.tenant_id,
        now - noted.at,
        storable(requester.creator),
        requester.ip,
        storable(requester.user_agent.decode("latin-1")),
        requester.path[:_HEADER_LIMIT],
        requester.method,
        storable(noted.biz_name[:_NAME_LIMIT]),
        storable(noted.model[:_NAME_LIMIT]),
        noted.task_id,
        noted.task_id is not None,
        noted.replayed,
        storable(noted.error),
        int((noted.at - requester.began) * 1_000),
        kept_body(noted.request, REQUEST_BYTES, of=noted.request_bytes),
        noted.response.decode("utf-8", "replace"),
    )
