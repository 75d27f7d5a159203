"""Slots and permits go back, also when Redis was away for a while."""

from __future__ import annotations

from libs.common.ports import PermitRequest, SlotRequest
from services.janitor.returns import Returns
from tests.support.fakes_redis import FakePermits, FakeQueueGate

LONG_MS = 60_000


async def taken(gate: FakeQueueGate, permits: FakePermits) -> tuple[list[int], list[int]]:
    return await gate.depths([1]), await permits.in_use([1])


async def test_what_is_given_goes_back() -> None:
    gate, permits = FakeQueueGate(), FakePermits()
    await gate.take_many([SlotRequest(1, "a", 5, LONG_MS), SlotRequest(1, "b", 5, LONG_MS)])
    await permits.acquire_many([PermitRequest(1, "t", 5, LONG_MS)])
    await Returns(gate, permits).give(slots=[(1, "a")], permits=[(1, "t")])
    assert await taken(gate, permits) == ([1], [0])


async def test_what_redis_cannot_take_now_goes_with_the_next_call() -> None:
    gate, permits = FakeQueueGate(), FakePermits()
    returns = Returns(gate, permits)
    await gate.take_many([SlotRequest(1, name, 5, LONG_MS) for name in "abc"])
    gate.available = False
    await returns.give(slots=[(1, "a")])
    assert not await returns.flush()
    gate.available = True
    await returns.give(slots=[(1, "b")])
    assert await taken(gate, permits) == ([1], [0])


async def test_permits_go_first_and_wait_apart_from_slots() -> None:
    gate, permits = FakeQueueGate(), FakePermits()
    returns = Returns(gate, permits)
    await gate.take_many([SlotRequest(1, "a", 5, LONG_MS)])
    await permits.acquire_many([PermitRequest(1, "t", 5, LONG_MS)])
    gate.available = False
    await returns.give(slots=[(1, "a")], permits=[(1, "t")])
    assert await permits.in_use([1]) == [0]
    gate.available = True
    assert await returns.flush()
    assert await taken(gate, permits) == ([0], [0])
