"""The wait room: few questions for many waiters, told soon, let go in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest

from libs.common.domain.errors import DatabaseUnavailable
from services.api.waiting import WaitRoom


class Tasks:
    """Which tasks have ended, and every question about it."""

    def __init__(self) -> None:
        self.ended: set[UUID] = set()
        self.questions: list[Sequence[tuple[int, UUID]]] = []
        self.trouble: Exception | None = None
        self._asked = asyncio.Event()

    async def asked(self, times: int) -> None:
        """Return when that many questions were asked."""
        while len(self.questions) < times:
            self._asked.clear()
            await asyncio.wait_for(self._asked.wait(), 2)

    async def final_among(self, asked: Sequence[tuple[int, UUID]]) -> set[UUID]:
        self.questions.append(asked)
        self._asked.set()
        if self.trouble is not None:
            raise self.trouble
        return self.ended & {public_id for _, public_id in asked}


async def stay() -> None:
    """A caller who never leaves."""
    await asyncio.Event().wait()


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
async def room(tasks: Tasks) -> AsyncIterator[WaitRoom]:
    room = WaitRoom(tasks.final_among)
    running = asyncio.create_task(room.run())
    yield room
    room.close()
    await asyncio.wait_for(running, 2)
    assert room.waiting == 0


async def test_an_end_is_told_soon(room: WaitRoom, tasks: Tasks) -> None:
    task = uuid4()
    waiting = asyncio.create_task(room.wait(7, task, 10, stay))
    await tasks.asked(2)
    assert not waiting.done()
    tasks.ended.add(task)
    await asyncio.wait_for(waiting, 1)
    assert tasks.questions[0] == [(7, task)]


async def test_time_is_up(room: WaitRoom) -> None:
    began = time.monotonic()
    await room.wait(7, uuid4(), 0.1, stay)
    assert 0.09 < time.monotonic() - began < 5


async def test_many_share_a_question(room: WaitRoom, tasks: Tasks) -> None:
    ids = [uuid4() for _ in range(300)]
    await asyncio.gather(*[room.wait(7, task, 0.15, stay) for task in ids])
    assert len(tasks.questions) < 20
    assert max(len(question) for question in tasks.questions) >= 100


async def test_who_waits_longer_is_asked_about_less_often(room: WaitRoom, tasks: Tasks) -> None:
    await room.wait(7, uuid4(), 1, stay)
    # every 20 ms for 0.2 s, then a tenth later each time: 10 + ln 5 / ln 1.1 = 27, and one at the end
    assert len(tasks.questions) <= 28


@pytest.mark.parametrize("trouble", [DatabaseUnavailable("away"), RuntimeError("a surprise")])
async def test_trouble_ends_nobody_s_wait(room: WaitRoom, tasks: Tasks, trouble: Exception) -> None:
    task = uuid4()
    tasks.trouble = trouble
    tasks.ended.add(task)
    waiting = asyncio.create_task(room.wait(7, task, 10, stay))
    await tasks.asked(2)
    assert not waiting.done()
    tasks.trouble = None
    await asyncio.wait_for(waiting, 2)


async def test_closing_lets_everybody_go_and_nobody_in(tasks: Tasks) -> None:
    room = WaitRoom(tasks.final_among)
    running = asyncio.create_task(room.run())
    waiting = [asyncio.create_task(room.wait(7, uuid4(), 60, stay)) for _ in range(5)]
    await tasks.asked(1)
    room.close()
    await asyncio.wait_for(asyncio.gather(*waiting, running), 1)
    await asyncio.wait_for(room.wait(7, uuid4(), 60, stay), 1)


async def test_a_cancelled_waiter_is_forgotten(room: WaitRoom, tasks: Tasks) -> None:
    waiting = asyncio.create_task(room.wait(7, uuid4(), 60, stay))
    await tasks.asked(1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert room.waiting == 0


async def test_who_leaves_is_let_go(room: WaitRoom, tasks: Tasks) -> None:
    gone = asyncio.Event()

    async def leaving() -> None:
        await gone.wait()

    waiting = asyncio.create_task(room.wait(7, uuid4(), 60, leaving))
    await tasks.asked(1)
    gone.set()
    assert not await asyncio.wait_for(waiting, 1)
    assert room.waiting == 0
