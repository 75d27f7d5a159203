"""The read loop: what waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from libs.common.contracts.dispatch_message import DispatchMessage
from libs.common.domain.model import Model
from libs.common.ports_dead import DeadLetter
from libs.common.ports_road import RoadRecord, Spot, Unreadable
from services.executor.admission.rotation import Arrival
from services.executor.figures import Figures
from services.executor.positions import Place, Places
from services.executor.reader import MOST_IN_HAND, SETTLED_AT_ONCE, Reader


@dataclass
class Record:
    offset: int
    value: bytes | None
    timestamp: int = 1
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def message(task: int) -> bytes:
    return DispatchMessage(task, lane=1, tenant=1, model=1, attempt=1, lease=1, phase=0, size=1).encode()


def records(*tasks: int) -> list[Record]:
    """Each at the offset of its own number."""
    return [Record(task, message(task)) for task in tasks]


def spot(lane: int, partition: int = 0) -> Spot:
    return Spot(f"t{lane}", partition)


class FakeRoad:
    def __init__(self) -> None:
        self.coming: asyncio.Queue[Mapping[Spot, Sequence[RoadRecord]] | Unreadable] = asyncio.Queue()
        self.seeks: list[tuple[Spot, int]] = []

    async def rebuild(self) -> None: ...
    def assign(self, cursors: Mapping[Spot, int | None]) -> None: ...
    async def offsets(self, since: Mapping[Spot, int]) -> dict[Spot, int]:
        return {}

    def seek(self, spot: Spot, offset: int) -> None:
        self.seeks.append((spot, offset))

    def heard(self, spot: Spot) -> bool:
        return True

    async def read(self, seconds: float) -> Mapping[Spot, Sequence[RoadRecord]]:
        try:
            async with asyncio.timeout(seconds):
                came = await self.coming.get()
        except TimeoutError:
            return {}
        if isinstance(came, Unreadable):
            raise came
        return came


class FakeDesk:
    """Settles a lane only when it was told to, or fails."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.settled: list[int] = []
        self.fails = False
        self._doors: dict[int, asyncio.Event] = {}

    def close(self, lane: int) -> None:
        self._doors[lane] = asyncio.Event()

    def open(self, lane: int) -> None:
        self._doors.pop(lane).set()

    async def settle(self, arrivals: Sequence[Arrival]) -> None:
        self.asked.append([arrival.id for arrival in arrivals])
        for arrival in arrivals:
            door = self._doors.get(arrival.lane)
            if door is not None:
                await door.wait()
        if self.fails:
            self.fails = False
            raise RuntimeError("nobody foresaw this")
        self.settled += [arrival.id for arrival in arrivals]


class FakeMender:
    generation = 0

    def __init__(self) -> None:
        self.again: list[Spot] = []

    async def mend(self, cause: str, generation: int) -> None: ...

    def read_again(self, places: Sequence[Place]) -> None:
        self.again += [place.spot for place in places]
        for place in places:
            place.again()


class FakeModels:
    def __init__(self) -> None:
        self.lost: set[int] = set()

    def known(self, model_id: int) -> Model | None:
        if model_id in self.lost:
            return None
        return Model(id=model_id, lane=model_id, tenant_id=1, name="m", base_url="http://m")


class Graveyard:
    def __init__(self) -> None:
        self.kept: list[int] = []

    async def keep(self, letters: Sequence[DeadLetter]) -> None:
        self.kept += [letter.offset for letter in letters]


