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


def arrival(number: int, *, tenant: int = 1, lane: int = 1, lease: int = 1, phase: Phase = Phase.NONE) -> Arrival:
    model = Model(id=lane, lane=lane, tenant_id=tenant, name="m", base_url="http://m")
    return Arrival(number, lease, 10, phase, model)


def fill(slots: Slots, tenant: int) -> int:
    """Take as many as the tenant may have; returns how many those were."""
    count = 0
    while slots.take(tenant):
        count += 1
    return count


def test_all_go_when_there_is_room() -> None:
    arrivals = [arrival(1), arrival(2, tenant=2)]
    slots = Slots(2)
    assert Rotation().choose(arrivals, slots) == (arrivals, [])
    assert slots.free == 0


def test_a_flood_of_one_tenant_leaves_the_other_its_turn() -> None:
    flood = [arrival(n, tenant=1, lane=1 + n % 20) for n in range(100)]
    quiet = [arrival(1_000 + n, tenant=2, lane=100) for n in range(3)]
    chosen, late = Rotation().choose([*flood, *quiet], Slots(6))
    assert Counter(one.model.tenant_id for one in chosen) == {1: 3, 2: 3}
    assert len(late) == 97


def test_turns_go_on_where_they_ended() -> None:
    rotation = Rotation()
    arrivals = [arrival(n, tenant=n, lane=n) for n in range(1, 6)]
    first, rest = rotation.choose(arrivals, Slots(2))
    second, _ = rotation.choose([*rest, *(arrival(10 + n, tenant=n, lane=n) for n in (1, 2))], Slots(3))
    assert [one.model.tenant_id for one in first] == [1, 2]
    assert [one.model.tenant_id for one in second] == [3, 4, 5]


def test_inside_a_lane_first_come_first_served() -> None:
    arrivals = [arrival(n) for n in range(10)]
    assert Rotation().choose(arrivals, Slots(3))[0] == arrivals[:3]


def test_lanes_of_a_tenant_take_turns_slot_by_slot() -> None:
    rotation, slots = Rotation(), Slots(1)
    waiting = [arrival(10 * lane + n, lane=lane) for lane in (1, 2, 3) for n in range(2)]
    served = []
    while waiting:
        chosen, waiting = rotation.choose(waiting, slots)
        served += [one.lane for one in chosen]
        slots.give_back(1)
    assert served == [1, 2, 3, 1, 2, 3]


def test_an_upload_is_the_next_of_its_tenant() -> None:
    calls = [arrival(n, lane=1 + n % 3) for n in range(9)]
    chosen, _ = Rotation().choose([*calls, arrival(20, lane=3, phase=Phase.GENERATED)], Slots(1))
    assert [one.id for one in chosen] == [20]


def test_a_tenant_that_may_have_no_more_ends_nobody_elses_turn() -> None:
    slots = Slots(100)
    fill(slots, 1)
    flood = [arrival(n, tenant=1, lane=n) for n in range(20)]
    quiet = [arrival(100 + n, tenant=2, lane=100) for n in range(3)]
    chosen, late = Rotation().choose([*flood, *quiet], slots)
    assert chosen == quiet
    assert late == flood


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), max_size=40),
    st.integers(1, 50),
)
def test_nobody_is_lost_or_doubled_or_late_without_need(given_lanes: list[tuple[int, int]], total: int) -> None:
    arrivals = [arrival(n, tenant=tenant, lane=tenant * 10 + lane) for n, (tenant, lane) in enumerate(given_lanes)]
    slots = Slots(total)
    chosen, late = Rotation().choose(arrivals, slots)
    assert slots.used == len(chosen)
    assert sorted(one.id for one in (*chosen, *late)) == [one.id for one in arrivals]
    assert not any(slots.open_to(one.tenant) for one in late)


@given(st.integers(1, 3_000))
def test_a_tenant_alone_leaves_a_twentieth_free_for_who_comes_next(total: int) -> None:
    slots = Slots(total)
    fill(slots, 1)
    assert slots.free == total // 20
    assert slots.scarce
    assert slots.open_to(2) == (total >= 20)


