"""Slots and permits go back, also when Redis was away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports import PermitRequest, SlotRequest
from services.janitor.returns import Returns
from tests.support.fakes_redis import FakePermits, FakeQueueGate

LONG_MS = 60_000
A, B, C = (str(UUID(int=number)) for number in range(3))


async def all_absent(_: int, members: Sequence[UUID]) -> list[UUID]:
    return list(members)


async def taken(gate: FakeQueueGate, permits: FakePermits) -> tuple[list[int], list[int]]:
    return await gate.depths([1]), await permits.in_use([1])


async def test_what_is_given_goes_back() -> None:
    gate, permits = FakeQueueGate(), FakePermits()
    await gate.take_many([SlotRequest(1, A, 5, LONG_MS), SlotRequest(1, B, 5, LONG_MS)])
    await permits.acquire_many([PermitRequest(1, "t", 5, LONG_MS)])
    await Returns(gate, permits, all_absent).give(slots=[(1, A)], permits=[(1, "t")])
    assert await taken(gate, permits) == ([1], [0])


async def test_what_redis_cannot_take_now_goes_with_the_next_call() -> None:
    gate, permits = FakeQueueGate(), FakePermits()
    returns = Returns(gate, permits, all_absent)
    await gate.take_many([SlotRequest(1, name, 5, LONG_MS) for name in (A, B, C)])
    gate.available = False
    await returns.give(slots=[(1, A)])
    assert not await returns.flush()
    gate.available = True
    await returns.give(slots=[(1, B)])
    assert await taken(gate, permits) == ([1], [0])


async def test_permits_go_first_and_wait_apart_from_slots() -> None:
    gate, permits = FakeQueueGate(), FakePermits()
    returns = Returns(gate, permits, all_absent)
    await gate.take_many([SlotRequest(1, A, 5, LONG_MS)])
    await permits.acquire_many([PermitRequest(1, "t", 5, LONG_MS)])
    gate.available = False
    await returns.give(slots=[(1, A)], permits=[(1, "t")])
    assert await permits.in_use([1]) == [0]
    gate.available = True
    assert await returns.flush()
    assert await taken(gate, permits) == ([0], [0])


async def test_a_slot_that_had_to_wait_is_asked_about_first() -> None:
    async def absent(lane: int, members: Sequence[UUID]) -> list[UUID]:
        if not answers:
            raise DatabaseUnavailable("away")
        return [member for member in members if str(member) != A]

    gate, answers = FakeQueueGate(), False
    returns = Returns(gate, FakePermits(), absent)
    await gate.take_many([SlotRequest(1, name, 5, LONG_MS) for name in (A, B, C)])
    gate.available = False
    await returns.give(slots=[(1, A), (1, B)])
    gate.available = True
    assert not await returns.flush()
    assert await gate.depths([1]) == [3], "nobody says whose they are"
    answers = True
    await returns.give(slots=[(1, C)])
    assert await gate.depths([1]) == [1], "a task went on with it"


async def test_slots_that_another_call_is_giving_back_just_now_still_wait() -> None:
    """Else a retry takes one for its own, and loses it."""

    async def absent(_: int, members: Sequence[UUID]) -> list[UUID]:
        await answer.wait()
        return list(members)

    gate, answer = FakeQueueGate(), asyncio.Event()
    returns = Returns(gate, FakePermits(), absent)
    await gate.take_many([SlotRequest(1, name, 5, LONG_MS) for name in (A, B)])
    gate.available = False
    await returns.give(slots=[(1, A)])
    gate.available = True
    first = asyncio.create_task(returns.flush())
    await asyncio.sleep(0)  # it has but begun
    assert not await returns.flush()
    await returns.give(slots=[(1, B)])
    answer.set()
    assert await first
    assert await gate.depths([1]) == [1]
    assert await returns.flush()
    assert await gate.depths([1]) == [0]
