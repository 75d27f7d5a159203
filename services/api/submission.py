"""How a task is accepted: a slot of the gate, one transaction, a hint.

Every task takes the same road, alone or in a batch; the coalescers turn neighbours into one round trip to Redis and
one transaction of PostgreSQL. What is promised to the caller:

- refused (Refused, Unavailable, a surprise): nothing was written, the slot went back;
- OutcomeUnknown: the commit's answer is lost and PostgreSQL is away. The slot stays: if the task exists it owns it,
  if not, reconcile frees it. Repeating the request with its Idempotency-Key tells;
- a repeated key is answered with the task that it made, whatever else would refuse the request now.

What a trusted peer sent along for the upload is written with the task, sealed, where an upload will need it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, assert_never
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from uuid_utils.compat import uuid7

from libs.common.domain.errors import (
    Conflict,
    Exhausted,
    GateUnavailable,
    NotFound,
    OutcomeUnknown,
    Refused,
    RowsLocked,
    Unavailable,
)
from libs.common.domain.model import Model
from libs.common.domain.quota import exhausted, points_of
from libs.common.domain.task import TaskStatus
from libs.common.domain.times import check_times
from libs.common.operations.model_cache import ModelCache
from libs.common.operations.webhooks import TaskHooks
from libs.common.ports import QueueGate, Seal, SlotRequest, SlotVerdict
from libs.common.ports_tasks import (
    Created,
    Creation,
    Credentials,
    IdempotencyKey,
    KeyOwner,
    LaneClosed,
    NewTask,
    OverQuota,
    Repeated,
)
from libs.common.runtime.coalescer import Coalescer
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter, of_model

log = get_logger()

#: A create whose account somebody has locked is tried again for so long: its neighbours' have it for milliseconds.
_PATIENCE_SECONDS: Final = 5.0
_LOCKED_PAUSE: Final = 0.1

_LONGEST_RETRY_AFTER: Final = 60


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller asks for, checked in form."""

    model: str
    payload: bytes
    biz_name: str = ""
    input_ref: str = ""
    priority: int = 0
    not_before: datetime | None = None
    start_by: datetime | None = None
    deadline: datetime | None = None
    output_count: int = 1
    webhook_url: str | None = None
    webhook_events: int = 0
    trace: str | None = None
    key: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task of the caller's. `replayed` says that an earlier request with the same key made it."""

    public_id: UUID
    status: TaskStatus
    replayed: bool = False


