"""What every Permits keeps, the real one and the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from libs.common.contracts.hints import PERMIT
from libs.common.ports import PermitRequest, Permits
from tests.support.fakes_redis import FakePermits
from tests.support.redis_doors import LONG_MS, eventually, open_doors, open_ear


@dataclass(frozen=True, slots=True)
class Case:
    permits: Permits
    lapse: Callable[[int, str], Awaitable[None]]
    wakes: Callable[[], Awaitable[list[int]]]  #: lanes that were woken since the last call

    async def acquire(self, lane: int, *tokens: str, limit: int = 2, ttl_ms: int = LONG_MS) -> list[bool]:
        return await self.permits.acquire_many([PermitRequest(lane, token, limit, ttl_ms) for token in tokens])

    async def settle(self, lane: int) -> None:
        """A new lane wakes everybody at its first release: get that behind us."""
        await self.acquire(lane, "first")
        await self.permits.release_many([(lane, "first")])
        await self.wakes()


@pytest.fixture(params=["fake", "real"])
async def case(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakePermits()

        async def lapse(lane: int, token: str) -> None:
            fake.lapse(lane, token)

        async def wakes() -> list[int]:
            woken, fake.wakes = fake.wakes, []
            return woken

        yield Case(fake, lapse, wakes)
        return
    async with (
        open_doors(redis_url) as doors,
        open_ear(doors.redis, PERMIT) as ear,
    ):

        async def heard() -> list[int]:
            return [int(lane) for lane in await ear.heard()]

        yield Case(doors.permits, doors.lapse_permit, heard)


async def test_grants_what_there_is_room_for_in_order(case: Case) -> None:
    assert await case.acquire(1, "a", "b", "c") == [True, True, False]
    assert await case.permits.in_use([1]) == [2]


async def test_a_token_that_has_a_permit_gets_it_again(case: Case) -> None:
    assert await case.acquire(1, "a", "b") == [True, True]
    assert await case.acquire(1, "c", "a") == [False, True]
    assert await case.permits.in_use([1]) == [2]


async def test_lanes_have_nothing_to_do_with_each_other(case: Case) -> None:
    requests = [PermitRequest(lane, f"t{lane}{n}", 1, LONG_MS) for n in range(2) for lane in (1, 2, 3)]
    assert await case.permits.acquire_many(requests) == [True] * 3 + [False] * 3
    await case.permits.release_many([(2, "t20"), (3, "t10")])
    assert await case.permits.in_use([1, 2, 3]) == [1, 0, 1]


async def test_nothing_asked_nothing_done(case: Case) -> None:
    assert await case.permits.acquire_many([]) == []
    await case.permits.release_many([])
    await case.permits.rename_many([])
    await case.permits.restore(1, [])
    assert await case.permits.in_use([]) == []
    assert await case.permits.members(1, 0, 100) == (0, [])


async def test_only_its_own_token_releases_a_permit(case: Case) -> None:
    await case.acquire(1, "winner", limit=1)
    await case.permits.release_many([(1, "loser"), (1, "loser")])
    assert await case.permits.in_use([1]) == [1]
    assert await case.acquire(1, "other", limit=1) == [False]


async def test_a_refusal_is_woken_once(case: Case) -> None:
    await case.settle(1)
    await case.acquire(1, "a", "b", "refused", "refused too")
    await case.permits.release_many([(1, "a"), (1, "b")])
    assert await case.wakes() == [1]
    await case.acquire(1, "a")
    await case.permits.release_many([(1, "a")])
    assert await case.wakes() == []


async def test_nobody_is_woken_when_nobody_was_refused(case: Case) -> None:
    await case.settle(1)
    await case.acquire(1, "a", "b")
    await case.permits.release_many([(1, "a")])
    assert await case.wakes() == []


async def test_a_release_that_frees_nothing_wakes_nobody(case: Case) -> None:
    await case.settle(1)
    await case.acquire(1, "a", "b", "refused")
    await case.permits.release_many([(1, "stranger")])
    assert await case.wakes() == []
    await case.permits.release_many([(1, "a"), (1, "a")])
    await case.permits.release_many([(1, "a")])
    assert await case.wakes() == [1]


async def test_only_the_lane_of_the_refusal_is_woken(case: Case) -> None:
    await case.settle(1)
    await case.settle(2)
    await case.acquire(1, "a", "refused", limit=1)
    await case.acquire(2, "b", limit=1)
    await case.permits.release_many([(1, "a"), (2, "b")])
    assert await case.wakes() == [1]


async def test_a_lapsed_permit_is_free(case: Case) -> None:
    await case.acquire(1, "a", "b")
    await case.lapse(1, "a")
    assert await case.permits.in_use([1]) == [1]
    assert await case.acquire(1, "c", "a") == [True, False]


async def test_permits_lapse_by_themselves(case: Case) -> None:
    await case.acquire(1, "a", "b", ttl_ms=20)

    async def empty() -> bool:
        return await case.permits.in_use([1]) == [0]

    await eventually(empty, what="both permits lapsed")


async def test_renaming_keeps_the_count(case: Case) -> None:
    await case.acquire(1, "a", "b")
    await case.permits.rename_many([(1, "a", "c", LONG_MS), (1, "b", "d", LONG_MS)])
    assert await case.permits.in_use([1]) == [2]
    assert await case.acquire(1, "a", "c") == [False, True]


async def test_renaming_twice_changes_nothing(case: Case) -> None:
    await case.acquire(1, "a", "b")
    for _ in range(2):
        await case.permits.rename_many([(1, "a", "c", LONG_MS)])
    assert await case.permits.in_use([1]) == [2]
    await case.permits.release_many([(1, "c")])
    assert await case.permits.in_use([1]) == [1]


async def test_a_renamed_permit_is_there_even_if_the_old_one_lapsed(case: Case) -> None:
    await case.acquire(1, "a", "b")
    await case.lapse(1, "a")
    await case.permits.rename_many([(1, "a", "c", LONG_MS), (2, "gone", "e", LONG_MS)])
    assert await case.permits.in_use([1, 2]) == [2, 1]
    assert await case.acquire(1, "d") == [False]


async def test_restoring_adds_past_the_limit(case: Case) -> None:
    await case.acquire(1, "a", "b")
    await case.permits.restore(1, [("b", 0), ("c", LONG_MS)])
    assert await case.permits.in_use([1]) == [3]
    assert await case.acquire(1, "d", "b") == [False, True]


async def test_tokens_are_found_page_by_page(case: Case) -> None:
    tokens = [f"t{number:03}" for number in range(300)]
    await case.acquire(1, *tokens, limit=300)
    found: set[str] = set()
    cursor = 0
    while True:
        cursor, page = await case.permits.members(1, cursor, 50)
        found.update(page)
        if not cursor:
            break
    assert sorted(found) == tokens


async def test_tells_which_tokens_have_no_permit(case: Case) -> None:
    await case.acquire(1, "a", "b")
    await case.permits.rename_many([(1, "a", "c", LONG_MS)])
    await case.lapse(1, "b")
    assert await case.permits.missing(1, ["a", "b", "c"]) == ["a", "b"]
    assert await case.permits.missing(1, ["c"]) == []
