"""Which lanes a turn asks, in what order, and from where."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.ports_dispatch import Key
from services.dispatcher.lanes import BATCH, MAX_LANES, LaneBook
from tests.support.memory_queue import MemoryQueue, Row, lane_info


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A book over a queue in memory."""

    def __init__(
        self, tenants: dict[int, list[int]], *, window: int = 10**6, weights: dict[int, int] | None = None
    ) -> None:
        self.clock = Clock()
        self.book = LaneBook(self.clock)
        lanes = [(tenant, lane) for tenant, lanes in tenants.items() for lane in lanes]
        self.tenant_of = {lane: tenant for tenant, lane in lanes}
        self.queue = MemoryQueue({lane: window for _, lane in lanes})
        self.book.learn(lane_info(lane, tenant, weight=(weights or {}).get(tenant, 1)) for tenant, lane in lanes)

    def opened(self) -> Desk:
        self.book.open(list(self.tenant_of))
        return self

    async def turn(self) -> list[int]:
        """The ids that one turn takes."""
        asks = self.book.take()
        if not asks:
            return []
        turn = await self.queue.lease_due(asks, self.book.limit, 1, [])
        self.book.settle(turn)
        return [row.id for row in turn.rows]

    async def until_idle(self) -> list[int]:
        taken: list[int] = []
        for _ in range(1000):
            if not self.book.has_work:
                return taken
            taken += await self.turn()
        raise AssertionError("the book never rests")

    def hint(self, row: Row) -> None:
        self.book.work(row.lane, row.klass, row.key)

    def by_tenant(self, ids: list[int]) -> Counter[int]:
        return Counter(self.tenant_of[self.queue.rows[id_].lane] for id_ in ids)


async def test_a_lane_is_asked_only_while_it_is_open_and_active() -> None:
    desk = Desk({1: [1, 2]})
    (row,) = desk.queue.add(1)
    desk.hint(row)
    assert not desk.book.has_work, "its topic is not there yet"
    desk.book.open([1])
    assert await desk.until_idle() == [row.id]
    assert [[ask.lane for ask in asks] for asks in desk.queue.asked] == [[1]]
    assert await desk.turn() == []
    desk.book.close([1])
    desk.hint(desk.queue.add(1)[0])
    assert not desk.book.has_work


async def test_a_lane_stays_active_only_with_more_to_give_and_room_left() -> None:
    desk = Desk({1: [1, 2, 3]}, window=600).opened()
    desk.queue.add(1, 5)
    desk.queue.add(2, 2000)
    taken = await desk.until_idle()
    assert len(taken) == 605
    assert len(desk.queue.asked[-1]) == 1, "lanes without more are not asked again"