@dataclass
class Reading:
    road: FakeRoad = field(default_factory=FakeRoad)
    desk: FakeDesk = field(default_factory=FakeDesk)
    mender: FakeMender = field(default_factory=FakeMender)
    graveyard: Graveyard = field(default_factory=Graveyard)
    places: Places = field(default_factory=Places)
    models: FakeModels = field(default_factory=FakeModels)

    def __post_init__(self) -> None:
        self.reader = Reader(self.road, self.places, self.desk, self.models, self.graveyard, self.mender, Figures())
        for lane, partition in ((1, 0), (1, 1), (2, 0)):
            place = Place(spot(lane, partition), model_id=lane, lane=lane, assigned=True)
            place.start(0, floor_ms=0)
            self.places.put(place)

    def place(self, lane: int) -> Place:
        found = self.places.at(spot(lane))
        assert found is not None
        return found

    def comes(self, lane: int, *tasks: int, partition: int = 0) -> None:
        self.road.coming.put_nowait({spot(lane, partition): records(*tasks)})

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def reading() -> AsyncIterator[Reading]:
    rig = Reading()
    loop = asyncio.create_task(rig.reader.run())
    try:
        yield rig
        assert not loop.done()
    finally:
        loop.cancel()
        await asyncio.wait([loop])


async def test_a_lane_in_hand_holds_up_no_other() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 5)
        rig.comes(2, 7)
        await rig.until(lambda: rig.desk.settled == [7])
        assert rig.reader.busy_with(1)
        assert not rig.reader.busy_with(2)
        assert rig.place(2).settled == 8
        assert rig.place(1).settled == 0
        rig.desk.open(1)
        await rig.until(lambda: not rig.reader.busy)
        assert rig.place(1).settled == 6


async def test_what_is_read_of_a_lane_in_hand_waits_for_it_and_comes_together() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 1)
        await rig.until(lambda: rig.reader.busy)
        rig.comes(1, 2)
        rig.comes(1, 3, partition=1)  # another partition, but the same queue
        rig.comes(1, 4)
        rig.comes(2, 9)
        await rig.until(lambda: rig.desk.settled == [9])
        assert rig.desk.asked == [[1], [9]]
        rig.desk.open(1)
        await rig.until(lambda: rig.place(1).settled == 5)
        assert rig.desk.asked == [[1], [9], [2, 4, 3]]


async def test_what_cannot_be_settled_is_read_again_with_what_came_behind_it() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 1)
        await rig.until(lambda: rig.reader.busy)
        rig.comes(1, 2)
        rig.comes(2, 9)
        await rig.until(lambda: rig.desk.settled == [9])
        rig.desk.fails = True
        rig.desk.open(1)
        await rig.until(lambda: not rig.reader.busy)
        assert rig.mender.again == [spot(1)]
        assert rig.desk.settled == [9]
        assert rig.place(1).cursor == 0
        assert rig.place(2).cursor == 10
        rig.comes(1, 1, 2)
        await rig.until(lambda: rig.desk.settled == [9, 1, 2])
        assert rig.place(1).settled == 3


async def test_what_waited_is_forgotten_when_somebody_seeks() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 1)
        await rig.until(lambda: rig.reader.busy)
        rig.comes(1, 2)
        await rig.until(lambda: rig.place(1).cursor == 3)
        rig.place(1).start(2, floor_ms=0)
        rig.comes(1, 2, 3)
        await rig.until(lambda: rig.place(1).cursor == 4)
        rig.desk.open(1)
        await rig.until(lambda: rig.place(1).settled == 4)
        assert rig.desk.settled == [1, 2, 3]


async def test_nothing_is_read_while_too_much_is_in_hand() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, *range(MOST_IN_HAND))
        await rig.until(lambda: rig.reader.busy)
        rig.comes(2, 9_999)
        await asyncio.sleep(0.02)
        assert rig.road.coming.qsize() == 1
        assert rig.reader.busy_with(2), "its records may wait behind those"
        rig.desk.open(1)
        await rig.until(lambda: len(rig.desk.settled) == MOST_IN_HAND + 1)
        assert 9_999 in rig.desk.settled


async def test_a_long_queue_is_settled_piece_by_piece() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 0)
        await rig.until(lambda: rig.reader.busy)
        rig.comes(1, *range(1, SETTLED_AT_ONCE + 2))
        await rig.until(lambda: rig.place(1).cursor == SETTLED_AT_ONCE + 2)
        rig.desk.open(1)
        await rig.until(lambda: rig.place(1).settled == SETTLED_AT_ONCE + 2)
        assert [len(asked) for asked in rig.desk.asked] == [1, SETTLED_AT_ONCE, 1]
        assert rig.desk.settled == list(range(SETTLED_AT_ONCE + 2))


