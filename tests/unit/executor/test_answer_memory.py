"""How answers share the memory: in order, no tenant all of it, and nothing lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from libs.common.ports_jobs import LITTLE_ANSWER
from libs.common.runtime.off_the_clock import off_the_clock
from services.executor.admission.slots import Slot, Slots
from services.executor.jobs.memory import AnswerMemory

MB = 2**20


async def begun(*awaited: Awaitable[object]) -> list[asyncio.Future[object]]:
    """These are under way, each as far as it comes."""
    tasks = [asyncio.ensure_future(one) for one in awaited]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_nothing_smaller_overtakes_what_waits() -> None:
    memory = AnswerMemory(everything=10 * MB, of_a_tenant=10 * MB)
    await memory.take(1, 6 * MB)
    large, small = await begun(memory.take(2, 8 * MB), memory.take(3, 1 * MB))
    assert (large.done(), small.done()) == (False, False)
    memory.give_back(1, 6 * MB)
    assert await asyncio.gather(large, small) == [8 * MB, 1 * MB]


async def test_a_tenant_leaves_others_their_part() -> None:
    memory = AnswerMemory(everything=10 * MB, of_a_tenant=5 * MB)
    await memory.take(1, 4 * MB)
    again, other = await begun(memory.take(1, 4 * MB), memory.take(2, 4 * MB))
    assert (again.done(), other.done()) == (False, True)
    memory.give_back(1, 4 * MB)
    await again


async def test_an_answer_larger_than_everything_is_taken_alone() -> None:
    memory = AnswerMemory(everything=10 * MB, of_a_tenant=5 * MB)
    share = memory.share(1, None)
    await share.take(64 * MB)
    (other,) = await begun(memory.take(1, MB))
    assert not other.done()
    share.release()
    share.release()
    await other


async def test_who_is_cancelled_while_it_waits_or_when_its_turn_has_come_takes_nothing() -> None:
    memory = AnswerMemory(everything=10 * MB, of_a_tenant=10 * MB)
    await memory.take(1, 8 * MB)
    waits, behind = await begun(memory.take(2, 5 * MB), memory.take(3, 2 * MB))
    waits.cancel()
    await behind
    (granted,) = await begun(memory.take(4, 5 * MB))
    memory.give_back(1, 8 * MB)
    granted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await granted
    assert await memory.take(5, 8 * MB) == 8 * MB


async def test_room_that_comes_back_as_who_waits_for_it_is_cancelled_goes_to_the_next() -> None:
    """Both are cancelled together, and the one that has room gives it back first."""
    memory = AnswerMemory(everything=10 * MB, of_a_tenant=10 * MB)
    share = memory.share(1, None)
    await share.take(8 * MB)
    waits, behind = await begun(memory.take(2, 5 * MB), memory.take(3, 4 * MB))
    waits.cancel()
    share.release()
    assert await behind == 4 * MB
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert await memory.take(4, 6 * MB) == 6 * MB


async def test_a_share_keeps_what_its_last_answer_needs() -> None:
    memory = AnswerMemory(everything=10 * MB, of_a_tenant=10 * MB)
    share = memory.share(1, None)
    await share.take(LITTLE_ANSWER)
    assert share._held == 0
    await share.take(9 * MB)
    await share.take(3 * MB)  # less of it came than had been possible
    await memory.take(2, 7 * MB)
    assert share._held == 3 * MB


async def test_who_waits_for_room_has_its_slot() -> None:
    slots, memory = Slots(1), AnswerMemory(everything=MB, of_a_tenant=MB)
    assert slots.take(1)
    slot = Slot(slots, 1, lambda: None)
    slot.give_back()
    assert slots.take(2)
    (asking,) = await begun(memory.share(1, slot).take(MB))
    await memory.take(3, MB)  # whoever has a slot is not kept waiting by one that has none
    slots.give_back(2)
    memory.give_back(3, MB)
    await asking


async def test_who_waits_for_memory_leaves_its_slot_to_who_has_some() -> None:
    """That one waits for room in staging, without its slot: each would wait for the other."""
    slots, memory = Slots(1), AnswerMemory(everything=MB, of_a_tenant=MB)
    assert slots.take(1)
    first = Slot(slots, 1, lambda: None)
    share = memory.share(1, first)
    await share.take(MB)
    first.give_back()
    assert slots.take(2)
    second = Slot(slots, 2, lambda: None)
    (asking,) = await begun(memory.share(2, second).take(MB))
    async with asyncio.timeout(1):
        await first.take_again()
        share.release()
        first.end()
        await asking
    assert slots.used == 1


async def test_a_wait_off_the_clock_uses_up_no_time() -> None:
    async with asyncio.timeout(0.2) as limit:
        await off_the_clock(limit, asyncio.sleep(0.4))

    async def too_slow() -> None:
        async with asyncio.timeout(0.2) as limit:
            await off_the_clock(limit, asyncio.sleep(0.1))
            await asyncio.sleep(1)

    with pytest.raises(TimeoutError):
        await too_slow()


async def test_what_is_still_answered_when_its_attempt_is_over_takes_no_slot_again() -> None:
    slots = Slots(1)
    slot = Slot(slots, 1, freed=lambda: None)
    assert slots.take(1)
    slot.give_back()
    assert slots.take(2)
    memory = AnswerMemory()
    (waiting,) = await begun(memory.share(1, slot).take(2 * LITTLE_ANSWER))
    slot.end()
    slots.give_back(2)
    await waiting
    await memory.share(1, slot).take(2 * LITTLE_ANSWER)
    assert slots.used == 0