@given(room=st.integers(1, 5), returning=st.integers(0, 60), fresh=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_returning_rows_take_at_most_half_of_the_starts_while_fresh_ones_wait(
    room: int, returning: int, fresh: int
) -> None:
    async def story() -> list[int]:
        desk = Desk({1: [1]}, window=room).opened()
        desk.queue.add(1, fresh)
        desk.queue.add(1, returning, klass=0)
        desk.book.swept([1])
        order: list[int] = []
        while len(order) < returning + fresh:
            taken = await desk.turn()
            order += [desk.queue.rows[id_].klass for id_ in taken]
            for id_ in taken:
                desk.queue.finish(id_)
            desk.book.swept([1])
        return order

    order = asyncio.run(story())
    last_fresh = len(order) - order[::-1].index(1) if fresh else 0
    for end in range(last_fresh + 1):
        assert order[:end].count(0) <= order[:end].count(1) + room


async def test_tenants_get_the_same_whatever_the_number_of_their_lanes() -> None:
    desk = Desk({1: list(range(1, 101)), 2: [500]}).opened()
    for lane in desk.tenant_of:
        desk.queue.add(lane, 2000 if lane == 500 else 50)
    shares = desk.by_tenant([id_ for _ in range(4) for id_ in await desk.turn()])
    assert shares[1] == pytest.approx(shares[2], rel=0.2)


async def test_weight_acts_on_tenants() -> None:
    desk = Desk({1: list(range(1, 21)), 2: [500]}, weights={1: 1, 2: 4}).opened()
    for lane in desk.tenant_of:
        desk.queue.add(lane, 4000)
    shares = desk.by_tenant([id_ for _ in range(5) for id_ in await desk.turn()])
    assert shares[2] / shares[1] == pytest.approx(4, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=2, max_size=5),
    st.integers(8, 24),
)
def test_starts_under_a_flood_follow_the_weights_whatever_the_lanes(tenants: list[tuple[int, int]], batch: int) -> None:
    """Each tenant has a weight and a number of lanes, all of them flooded; a turn takes about `batch`."""

    async def story() -> Counter[int]:
        lanes = {number: [number * 10 + lane for lane in range(count)] for number, (_, count) in enumerate(tenants)}
        desk = Desk(lanes, weights={number: weight for number, (weight, _) in enumerate(tenants)}).opened()
        starts: Counter[int] = Counter()
        for _ in range(40):
            for lane in desk.tenant_of:
                desk.queue.add(lane, 2 * batch - len(desk.queue.ready(lane)))
            desk.book.swept(list(desk.tenant_of))
            asks = desk.book.take(batch)
            turn = await desk.queue.lease_due(asks, desk.book.limit, 1, [])
            desk.book.settle(turn)
            starts += desk.by_tenant([row.id for row in turn.rows])
            for row in turn.rows:
                desk.queue.finish(row.id)
        return starts

    starts, weights = asyncio.run(story()), sum(weight for weight, _ in tenants)
    for number, (weight, _) in enumerate(tenants):
        due = starts.total() * weight / weights
        # A turn rounds each lane's share up, and what was too much is taken off the next ones.
        assert abs(starts[number] - due) <= 2 * len(tenants) * 6 + 1, (number, starts, tenants)


async def test_a_new_weight_holds_from_the_next_turn_on() -> None:
    desk = Desk({1: [1], 2: [2]}).opened()
    for lane in (1, 2):
        desk.queue.add(lane, 10_000)
    even = desk.by_tenant([id_ for _ in range(4) for id_ in await desk.turn()])
    assert even[1] == pytest.approx(even[2], rel=0.05)
    desk.book.learn([lane_info(1, 1, weight=3)])
    odd = desk.by_tenant([id_ for _ in range(4) for id_ in await desk.turn()])
    assert odd[1] / odd[2] == pytest.approx(3, rel=0.1)


async def test_what_one_tenant_leaves_goes_to_the_others_and_is_not_saved_up() -> None:
    desk = Desk({1: [1], 2: [2]}).opened()
    desk.queue.add(1, 5000)
    for _ in range(5):
        await desk.turn()
    desk.queue.add(2, 5000)
    desk.book.swept([2])
    shares = desk.by_tenant(await desk.turn())
    assert shares[1] == pytest.approx(shares[2], rel=0.1)


async def test_many_lanes_take_turns_and_none_starves() -> None:
    tenants = {tenant: [tenant * 1000 + n for n in range(3)] for tenant in range(1, 501)}
    desk = Desk(tenants).opened()
    for lane in desk.tenant_of:
        desk.queue.add(lane, 10)
    for _ in range(4):
        await desk.turn()
    assert all(len(asks) <= MAX_LANES for asks in desk.queue.asked)
    assert {ask.lane for asks in desk.queue.asked for ask in asks} == set(desk.tenant_of)
    await desk.until_idle()
    assert not any(desk.queue.ready(lane) for lane in desk.tenant_of)


async def test_a_turn_is_about_one_batch() -> None:
    desk = Desk({tenant: [tenant] for tenant in range(1, 8)}).opened()
    for lane in desk.tenant_of:
        desk.queue.add(lane, 3000)
    sizes = [len(await desk.turn()) for _ in range(6)]
    assert all(BATCH - 7 <= size <= BATCH + 7 for size in sizes)


