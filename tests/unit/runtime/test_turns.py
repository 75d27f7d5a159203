"""Work beside the loop, one owner after the other."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from libs.common.runtime.turns import Turns


async def test_owners_take_turns_however_much_work_one_of_them_has() -> None:
    turns, done = Turns(), list[int]()

    def work(owner: int) -> None:
        time.sleep(0.005)
        done.append(owner)

    flood = [asyncio.ensure_future(turns.take(1, lambda: work(1))) for _ in range(50)]
    await asyncio.sleep(0.001)
    await turns.take(2, lambda: work(2))
    assert len(done) <= 3
    await asyncio.gather(*flood)
    assert done.count(1) == 50


async def test_it_is_done_in_a_thread_of_its_own_and_gives_what_it_gives() -> None:
    turns = Turns()
    assert await turns.take(1, threading.get_ident) != threading.get_ident()
    with pytest.raises(KeyError):
        await turns.take(1, lambda: {}["nothing"])


async def test_who_leaves_the_line_holds_up_nobody() -> None:
    turns, go_on = Turns(), threading.Event()
    first = asyncio.ensure_future(turns.take(1, go_on.wait))
    left = asyncio.ensure_future(turns.take(1, lambda: None))
    await asyncio.sleep(0.01)
    left.cancel()
    first.cancel()
    go_on.set()
    assert await turns.take(1, lambda: 7) == 7
