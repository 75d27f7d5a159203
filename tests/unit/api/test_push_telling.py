"""What a stream tells: heartbeats, the end of a right, a reader that takes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from libs.common.domain.errors import DatabaseUnavailable, Unavailable
from libs.common.domain.task import TaskStatus
from libs.common.ports_push import TaskState
from libs.common.ports_tasks import KeyOwner
from services.api.problems import Problem
from services.api.push import stream as streams
from services.api.push.asked import TaskAsked, TenantAsked
from services.api.push.hub import Hub
from services.api.push.news import News
from services.api.push.stream import Stream, Wanted
from services.api.push.telling import _PAGE, Line, Telling
from tests.support.waiting import until

TASK = UUID("01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10")
NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
CALLER = KeyOwner(1, 7, "shop", frozenset({"read"}))
STATE = TaskState(
    id=1, public_id=TASK, tenant_id=7, model_name="m", status=TaskStatus.SUBMITTED, version=1, attempt=0, open=True,
    unit_progress=None, error_code=None, error_message=None, created_at=NOW, at=NOW, read_at=NOW,
)  # fmt: skip


@dataclass
class FakeStates:
    """Implements ports_push.TaskStates over one task."""

    state: TaskState = STATE
    reads: int = 0

    async def by_ids(self, tasks: Sequence[tuple[int, int]]) -> list[TaskState]:
        self.reads += 1
        return [self.state] if (7, 1) in tasks else []

    async def find(self, tenant_id: int, public_id: UUID) -> TaskState | None:
        return self.state if (tenant_id, public_id) == (7, TASK) else None

    async def newest(self, tenant_id: int, before: int | None, limit: int) -> list[TaskState]:
        return [self.state] if tenant_id == 7 and before is None else []


class FakeAudience:
    """Implements ports.Audience inside one process."""

    def __init__(self) -> None:
        self.tenants: set[int] = set()
        self.say: Callable[[int, list[int]], None] = lambda tenant, tasks: None

    async def join(self, tenant_id: int) -> None:
        self.tenants.add(tenant_id)

    async def leave(self, tenant_id: int) -> None:
        self.tenants.discard(tenant_id)

    async def run(self, on_changes: Callable[[int, list[int]], None], on_gap: Callable[[], None]) -> None:
        self.say = on_changes
        await asyncio.get_running_loop().create_future()


@dataclass
class FakeOutlet:
    """Implements telling.Outlet; `deaf` takes nothing, and aborting wakes who sends."""

    lines: list[Line] = field(default_factory=list)
    beats: int = 0
    places: list[str] = field(default_factory=list)  #: said without news
    caught: list[dict[str, Any]] = field(default_factory=list)
    begun: bool = False
    ended: bool = False
    barred: bool = False
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    deaf: bool = False

    async def begin(self, stream: Stream, place: str) -> None:
        self.begun = True
        self.places.append(place)

    async def news(self, lines: Sequence[Line]) -> None:
        if self.deaf:
            await self.aborted.wait()
        self.lines += lines

    async def caught_up(self, document: dict[str, Any], place: str) -> None:
        self.caught.append(document)

    async def beat(self, place: str) -> None:
        self.beats += 1
        self.places.append(place)

    async def end(self, stream: Stream) -> None:
        self.ended, self.barred = True, stream.barred

    def abort(self) -> None:
        self.aborted.set()


class Bench:
    """A hub over fakes."""

    def __init__(self) -> None:
        self.states, self.audience = FakeStates(), FakeAudience()
        self.hub = Hub(self.states, self.audience, most=10)
        self.telling = Telling(self.hub, heartbeat_seconds=0.01)

    def moves(self, status: TaskStatus, **more: Any) -> None:
        """The task changes, with its hint."""
        self.states.state = replace(self.states.state, status=status, version=self.states.state.version + 1, **more)
        self.audience.say(7, [1])


@pytest.fixture
async def bench() -> Any:
    bench = Bench()
    running = asyncio.create_task(bench.hub.run())
    yield bench
    running.cancel()
    await asyncio.wait([running])


async def welcome() -> None:
    """Still."""


async def test_a_silent_stream_beats_and_goes_on(bench: Bench) -> None:
    outlet = FakeOutlet()
    telling = asyncio.create_task(bench.telling.task(CALLER, TaskAsked(TASK), outlet, welcome))
    await until(lambda: outlet.beats >= 3)
    bench.moves(TaskStatus.SUCCESS, open=False)
    assert await telling
    assert [news.place_in_task for news, _ in outlet.lines] == [f"{TASK}:1", f"{TASK}:2"]
    assert outlet.ended
    assert not bench.audience.tenants
    assert bench.hub.open == 0


async def test_a_silent_stream_of_a_tenant_says_where_to_come_back_to(bench: Bench) -> None:
    outlet = FakeOutlet()
    telling = asyncio.create_task(bench.telling.tenant(CALLER, TenantAsked(Wanted()), outlet, welcome))
    await until(lambda: outlet.beats >= 1)
    assert set(outlet.places) == {"2026-11-23T09:00:00.000Z"}
    bench.moves(TaskStatus.QUEUED, read_at=NOW + timedelta(minutes=1))
    await until(lambda: outlet.places[-1] == "2026-11-23T09:01:00.000Z")  # never back behind what it was told
    bench.states.state = replace(bench.states.state, read_at=NOW + timedelta(minutes=5))
    await until(lambda: outlet.places[-1] == "2026-11-23T09:04:50.000Z", seconds=10)  # a look went on
    bench.hub.close()
    await telling
    assert outlet.places == sorted(outlet.places)


@pytest.mark.parametrize("over", [Problem("unauthenticated", "revoked"), None])
async def test_who_loses_the_right_to_listen_is_told_no_more(bench: Bench, over: Problem | None) -> None:
    outlet = FakeOutlet()
    asked = 0

    async def still() -> None:
        nonlocal asked
        asked += 1
        if over is not None and asked > 2:
            raise over
        raise DatabaseUnavailable("nobody can tell")  # no reason to end it

    telling = asyncio.create_task(bench.telling.tenant(CALLER, TenantAsked(Wanted()), outlet, still))
    await until(lambda: asked > 3 or telling.done())
    if over is None:
        assert not telling.done()
        bench.hub.close()
    await telling
    assert outlet.ended
    assert bench.hub.open == 0


class Forbidding:
    """A right that ends."""

    def __init__(self) -> None:
        self.gone = False

    async def still(self) -> None:
        if self.gone:
            raise Problem("unauthenticated", "revoked")


@pytest.mark.parametrize("quiet", [True, False])
async def test_a_right_that_ends_is_noticed_within_one_interval_however_much_is_told(bench: Bench, quiet: bool) -> None:
    outlet, forbidding, loop = FakeOutlet(), Forbidding(), asyncio.get_running_loop()
    telling = Telling(bench.hub, heartbeat_seconds=0.5)
    began = loop.time()
    listening = asyncio.create_task(telling.tenant(CALLER, TenantAsked(Wanted()), outlet, forbidding.still))
    await until(lambda: outlet.begun)
    forbidding.gone = True
    if not quiet:
        await asyncio.sleep(0.4)
        bench.moves(TaskStatus.QUEUED)
    await listening
    assert loop.time() - began < 0.75
    assert (outlet.ended, outlet.barred, len(outlet.lines)) == (True, True, 0 if quiet else 1)


async def test_who_catches_up_slowly_is_told_no_more_once_his_right_has_ended(bench: Bench) -> None:
    outlet, forbidding = FakeOutlet(), Forbidding()
    forbidding.gone = True
    telling = Telling(bench.hub, heartbeat_seconds=0.0)
    await telling.tenant(CALLER, TenantAsked(Wanted(), NOW), outlet, forbidding.still)
    assert (outlet.lines, outlet.caught, outlet.barred) == ([], [], True)


async def test_a_reader_that_takes_nothing_is_dropped_with_what_waits_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST_WAITING", 3)
    outlet = FakeOutlet(deaf=True)
    telling = asyncio.create_task(bench.telling.tenant(CALLER, TenantAsked(Wanted()), outlet, welcome))
    await until(lambda: outlet.begun)
    for _ in range(6):
        reads = bench.states.reads
        bench.moves(TaskStatus.SUBMITTED)
        # nothing is read any more once the only reader has been dropped
        await until(lambda reads=reads: bench.states.reads > reads or telling.done())  # type: ignore[misc]
    await telling
    assert outlet.aborted.is_set()
    assert not outlet.ended
    assert bench.hub.open == 0


async def test_who_enters_while_the_process_stops_is_let_go(bench: Bench) -> None:
    joins, may_join = asyncio.Event(), asyncio.Event()
    join = bench.audience.join

    async def slowly(tenant_id: int) -> None:
        await join(tenant_id)
        joins.set()
        await may_join.wait()

    bench.audience.join = slowly  # type: ignore[method-assign]
    outlet = FakeOutlet()
    telling = asyncio.create_task(bench.telling.tenant(CALLER, TenantAsked(Wanted()), outlet, welcome))
    await joins.wait()
    bench.hub.close()
    may_join.set()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(telling, 2)
    assert not outlet.begun
    assert not bench.audience.tenants
    assert bench.hub.open == 0


async def test_who_could_not_catch_up_is_told_nothing_newer(bench: Bench) -> None:
    """Its place would be behind what it was not told: whoever comes back from there never hears of that."""
    outlet, asked = FakeOutlet(), asyncio.Event()

    async def away(tenant_id: int, before: int | None, limit: int) -> list[TaskState]:
        if limit != _PAGE:
            return []
        asked.set()
        await until(lambda: any(stream._waiting for stream in bench.hub._circles[7].streams))
        raise DatabaseUnavailable("away")

    bench.states.newest = away  # type: ignore[method-assign]
    telling = asyncio.create_task(bench.telling.tenant(CALLER, TenantAsked(Wanted(), NOW), outlet, welcome))
    await asked.wait()
    bench.moves(TaskStatus.QUEUED)
    await telling
    assert (outlet.lines, outlet.caught, outlet.ended) == ([], [], True)


async def test_who_catches_up_and_takes_nothing_holds_up_no_other_tenant() -> None:
    hub = Hub(FakeStates(), FakeAudience(), most=100)
    telling, back = Telling(hub), TenantAsked(Wanted(), NOW)
    deaf = [FakeOutlet(deaf=True) for _ in range(20)]
    stuck = [asyncio.create_task(telling.tenant(CALLER, back, outlet, welcome)) for outlet in deaf]
    await until(lambda: all(outlet.begun for outlet in deaf))
    await asyncio.sleep(0.05)
    outlet = FakeOutlet()
    other = asyncio.create_task(telling.tenant(replace(CALLER, tenant_id=8), back, outlet, welcome))
    await until(lambda: len(outlet.caught) == 1)
    for task in (*stuck, other):
        task.cancel()
    await asyncio.wait([*stuck, other])


async def test_a_stream_keeps_the_order_and_drops_what_it_was_told_before() -> None:
    stream = Stream(7)
    older, newer = News.of(STATE), News.of(replace(STATE, version=2))
    assert stream.tell(1, older.stage)
    assert not stream.tell(1, older.stage)
    stream.offer(older)
    stream.offer(newer)
    assert await stream.next(1) == [newer]
    stream.forget()
    stream.offer(older)
    stream.close()
    stream.offer(newer)
    assert await stream.next(1) == [older]
    assert await stream.next(1) is None
