"""Who waits for room, and leaves, takes none with it."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.runtime.room import Room


async def test_whoever_goes_away_just_as_it_is_let_in_leaves_its_room_to_others() -> None:
    room = Room(everything=10, of_a_tenant=10)
    await room.take(1, 10)
    waiting = asyncio.create_task(room.take(2, 10))
    await asyncio.sleep(0)
    room.give_back(1, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.wait_for(room.take(3, 10), 1) == 10


async def test_whoever_goes_away_from_the_queue_lets_those_behind_go_on() -> None:
    room = Room(everything=10, of_a_tenant=10)
    await room.take(1, 6)
    large, small = asyncio.create_task(room.take(2, 10)), asyncio.create_task(room.take(3, 4))
    await asyncio.sleep(0)
    assert not small.done(), "it would overtake"
    large.cancel()
    assert await asyncio.wait_for(small, 1) == 4


async def test_what_is_larger_than_a_tenants_part_gets_that_and_waits_for_nobody_elses() -> None:
    room = Room(everything=10, of_a_tenant=5)
    assert await asyncio.wait_for(room.take(1, 100), 1) == 5
    second = asyncio.create_task(room.take(1, 1))
    assert await asyncio.wait_for(room.take(2, 5), 1) == 5
    assert not second.done()
    room.give_back(1, 5)
    assert await asyncio.wait_for(second, 1) == 1