async def test_the_cursor_moves_on_and_a_hint_behind_it_lowers_it() -> None:
    desk = Desk({1: [1]}).opened()
    desk.queue.add(1, 10)
    await desk.until_idle()
    fresh = desk.queue.add(1)[0]
    desk.hint(fresh)
    await desk.turn()
    assert desk.queue.asked[-1][0].fresh == Key(0, 10), "what was taken is not looked at again"
    late = desk.queue.add(1, position=5)[0]
    desk.hint(late)
    assert await desk.turn() == [late.id]
    assert desk.queue.asked[-1][0].fresh == Key(0, 5)


async def test_a_hint_that_comes_during_a_turn_is_taken_by_the_next() -> None:
    desk = Desk({1: [1]}).opened()
    first = desk.queue.add(1, position=10)[0]
    desk.hint(first)
    asks = desk.book.take()
    turn = await desk.queue.lease_due(asks, desk.book.limit, 1, [])
    late = desk.queue.add(1, position=3)[0]
    desk.hint(late)
    desk.book.settle(turn)
    assert await desk.until_idle() == [late.id]


async def test_a_row_whose_hint_was_lost_is_found_when_the_cursors_are_cleared() -> None:
    desk = Desk({1: [1]}).opened()
    desk.queue.add(1, 10)
    await desk.until_idle()
    lost = desk.queue.add(1, position=0)[0]
    desk.book.swept([1])
    assert await desk.until_idle() == [], "behind the cursor"
    desk.clock.now += 1.1
    desk.book.swept([1])
    assert await desk.until_idle() == [lost.id]


async def test_cursors_are_cleared_less_often_when_looking_everywhere_is_dear() -> None:
    desk = Desk({1: [1]}).opened()
    desk.queue.add(1, 10)
    desk.clock.now += 1.1
    asks = desk.book.take()
    turn = await desk.queue.lease_due(asks, desk.book.limit, 1, [])
    desk.clock.now += 0.2  # the rescan took that long: the next one may come after 10 s
    desk.book.settle(turn)
    desk.clock.now += 9.5
    desk.queue.add(1, position=0)
    desk.book.swept([1])
    assert await desk.until_idle() == []
    desk.clock.now += 0.7
    desk.book.swept([1])
    assert len(await desk.until_idle()) == 1


async def test_room_matters_only_where_rows_may_wait() -> None:
    desk = Desk({1: [1, 2]}, window=2).opened()
    desk.queue.add(1, 5)
    await desk.until_idle()
    desk.book.room(2)
    assert not desk.book.has_work, "lane 2 was seen empty: its next row brings its own hint"
    desk.queue.finish(desk.queue.in_flight(1)[0].id)
    desk.book.room(1)
    assert len(await desk.until_idle()) == 1, "lane 1 was full"
    desk.book.room(99)


async def test_room_that_comes_during_a_turn_is_not_lost() -> None:
    desk = Desk({1: [1]}, window=1).opened()
    first, second = desk.queue.add(1, 2)
    asks = desk.book.take()
    turn = await desk.queue.lease_due(asks, desk.book.limit, 1, [])
    desk.queue.finish(first.id)
    desk.book.room(1)
    desk.book.settle(turn)
    assert await desk.until_idle() == [second.id]


async def test_the_low_water_follows_what_is_in_flight() -> None:
    desk = Desk({1: [1]}, window=3).opened()
    for _ in range(3):
        desk.hint(desk.queue.add(1)[0])
        await desk.turn()
    for id_ in (1, 2):
        desk.queue.finish(id_)
    desk.book.room(1)
    await desk.turn()
    desk.hint(desk.queue.add(1)[0])
    await desk.turn()
    assert desk.queue.asked[-1][0].low == 3, "lease 3 is the oldest still in flight"
    for row in desk.queue.in_flight(1):
        desk.queue.finish(row.id)
    desk.hint(desk.queue.add(1)[0])
    await desk.turn()
    desk.hint(desk.queue.add(1)[0])
    await desk.turn()
    assert desk.queue.asked[-1][0].low == 5, "nothing was in flight: later leases have greater numbers"


