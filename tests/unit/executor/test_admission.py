"""Turns of tenants, slots, and the waiting room."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.model import Model
from libs.common.domain.task import Phase
from services.executor.admission.rotation import Arrival, Rotation
from services.executor.admission.slots import Slots
from services.executor.admission.waiting_room import FIRST_ASK, WaitingRoom


def arrival(number: int, *, tenant: int = 1, lane: int = 1, lease: int = 1) -> Arrival:
    model = Model(id=lane, lane=lane, tenant_id=tenant, name="m", base_url="http://m")
    return Arrival(number, lease, 10, Phase.NONE, model)


def test_all_go_when_there_is_room() -> None:
    arrivals = [arrival(1), arrival(2, tenant=2)]
    assert Rotation().choose(arrivals, 2) == (arrivals, [])


def test_a_flood_of_one_tenant_leaves_the_other_its_turn() -> None:
    flood = [arrival(n, tenant=1, lane=1 + n % 20) for n in range(100)]
    quiet = [arrival(1_000 + n, tenant=2, lane=100) for n in range(3)]
    chosen, late = Rotation().choose([*flood, *quiet], 6)
    assert Counter(one.model.tenant_id for one in chosen) == {1: 3, 2: 3}
    assert len(late) == 97


def test_turns_go_on_where_they_ended() -> None:
    rotation = Rotation()
    arrivals = [arrival(n, tenant=n, lane=n) for n in range(1, 6)]
    first, rest = rotation.choose(arrivals, 2)
    second, _ = rotation.choose([*rest, *(arrival(10 + n, tenant=n, lane=n) for n in (1, 2))], 3)
    assert [one.model.tenant_id for one in first] == [1, 2]
    assert [one.model.tenant_id for one in second] == [3, 4, 5]


def test_inside_a_lane_first_come_first_served() -> None:
    arrivals = [arrival(n) for n in range(10)]
    assert Rotation().choose(arrivals, 3)[0] == arrivals[:3]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), max_size=40),
    st.integers(0, 50),
)
def test_nobody_is_lost_or_doubled(given_lanes: list[tuple[int, int]], room: int) -> None:
    arrivals = [arrival(n, tenant=tenant, lane=tenant * 10 + lane) for n, (tenant, lane) in enumerate(given_lanes)]
    chosen, late = Rotation().choose(arrivals, room)
    assert len(chosen) == min(room, len(arrivals))
    assert sorted(one.id for one in (*chosen, *late)) == [one.id for one in arrivals]


def test_a_full_executor_stays_full_until_it_has_some_room() -> None:
    slots = Slots(100)
    slots.take(100)
    assert slots.full
    slots.give_back(4)
    assert slots.full
    slots.give_back(1)
    assert not slots.full


def test_a_single_slot_is_room_enough() -> None:
    slots = Slots(1)
    slots.take(1)
    assert slots.full
    slots.give_back()
    assert not slots.full


def test_a_woken_lane_is_looked_at_at_once_and_others_are_not() -> None:
    room = WaitingRoom()
    room.put([arrival(1, lane=1), arrival(2, lane=2)], now=0.0)
    room.candidates(0.0)
    assert not room.wake(3)
    assert room.wake(2)
    assert room.next_look(0.01) == 0.0
    assert [one.id for one in room.candidates(0.01)] == [2]


def test_a_refused_lane_is_polled_rarer_up_to_a_second() -> None:
    room = WaitingRoom()
    room.put([arrival(1)], now=0.0)
    looks = []
    for step in range(500):
        now = step / 100
        if room.candidates(now):
            room.looked(1, now, granted=False)
            looks.append(now)
    gaps = [later - earlier for earlier, later in pairwise(looks)]
    assert gaps[0] < 0.6
    assert all(gap <= 1.3 for gap in gaps)
    assert len(looks) <= 8


def test_a_granted_lane_is_asked_for_more_at_once() -> None:
    room = WaitingRoom()
    room.put([arrival(n) for n in range(30)], now=0.0)
    room.wake(1)
    first = room.candidates(0.0)
    assert len(first) == FIRST_ASK
    for one in first:
        room.remove(one.id)
    room.looked(1, 0.0, granted=True)
    assert len(room.candidates(0.0)) == 2 * FIRST_ASK


def test_a_newer_lease_replaces_the_older_one() -> None:
    room = WaitingRoom()
    room.put([arrival(1, lease=1)], now=0.0)
    room.put([arrival(1, lease=2)], now=1.0)
    assert len(room) == 1
    assert room.lease_of(1) == 2


def test_rows_held_for_long_are_found() -> None:
    room = WaitingRoom()
    room.put([arrival(1)], now=0.0)
    room.put([arrival(2, lane=2)], now=5.0)
    assert room.held_since(3.0) == [1]
    assert sorted(room.clear()) == [1, 2]
    assert len(room) == 0
    assert not room.busy(1)
    assert room.next_look(9.0) is None