async def test_something_that_hangs_is_noticed_though_others_go_on() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 1)
        await rig.until(lambda: rig.reader.busy)
        stood = rig.reader.moved_at
        for task in (7, 8):
            rig.comes(2, task)
            await rig.until(lambda task=task: rig.desk.settled[-1:] == [task])  # type: ignore[misc]
            assert rig.reader.moved_at == stood
        rig.desk.open(1)
        await rig.until(lambda: rig.reader.moved_at > stood)


async def test_a_record_that_cannot_be_had_waits_for_what_was_read_before_it() -> None:
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 1)
        rig.road.coming.put_nowait(Unreadable(spot(1), 2, "unreadable bytes"))
        await rig.until(lambda: rig.road.coming.empty())
        await asyncio.sleep(0.01)
        assert rig.graveyard.kept == []
        rig.desk.open(1)
        await rig.until(lambda: rig.road.seeks == [(spot(1), 3)])
        assert rig.graveyard.kept == [2]
        assert (rig.desk.settled, rig.place(1).settled) == ([1], 3)


async def test_a_record_that_cannot_be_had_is_left_behind_also_in_a_log_that_began_anew() -> None:
    async with reading() as rig:
        rig.place(1).start(1_000, 0)
        rig.road.coming.put_nowait(Unreadable(spot(1), 0, "unreadable bytes"))
        await rig.until(lambda: rig.road.seeks == [(spot(1), 1)])
        assert (rig.graveyard.kept, rig.place(1).cursor) == ([0], 1)


async def test_a_record_that_cannot_be_had_is_met_again_when_what_was_read_before_it_could_not_be_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.executor.reader._RETRY_SECONDS", 0.01)
    async with reading() as rig:
        rig.desk.close(1)
        rig.comes(1, 1)
        rig.road.coming.put_nowait(Unreadable(spot(1), 2, "unreadable bytes"))
        await rig.until(lambda: rig.road.coming.empty())
        rig.desk.fails = True
        rig.desk.open(1)
        await rig.until(lambda: rig.graveyard.kept == [2])
        await asyncio.sleep(0.01)
        assert (rig.mender.again, rig.road.seeks, rig.place(1).settled) == ([spot(1)], [], 0)


async def test_a_settle_that_is_cancelled_from_within_ends_the_loop() -> None:
    rig = Reading()
    loop = asyncio.create_task(rig.reader.run())
    rig.desk.close(1)
    rig.comes(1, 1)
    await rig.until(lambda: bool(rig.desk.asked))
    (settle,) = [task for task in asyncio.all_tasks() if task.get_name() == "settle"]
    settle.cancel()
    await asyncio.wait([loop], timeout=5)
    assert loop.cancelled()
    assert rig.place(1).settled == 0


@pytest.mark.parametrize("waits", [False, True])
async def test_who_stops_settles_what_is_in_hand_and_nothing_more(waits: bool) -> None:
    rig = Reading()
    loop = asyncio.create_task(rig.reader.run())
    rig.desk.close(1)
    rig.comes(1, 1)
    await rig.until(lambda: rig.reader.busy)
    if waits:
        rig.comes(1, 2)
        await rig.until(lambda: rig.place(1).cursor == 3)
    rig.reader.stop()
    idle = asyncio.create_task(rig.reader.idle())
    await asyncio.sleep(0.01)
    assert not idle.done()
    rig.desk.open(1)
    await idle
    await asyncio.wait_for(loop, 5)
    assert rig.desk.settled == [1]


async def test_what_is_left_of_a_model_that_is_lost_holds_up_nobody() -> None:
    """PostgreSQL may go on from an older state, which has no such model."""
    async with reading() as rig:
        rig.models.lost = {1}
        rig.road.coming.put_nowait({spot(1): records(5), spot(2): records(7)})
        await rig.until(lambda: rig.desk.settled == [7])
        await rig.until(lambda: rig.place(1).settled == 6)
        assert rig.mender.again == []
