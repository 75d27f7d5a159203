"""How a task is accepted: a slot of the gate, one transaction, a hint.

Every task takes the same road, alone or in a batch; the coalescers turn neighbours into one round trip to Redis and
one transaction of PostgreSQL. What is promised to the caller:

- refused (Refused, Unavailable): nothing was written, the slot went back;
- OutcomeUnknown: the commit's answer is lost and PostgreSQL is away. The slot stays: if the task exists it owns it,
  if not, reconcile frees it. Repeating the request with its Idempotency-Key tells;
- a repeated key is answered with the task that it made, whatever else would refuse the request now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, assert_never
from uuid import UUID

from uuid_utils.compat import uuid7

from libs.common.domain.errors import (
    Conflict,
    Exhausted,
    GateUnavailable,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Refused,
    Unavailable,
)
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.operations.model_cache import ModelCache
from libs.common.ports import Hints, QueueGate, SlotRequest, SlotVerdict
from libs.common.ports_tasks import (
    Created,
    Creation,
    IdempotencyKey,
    KeyOwner,
    LaneClosed,
    NewTask,
    Repeated,
    Tasks,
)
from libs.common.runtime.coalescer import Coalescer
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter

log = get_logger()

_LATEST: Final = timedelta(days=366)
_LONGEST_RETRY_AFTER: Final = 60
_WRITE_SECONDS: Final = 5.0  #: longer than any healthy commit, shorter than a caller's patience
_FRESH: Final = 1  #: the class of tasks that never ran, in dispatch hints


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller asks for, checked in form."""

    model: str
    payload: bytes
    biz_name: str = ""
    input_ref: str = ""
    priority: int = 0
    not_before: datetime | None = None
    trace: str | None = None
    key: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task of the caller's. `replayed` says that an earlier request with the same key made it."""

    public_id: UUID
    status: TaskStatus
    replayed: bool = False


class Submission:
    """Accepts tasks. Its three coalescers are closed by whoever opened them."""

    def __init__(
        self,
        models: ModelCache,
        gate: QueueGate,
        slots: Coalescer[SlotRequest, SlotVerdict],
        writes: Coalescer[NewTask, Creation],
        earlier: Coalescer[NewTask, Repeated | None],
    ) -> None:
        self._models = models
        self._gate = gate
        self._slots = slots
        self._writes = writes
        self._earlier = earlier

    async def submit(self, caller: KeyOwner, order: Order) -> Accepted:
        """Accept one task. Raises Refused, Unavailable or OutcomeUnknown; see above for what each one promises."""
        _check_time(order)
        public_id = uuid7()
        try:
            model = await self._open_model(caller, order.model)
            await self._take_slot(model, str(public_id))
        except (Refused, GateUnavailable):
            # Not now; but a repeated request was accepted long ago.
            earlier = await self._earlier.submit(_new_task(public_id, 0, caller, order)) if order.key else None
            if earlier is None:
                raise
            return _replayed(earlier, order)
        await failpoint("api/gate-taken")
        return await self._write(model, _new_task(public_id, model.lane, caller, order), order)

    async def _open_model(self, caller: KeyOwner, name: str) -> Model:
        model = await self._models.by_name(caller.tenant_id, name)
        if model is None:
            raise _model_unknown(name)
        if not model.enabled:
            raise Conflict("model_disabled", f"the model {name!r} takes no new tasks", field="/model")
        return model

    async def _take_slot(self, model: Model, member: str) -> None:
        wanted = SlotRequest(model.lane, member, model.queue_limit, model.slot_ttl_ms)
        if await self._slots.submit(wanted) is SlotVerdict.FULL:
            _refusals(model.id).inc()
            raise Exhausted(
                "queue_full",
                f"{model.queue_limit} tasks of the model {model.name!r} wait or run already",
                retry_after=_retry_after(model),
            )

    async def _write(self, model: Model, task: NewTask, order: Order) -> Accepted:
        try:
            creation = await self._writes.submit(task)
        except Unavailable:
            await self._give_back(task)
            raise
        match creation:
            case Created():
                _creations(model.id).inc()
                log.debug("task.created", task_id=task.public_id, tenant=task.tenant_id, model=model.name)
                return Accepted(task.public_id, TaskStatus.DRAFT if creation.draft else TaskStatus.SUBMITTED)
            case Repeated():
                await self._give_back(task)
                return _replayed(creation, order)
            case LaneClosed():
                await self._give_back(task)
                raise _model_unknown(order.model)
            case _:
                assert_never(creation)

    async def _give_back(self, task: NewTask) -> None:
        try:
            await self._gate.release_many([(task.lane, str(task.public_id))])
        except GateUnavailable:
            log.warning("slot.leaked", lane=task.lane, task_id=task.public_id)  # reconcile finds it