class Submission:
    """Accepts tasks. Its five coalescers are closed by whoever opened them."""

    def __init__(
        self,
        models: ModelCache,
        gate: QueueGate,
        slots: Coalescer[SlotRequest, SlotVerdict],
        writes: Coalescer[NewTask, Creation],
        earlier: Coalescer[NewTask, Repeated | None],
        names: Coalescer[tuple[int, str], Model | None],
        locked: Coalescer[NewTask, bool],
        *,
        zone: ZoneInfo,
        seal: Seal | None = None,
        hooks: TaskHooks | None = None,
    ) -> None:
        """Days of quota are those of `zone`; `seal` is given where uploads show what the caller sent along."""
        self._models = models
        self._gate = gate
        self._slots = slots
        self._writes = writes
        self._earlier = earlier
        self._names = names
        self._locked = locked
        self._zone = zone
        self._seal = seal
        self._hooks = hooks

    async def submit(self, caller: KeyOwner, order: Order) -> Accepted:
        """Accept one task. Raises Refused, Unavailable or OutcomeUnknown; see above for what each one promises."""
        public_id = uuid7()
        try:
            check_times(datetime.now(UTC), order.not_before, order.start_by, order.deadline)
            model = await self._open_model(caller, order.model)
            points = points_of(model, order.output_count)
            if order.webhook_url is not None and self._hooks is not None:
                await self._hooks.check(caller.tenant_id, order.webhook_url)
            await self._take_slot(model, str(public_id))
        except (Refused, GateUnavailable) as refusal:
            # Not now; but a repeated request was accepted long ago.
            earlier = await self._earlier.submit(self._new_task(public_id, 0, caller, order, 0)) if order.key else None
            if earlier is None:
                if isinstance(refusal, Exhausted):
                    _refusals(of_model(model.id)).inc()
                raise
            return _replayed(earlier, order.not_before)
        await failpoint("api/gate-taken")
        return await self._write(model, self._new_task(public_id, model.lane, caller, order, points))

    async def _open_model(self, caller: KeyOwner, name: str) -> Model:
        model = self._models.named(caller.tenant_id, name)
        if model is None:
            model = await self._names.submit((caller.tenant_id, name))
        if model is None:
            raise _model_unknown(name)
        if not model.enabled:
            raise Conflict("model_disabled", f"the model {name!r} takes no new tasks", field="/model")
        return model

    async def _take_slot(self, model: Model, member: str) -> None:
        wanted = SlotRequest(model.lane, member, model.queue_limit, model.slot_ttl_ms)
        if await self._slots.submit(wanted) is SlotVerdict.FULL:
            raise Exhausted(
                "queue_full",
                f"{model.queue_limit} tasks of the model {model.name!r} wait or run already",
                retry_after=_retry_after(model),
            )

    async def _write(self, model: Model, task: NewTask) -> Accepted:
        try:
            creation = await self._written(task)
        except OutcomeUnknown:
            raise
        except Exception:
            await self._give_back(task)
            raise
        match creation:
            case Created():
                _creations(of_model(model.id)).inc()
                log.debug("task.created", task_id=task.public_id, tenant=task.tenant_id, model=model.name)
                return Accepted(task.public_id, TaskStatus.DRAFT if creation.draft else TaskStatus.SUBMITTED)
            case Repeated():
                await self._give_back(task)
                return _replayed(creation, task.not_before)
            case LaneClosed():
                await self._give_back(task)
                raise _model_unknown(model.name)
            case OverQuota(limit, used):
                await self._give_back(task)
                _over_quota(of_model(model.id)).inc()
                raise exhausted(task.creator, task.points, limit, used, now=datetime.now(UTC), zone=self._zone)
            case _:
                assert_never(creation)

    async def _written(self, task: NewTask) -> Creation:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return await self._writes.submit(task)
            except RowsLocked:
                earlier = await self._until_freed(task, end)
                if earlier is not None:
                    return earlier

    async def _until_freed(self, task: NewTask, end: float) -> Repeated | None:
        """Wait until nobody has the account locked any more that the task is to be paid from; raises RowsLocked when
        that lasts. A repeated request has been paid for: what the earlier one made is returned at once.

        Nothing of the task is under way meanwhile: whoever is cut off here, by the end of the process, gives back.
        """
        try:
            if task.key and (earlier := await self._earlier.submit(task)) is not None:
                return earlier
            while time.monotonic() < end:
                await asyncio.sleep(_LOCKED_PAUSE)
                with suppress(Unavailable, OutcomeUnknown):
                    if not await self._locked.submit(task):
                        return None
        except asyncio.CancelledError:
            await self._give_back(task)
            raise
        raise RowsLocked("the account is locked that the task is to be paid from")

    def _new_task(self, public_id: UUID, lane: int, caller: KeyOwner, order: Order, points: int) -> NewTask:
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
            start_by=order.start_by,
            deadline=order.deadline,
            output_count=order.output_count,
            webhook_url=order.webhook_url,
            webhook_events=order.webhook_events if order.webhook_url is not None else None,
            points=points,
            trace=order.trace,
            key=order.key,
            secret=self._secret(public_id, caller.credentials),
        )

    def _secret(self, public_id: UUID, sent: Credentials | None) -> bytes | None:
        if self._seal is None or sent is None:
            return None
        shown = {"authorization": sent.authorization, "x_user_info": sent.user_info}
        return self._seal.seal(orjson.dumps(shown), f"task:{public_id}")

    async def _give_back(self, task: NewTask) -> None:
        try:
            await self._gate.release_many([(task.lane, str(task.public_id))])
        except GateUnavailable:
            log.warning("slot.leaked", lane=task.lane, task_id=task.public_id)  # reconcile finds it


def _replayed(earlier: Repeated, not_before: datetime | None) -> Accepted:
    """The first answer once more. It was a draft if its time had not come when its id was made."""
    if not earlier.same_body:
        raise Conflict("idempotency_mismatch", "this Idempotency-Key was used for another request")
    made_at = datetime.fromtimestamp((earlier.public_id.int >> 80) / 1000, UTC)  # an id is a UUID v7
    draft = not_before is not None and not_before > made_at
    return Accepted(earlier.public_id, TaskStatus.DRAFT if draft else TaskStatus.SUBMITTED, replayed=True)


def _retry_after(model: Model) -> int:
    """About when a slot comes free: calls end every expected_seconds / max_concurrency."""
    return min(max(1, -(-model.expected_seconds // model.max_concurrency)), _LONGEST_RETRY_AFTER)


def _model_unknown(name: str) -> NotFound:
    return NotFound("model_unknown", f"there is no model named {name!r}", field="/model")


@cache
def _creations(model: str) -> Any:
    return counter("sluiceway_tasks_created_total").labels(model=model)


@cache
def _refusals(model: str) -> Any:
    return counter("sluiceway_gate_refusals_total").labels(model=model)


@cache
def _over_quota(model: str) -> Any:
    return counter("sluiceway_quota_refusals_total").labels(model=model)