def test_what_floods_give_back_goes_to_who_has_less() -> None:
    slots = Slots(100)
    first, second = fill(slots, 1), fill(slots, 2)
    assert (first, second) == (95, 5)
    for _ in range(100):
        slots.give_back(1)
        first += fill(slots, 1) - 1
        second += fill(slots, 2)
    assert min(first, second) >= 40
    assert slots.open_to(3)


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=300))
def test_slots_are_counted_by_tenant_and_refused_to_the_one_that_has_much(
    total: int, steps: list[tuple[int, bool]]
) -> None:
    slots, used = Slots(total), Counter[int]()
    for tenant, takes in steps:
        free = total - used.total()
        if takes:
            took = slots.take(tenant)
            assert took or free == 0 or used[tenant] >= 19
            assert not took or free > 0
            used[tenant] += took
        elif used[tenant]:
            slots.give_back(tenant)
            used[tenant] -= 1
        assert slots.used == used.total()
        assert slots.scarce or all(slots.open_to(anybody) for anybody in range(1, 6))


def test_slots_are_scarce_until_there_is_more_than_what_is_kept() -> None:
    slots = Slots(100)
    fill(slots, 1)
    for _ in range(4):
        slots.give_back(1)
        assert slots.scarce
    slots.give_back(1)
    assert not slots.scarce


def test_a_single_slot_is_room_enough() -> None:
    slots = Slots(1)
    assert not slots.scarce
    assert slots.take(1)
    assert slots.scarce
    slots.give_back(1)
    assert not slots.scarce


def test_a_woken_lane_is_looked_at_at_once_and_others_are_not() -> None:
    room = WaitingRoom()
    room.put([arrival(1, lane=1), arrival(2, lane=2)], now=0.0)
    room.candidates(0.0)
    assert not room.wake(3)
    assert room.wake(2)
    assert room.next_look(0.01) == 0.0
    assert [one.id for one in room.candidates(0.01)] == [2]


def test_what_becomes_free_before_a_row_arrives_wakes_it_when_it_does() -> None:
    room = WaitingRoom()
    with room.expecting({1, 2}):
        with room.expecting({1}):
            assert not room.wake(1)
        assert not room.wake(3), "nobody is expected there"
        room.put([arrival(1, lane=1), arrival(2, lane=2), arrival(3, lane=3)], 10.0)
    assert [one.id for one in room.candidates(10.0)] == [1]


def test_who_comes_behind_the_last_one_here_is_looked_at_when_that_one_has_left() -> None:
    room = WaitingRoom()
    room.put([arrival(1)], 9.0)
    with room.expecting({1}):
        assert room.wake(1), "a permit went back: it is for the one here"
        assert [one.id for one in room.candidates(9.0)] == [1]
        room.remove(1)
        room.put([arrival(2)], 10.0)
    assert [one.id for one in room.candidates(10.0)] == [2]


def test_what_became_free_before_nobody_came_is_forgotten() -> None:
    room = WaitingRoom()
    with room.expecting({1}):
        room.wake(1)
    with room.expecting({1}):
        room.put([arrival(1)], 10.0)
    assert room.candidates(10.0) == []


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
    assert [one.id for one in room.held_since(3.0)] == [1]
    room.clear()
    assert len(room) == 0
    assert not room.busy(1)
    assert room.next_look(9.0) is None


def test_an_upload_is_never_behind_calls_that_wait_for_a_permit() -> None:
    room = WaitingRoom()
    room.put([arrival(n) for n in range(10)], now=0.0)
    room.put([arrival(20, phase=Phase.GENERATED, lease=3)], now=0.0)
    room.wake(1)
    assert [one.id for one in room.candidates(0.0)] == [20, 0, 1, 2]
    assert room.lease_of(20) == 3
    room.remove(20)
    assert room.lease_of(20) is None
    for n in range(10):
        room.remove(n)
    assert not room.busy(1)