class TaskWriter:
    """The flush behind the creates: one transaction, then one hint for each lane that got something to do."""

    def __init__(self, tasks: Tasks, hints: Hints) -> None:
        self._tasks = tasks
        self._hints = hints
        self._writing: set[asyncio.Task[list[Creation]]] = set()

    async def write(self, batch: Sequence[NewTask]) -> list[Creation]:
        """All tasks of the batch in one transaction; raises what Tasks.create_many raises.

        OutcomeUnknown also when PostgreSQL is slow: the transaction goes on, its callers are not kept waiting.
        """
        writing = asyncio.create_task(self._commit(batch), name="create-tasks")
        self._writing.add(writing)
        writing.add_done_callback(self._settled)
        done, _ = await asyncio.wait([writing], timeout=_WRITE_SECONDS)
        if not done:
            raise OutcomeUnknown("PostgreSQL takes too long")
        return writing.result()

    async def _commit(self, batch: Sequence[NewTask]) -> list[Creation]:
        await failpoint("api/before-commit")
        creations = await self._tasks.create_many(batch)
        await failpoint("api/after-commit")
        self._nudge(batch, creations)
        return creations

    def _settled(self, writing: asyncio.Task[list[Creation]]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()  # seen; its callers may have been told that nobody knows

    def _nudge(self, batch: Sequence[NewTask], creations: Sequence[Creation]) -> None:
        lowest: dict[int, tuple[int, int]] = {}
        for task, creation in zip(batch, creations, strict=True):
            if isinstance(creation, Created) and not creation.draft:
                place = (task.priority, creation.id)
                lowest[task.lane] = min(place, lowest.get(task.lane, place))
        for lane, (priority, position) in lowest.items():
            self._hints.publish_soon("sw:dispatch", f"{lane} {_FRESH} {priority} {position}")


def _check_time(order: Order) -> None:
    if order.not_before is not None and order.not_before - datetime.now(UTC) > _LATEST:
        raise Invalid("invalid", "not_before is more than a year ahead", field="/not_before")


def _new_task(public_id: UUID, lane: int, caller: KeyOwner, order: Order) -> NewTask:
    return NewTask(
        public_id=public_id,
        tenant_id=caller.tenant_id,
        lane=lane,
        payload=order.payload,
        creator=caller.name,
        biz_name=order.biz_name,
        input_ref=order.input_ref,
        priority=order.priority,
        not_before=order.not_before,
        trace=order.trace,
        key=order.key,
    )


def _replayed(earlier: Repeated, order: Order) -> Accepted:
    """The first answer once more. It was a draft if its time had not come when its id was made."""
    if not earlier.same_body:
        raise Conflict("idempotency_mismatch", "this Idempotency-Key was used for another request")
    made_at = datetime.fromtimestamp((earlier.public_id.int >> 80) / 1000, UTC)  # an id is a UUID v7
    draft = order.not_before is not None and order.not_before > made_at
    return Accepted(earlier.public_id, TaskStatus.DRAFT if draft else TaskStatus.SUBMITTED, replayed=True)


def _retry_after(model: Model) -> int:
    """About when a slot comes free: calls end every expected_seconds / max_concurrency."""
    return min(max(1, -(-model.expected_seconds // model.max_concurrency)), _LONGEST_RETRY_AFTER)


def _model_unknown(name: str) -> NotFound:
    return NotFound("model_unknown", f"there is no model named {name!r}", field="/model")


@cache
def _creations(model_id: int) -> Any:
    return counter("sluiceway_tasks_created_total").labels(model=str(model_id))


@cache
def _refusals(model_id: int) -> Any:
    return counter("sluiceway_gate_refusals_total").labels(model=str(model_id))