async def test_lanes_that_another_dispatcher_has_are_asked_again() -> None:
    desk = Desk({1: [1, 2]}).opened()
    desk.queue.add(1, 3)
    desk.queue.locked = {1}
    assert await desk.turn() == []
    assert desk.book.has_work
    desk.queue.locked = set()
    assert len(await desk.until_idle()) == 3


async def test_a_turn_that_failed_is_repeated() -> None:
    desk = Desk({1: [1]}).opened()
    desk.queue.add(1, 3)
    desk.book.take()
    desk.book.abandon()
    assert len(await desk.until_idle()) == 3


async def test_paused_lanes_answer_nothing_and_are_left_alone() -> None:
    desk = Desk({1: [1]}).opened()
    desk.queue.add(1)
    asks = desk.book.take()
    assert [ask.lane for ask in asks] == [1]
    desk.book.settle(type("T", (), {"rooms": [], "rows": [], "busy": []})())
    assert not desk.book.has_work


async def test_deleted_models_and_unknown_lanes_do_not_matter() -> None:
    desk = Desk({1: [1, 2]}).opened()
    desk.book.learn([lane_info(1, closed=True)])
    assert desk.book.work(1, 1, Key(0, 0)) is False
    desk.book.open([1])
    desk.book.close([77])
    asks = desk.book.take()
    assert [ask.lane for ask in asks] == [2]
    desk.book.abandon()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["create", "late", "turn", "finish", "back", "lost hint", "time"]),
            st.integers(1, 4),
            st.integers(0, 1),
        ),
        max_size=60,
    )
)
async def test_no_row_is_left_behind_and_no_window_is_overrun(steps: list[tuple[str, int, int]]) -> None:
    desk = Desk({1: [1, 2], 2: [3], 3: [4]}, window=3).opened()
    for step, lane, klass in steps:
        await _do(desk, step, lane, klass)
        assert all(len(desk.queue.in_flight(number)) <= 3 for number in desk.tenant_of)
    # From here on every hint arrives, and lost ones are made good by the sweep after a clear.
    for _ in range(len(desk.queue.rows) + 5):
        desk.clock.now += 1.1
        desk.book.swept(await desk.queue.lanes_with_work())
        await desk.until_idle()
        for number in desk.tenant_of:
            for row in desk.queue.in_flight(number):
                desk.queue.finish(row.id)
            desk.book.room(number)
    assert not desk.queue.rows


async def _do(desk: Desk, step: str, lane: int, klass: int) -> None:
    match step:
        case "create" | "late" | "lost hint":
            position = -len(desk.queue.rows) if step == "late" else None
            row = desk.queue.add(lane, klass=klass, position=position)[0]
            if step != "lost hint":
                desk.hint(row)
        case "turn":
            await desk.turn()
        case "finish":
            for row in desk.queue.in_flight(lane)[:1]:
                desk.book.room(desk.queue.finish(row.id))
        case "back":
            for row in desk.queue.in_flight(lane)[-1:]:
                row.lease = None
                desk.hint(row)
        case _:
            desk.clock.now += 0.6


async def test_a_lane_whose_number_is_another_tenants_by_now_takes_turns_as_that_tenants() -> None:
    """Numbers begin anew where PostgreSQL goes on from an older state."""
    desk = Desk({1: [1, 2], 3: [3]}).opened()
    await desk.until_idle()
    desk.book.learn([lane_info(2, 3, weight=3)])
    desk.book.open([2])
    for lane in (1, 2):
        desk.hint(desk.queue.add(lane, 4_000)[0])
    taken = await desk.turn()
    assert len([id_ for id_ in taken if desk.queue.rows[id_].lane == 2]) > len(taken) * 0.7, "three turns of four"
