"""What becomes of a slot on every way that a create can end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from uuid_utils.compat import uuid7

from libs.common.domain.errors import (
    Conflict,
    DatabaseUnavailable,
    Exhausted,
    GateUnavailable,
    Invalid,
    NotFound,
    OutcomeUnknown,
    RowsLocked,
    Unavailable,
)
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.operations.model_cache import ModelCache
from libs.common.ports import SlotRequest, SlotVerdict
from libs.common.ports_tasks import (
    Created,
    Creation,
    IdempotencyKey,
    KeyOwner,
    LaneClosed,
    NewTask,
    OverQuota,
    Repeated,
    Tasks,
)
from libs.common.runtime import metrics
from libs.common.runtime.coalescer import Coalescer
from services.api import submission, task_writer
from services.api.submission import Accepted, Order, Submission
from services.api.task_writer import TaskWriter
from tests.support.fakes_redis import FakeHints, FakeQueueGate

CALLER = KeyOwner(1, 7, "shop", frozenset({"submit"}))
MODEL = Model(id=3, lane=5, tenant_id=7, name="m", base_url="http://m", queue_limit=2)
KEY = IdempotencyKey("POST /v1/tasks", b"key", b"body")

Behaviour = Callable[[NewTask, int], Creation]


class Store:
    """Answers creates by `behave`, and remembers who owns which key."""

    def __init__(self) -> None:
        self.behave: Behaviour = created
        self.earlier: Repeated | None = None
        self.batches: list[list[NewTask]] = []
        self.looks = 0  #: at whether an account is locked

    async def create_many(self, tasks: Sequence[NewTask]) -> list[Creation]:
        self.batches.append(list(tasks))
        return [self.behave(task, number) for number, task in enumerate(tasks, 100)]

    async def earlier_many(self, tasks: Sequence[NewTask]) -> list[Repeated | None]:
        return [self.earlier for _ in tasks]

    async def locked(self, tasks: Sequence[NewTask]) -> list[bool]:
        self.looks += 1
        return [True for _ in tasks]


class NoModels:
    async def find_many(self, names: Sequence[tuple[int, str]]) -> list[Model]:
        return []


class Desk:
    """A submission over fakes."""

    def __init__(self) -> None:
        self.store, self.gate, self.hints = Store(), FakeQueueGate(), FakeHints()
        self.cache = ModelCache(cast(Any, NoModels()))
        self.cache.put(MODEL)
        self.slots: Coalescer[SlotRequest, SlotVerdict] = Coalescer(self.gate.take_many)
        self.writes: Coalescer[NewTask, Creation] = Coalescer(TaskWriter(cast(Tasks, self.store), self.hints).write)
        earlier: Coalescer[NewTask, Repeated | None] = Coalescer(self.store.earlier_many)
        names: Coalescer[tuple[int, str], Model | None] = Coalescer(self.cache.look_up)
        locked: Coalescer[NewTask, bool] = Coalescer(self.store.locked)
        self.submission = Submission(
            self.cache, self.gate, self.slots, self.writes, earlier, names, locked, zone=ZoneInfo("UTC")
        )

    async def submit(self, **order: Any) -> Accepted:
        return await self.submission.submit(CALLER, Order(**{"model": "m", "payload": b"{}", **order}))

    @property
    def taken(self) -> int:
        return self.gate.lane(MODEL.lane).count()


def created(task: NewTask, number: int) -> Creation:
    return Created(number, draft=False)


def raising(error: Exception) -> Behaviour:
    def behave(task: NewTask, number: int) -> Creation:
        raise error

    return behave


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_an_accepted_task_keeps_its_slot(desk: Desk) -> None:
    accepted = await desk.submit(trace="t", biz_name="b")
    assert (accepted.status, accepted.replayed) == (TaskStatus.SUBMITTED, False)
    ((task,),) = desk.store.batches
    assert (task.lane, task.tenant_id, task.creator, task.biz_name, task.trace) == (5, 7, "shop", "b", "t")
    assert task.public_id == accepted.public_id
    assert desk.taken == 1


@pytest.mark.parametrize(
    ("end", "raised", "slots"),
    [
        (raising(DatabaseUnavailable("away")), DatabaseUnavailable, 0),
        (raising(Unavailable("closed")), Unavailable, 0),
        (raising(OutcomeUnknown("cut")), OutcomeUnknown, 1),
        (raising(ValueError("a row that cannot be stored")), ValueError, 0),
        (lambda task, number: LaneClosed(), NotFound, 0),
        (lambda task, number: Repeated(uuid4(), same_body=False), Conflict, 0),
        (lambda task, number: OverQuota(limit=9, used=9), Exhausted, 0),
    ],
)
async def test_the_slot_goes_back_only_when_nothing_was_written(
    desk: Desk, end: Behaviour, raised: type[Exception], slots: int
) -> None:
    desk.store.behave = end
    with pytest.raises(raised):
        await desk.submit(key=KEY)
    assert desk.taken == slots


async def test_a_surprise_behind_the_commit_takes_no_slot_from_a_task_that_exists(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(changes: object) -> None:
        raise ValueError("a surprise")

    monkeypatch.setattr(desk.hints, "changed", surprise)
    with pytest.raises(OutcomeUnknown):
        await desk.submit()
    assert (desk.taken, len(desk.store.batches)) == (1, 1)


async def test_a_repeated_key_gives_its_slot_back(desk: Desk) -> None:
    first = uuid7()
    desk.store.behave = lambda task, number: Repeated(first, same_body=True)
    accepted = await desk.submit(key=KEY, not_before=datetime.fromisoformat("2020-01-01T00:00:00Z"))
    assert (accepted.public_id, accepted.replayed, accepted.status) == (first, True, TaskStatus.SUBMITTED)
    assert desk.taken == 0


@pytest.mark.parametrize("why", ["full", "disabled", "unknown", "away"])
async def test_a_repeated_key_beats_every_refusal(desk: Desk, why: str) -> None:
    first = uuid7()
    match why:
        case "full":
            for name in ("a", "b"):
                desk.gate.lane(MODEL.lane).put(name, 60_000)
            refusal: type[Exception] = Exhausted
        case "disabled":
            desk.cache.put(Model(**{**_fields(MODEL), "enabled": False, "version": 2}))
            refusal = Conflict
        case "unknown":
            desk.cache.put(Model(**{**_fields(MODEL), "deleted": True, "version": 2}))
            refusal = NotFound
        case _:
            desk.gate.available = False
            refusal = GateUnavailable
    for key in (None, KEY):
        with pytest.raises(refusal):
            await desk.submit(key=key)
    desk.store.earlier = Repeated(first, same_body=True)
    assert (await desk.submit(key=KEY)).public_id == first
    with pytest.raises(refusal):
        await desk.submit()
    assert not desk.store.batches


async def test_only_a_create_that_is_refused_counts_as_refused(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.gate.lane(MODEL.lane).put(name, 60_000)
    counted = metrics.counter("sluiceway_gate_refusals_total").labels(model=str(MODEL.id))
    before = counted._value.get()
    desk.store.earlier = Repeated(uuid7(), same_body=True)
    assert (await desk.submit(key=KEY)).replayed
    assert counted._value.get() == before
    desk.store.earlier = None
    with pytest.raises(Exhausted):
        await desk.submit(key=KEY)
    assert counted._value.get() == before + 1


async def test_a_repeated_key_is_answered_when_its_times_have_passed_meanwhile(desk: Desk) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(Invalid):
        await desk.submit(deadline=past)
    desk.store.earlier = Repeated(uuid7(), same_body=True)
    assert (await desk.submit(key=KEY, deadline=past)).replayed
    assert (desk.taken, desk.store.batches) == (0, [])


async def test_a_task_costs_the_models_price_for_each_output(desk: Desk) -> None:
    desk.cache.put(Model(**{**_fields(MODEL), "price": 7, "version": 2}))
    await desk.submit(output_count=3)
    ((task,),) = desk.store.batches
    assert (task.points, task.output_count) == (21, 3)
    desk.cache.put(Model(**{**_fields(MODEL), "price": 2**31 - 1, "version": 3}))
    with pytest.raises(Invalid):
        await desk.submit(output_count=2)
    assert desk.taken == 1


async def test_a_stopping_process_gives_the_slot_back(desk: Desk) -> None:
    await desk.writes.close(1)
    with pytest.raises(Unavailable):
        await desk.submit()
    assert desk.taken == 0


async def test_neighbours_share_a_flush_and_a_hint(desk: Desk) -> None:
    desk.cache.put(Model(**{**_fields(MODEL), "queue_limit": 50, "version": 2}))
    await asyncio.gather(*[desk.submit(priority=priority) for priority in (5, 2, 2, 9)])
    assert [len(batch) for batch in desk.store.batches] == [4]
    assert desk.hints.lines == [("sw:dispatch", "5 1 2 101")]


async def test_a_slow_commit_lets_its_callers_go_and_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_writer, "_WRITE_SECONDS", 0.05)
    go_on = asyncio.Event()
    prompt = desk.store.create_many

    async def slow(tasks: Sequence[NewTask]) -> list[Creation]:
        await go_on.wait()
        return await prompt(tasks)

    monkeypatch.setattr(desk.store, "create_many", slow)
    with pytest.raises(OutcomeUnknown):
        await desk.submit()
    assert desk.taken == 1
    (late,) = (task for task in asyncio.all_tasks() if task.get_name() == "create-tasks")
    go_on.set()
    await asyncio.wait_for(late, 2)
    assert desk.hints.lines == [("sw:dispatch", "5 1 0 100")]


def _fields(model: Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in Model.__slots__}


async def test_a_create_whose_account_somebody_keeps_locked_is_refused_in_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_PATIENCE_SECONDS", 0.3)
    desk.store.behave = raising(RowsLocked())
    with pytest.raises(RowsLocked):
        await desk.submit()
    assert len(desk.store.batches) == 1, "it is not tried while it is locked"
    assert desk.taken == 0


async def test_a_create_that_is_cut_off_while_it_waits_for_its_account_gives_its_slot_back(desk: Desk) -> None:
    desk.store.behave = raising(RowsLocked())
    creating = asyncio.create_task(desk.submit())
    async with asyncio.timeout(5):
        while not desk.store.looks:
            await asyncio.sleep(0.01)
    assert desk.taken == 1
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert desk.taken == 0
