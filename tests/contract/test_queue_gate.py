"""What every QueueGate keeps, the real one and the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from libs.common.ports import QueueGate, SlotRequest, SlotVerdict
from tests.support.fakes_redis import FakeQueueGate
from tests.support.redis_doors import LONG_MS, eventually, open_doors

TAKEN, HELD, FULL = SlotVerdict.TAKEN, SlotVerdict.HELD, SlotVerdict.FULL


@dataclass(frozen=True, slots=True)
class Case:
    gate: QueueGate
    lapse: Callable[[int, str], Awaitable[None]]

    async def take(self, lane: int, *members: str, limit: int = 2, ttl_ms: int = LONG_MS) -> list[SlotVerdict]:
        return await self.gate.take_many([SlotRequest(lane, member, limit, ttl_ms) for member in members])

    async def all_members(self, lane: int) -> list[str]:
        found: list[str] = []
        cursor = 0
        while True:
            cursor, page = await self.gate.members(lane, cursor, 100)
            found += page
            if not cursor:
                return sorted(found)


@pytest.fixture(params=["fake", "real"])
async def case(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakeQueueGate()

        async def lapse(lane: int, member: str) -> None:
            fake.lapse(lane, member)

        yield Case(fake, lapse)
        return
    async with open_doors(redis_url) as doors:
        yield Case(doors.gate, doors.lapse_slot)


async def test_takes_until_the_limit(case: Case) -> None:
    assert await case.take(1, "a", "b", "c") == [TAKEN, TAKEN, FULL]
    assert await case.gate.depths([1]) == [2]


async def test_the_same_member_again_holds_what_it_has(case: Case) -> None:
    assert await case.take(1, "a", "a", "b") == [TAKEN, HELD, TAKEN]
    assert await case.take(1, "b", "c") == [HELD, FULL]
    assert await case.gate.depths([1]) == [2]


async def test_a_batch_over_lanes_is_answered_in_order(case: Case) -> None:
    requests = [
        SlotRequest(1, "a", 1, LONG_MS),
        SlotRequest(2, "b", 1, LONG_MS),
        SlotRequest(1, "c", 1, LONG_MS),
        SlotRequest(2, "b", 1, LONG_MS),
        SlotRequest(1, "d", 2, LONG_MS),  # the limit was raised meanwhile
        SlotRequest(3, "e", 0, LONG_MS),
    ]
    assert await case.gate.take_many(requests) == [TAKEN, TAKEN, FULL, HELD, TAKEN, FULL]
    assert await case.gate.depths([1, 2, 3, 4]) == [2, 1, 0, 0]


async def test_nothing_asked_nothing_done(case: Case) -> None:
    assert await case.gate.take_many([]) == []
    await case.gate.release_many([])
    await case.gate.renew_many(1, [], LONG_MS)
    await case.gate.restore(1, [])
    assert await case.gate.depths([]) == []
    assert await case.gate.members(1, 0, 100) == (0, [])


async def test_more_than_one_script_may_carry_keep_order(case: Case) -> None:
    members = [f"m{number}" for number in range(2_500)]
    verdicts = await case.take(1, *members, limit=2_400)
    assert verdicts == [TAKEN] * 2_400 + [FULL] * 100
    await case.gate.release_many([(1, member) for member in members[:2_399]])
    assert await case.all_members(1) == ["m2399"]


async def test_releasing_gives_the_slot_to_another(case: Case) -> None:
    await case.take(1, "a", "b")
    await case.gate.release_many([(1, "a"), (2, "b")])
    assert await case.take(1, "c", "d") == [TAKEN, FULL]


async def test_releasing_twice_or_a_stranger_changes_nothing(case: Case) -> None:
    await case.take(1, "a", "b")
    await case.gate.release_many([(1, "a"), (1, "a"), (1, "nobody")])
    await case.gate.release_many([(1, "a")])
    assert await case.gate.depths([1]) == [1]


async def test_a_lapsed_slot_is_free(case: Case) -> None:
    await case.take(1, "a", "b")
    await case.lapse(1, "a")
    assert await case.gate.depths([1]) == [1]
    assert await case.take(1, "c", "a") == [TAKEN, FULL]


async def test_slots_lapse_by_themselves(case: Case) -> None:
    await case.take(1, "a", "b", ttl_ms=20)

    async def empty() -> bool:
        return await case.gate.depths([1]) == [0]

    await eventually(empty, what="both slots lapsed")


async def test_renewing_prolongs_what_is_past_half_of_its_life(case: Case) -> None:
    await case.take(1, "old", ttl_ms=1_000)
    await case.gate.renew_many(1, ["old"], LONG_MS)  # a second left of an hour
    await case.take(1, "marker", ttl_ms=1_000)

    async def marker_lapsed() -> bool:
        return await case.gate.depths([1]) == [1]

    await eventually(marker_lapsed, what="the marker lapsed")
    assert await case.take(1, "old") == [HELD]


async def test_asking_again_prolongs_what_is_held(case: Case) -> None:
    await case.take(1, "old", ttl_ms=300)
    assert await case.take(1, "old") == [HELD]
    assert await case.take(1, "old", ttl_ms=1) == [HELD]  # and never shortens it
    await case.take(1, "marker", ttl_ms=300)

    async def marker_lapsed() -> bool:
        return await case.gate.depths([1]) == [1]

    await eventually(marker_lapsed, what="the marker lapsed")
    assert await case.take(1, "old") == [HELD]


async def test_renewing_adds_nobody(case: Case) -> None:
    await case.take(1, "a", "b")
    await case.gate.release_many([(1, "a")])
    await case.lapse(1, "b")
    await case.gate.renew_many(1, ["a", "b", "c"], LONG_MS)
    assert await case.gate.depths([1]) == [0]


async def test_restoring_adds_past_the_limit_and_takes_nothing_away(case: Case) -> None:
    await case.take(1, "a", "b")
    await case.gate.restore(1, [("b", 0), ("c", LONG_MS), ("d", LONG_MS)])
    assert await case.gate.depths([1]) == [4]
    assert await case.take(1, "e", "b") == [FULL, HELD]


async def test_members_are_found_page_by_page(case: Case) -> None:
    members = [f"m{number:03}" for number in range(500)]
    await case.take(1, *members, limit=500)
    assert await case.all_members(1) == members


async def test_tells_who_has_no_slot(case: Case) -> None:
    await case.take(1, "a", "b", "c", limit=3)
    await case.gate.release_many([(1, "a")])
    await case.lapse(1, "b")
    assert await case.gate.missing(1, ["a", "b", "c", "stranger"]) == ["a", "b", "stranger"]
    assert await case.gate.missing(1, ["c"]) == []
    assert await case.gate.missing(2, []) == []
