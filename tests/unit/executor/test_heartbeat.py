"""The sign of life, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports_attempts import Answered, Identity, Paused, Posture
from services.executor.heartbeat import TRUST_SECONDS, Heartbeat


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Table:
    """A membership in memory."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.numbers = 0
        self.beats: list[tuple[int, int, str]] = []
        self.answer: Answered | None = Answered()
        self.trouble: Exception | None = None
        self.takes = 0.0

    async def join(self, me: Identity) -> int:
        self.numbers += 1
        return self.numbers

    async def beat(self, running: int, held: int, posture: Posture) -> Answered | None:
        self.time.now += self.takes
        if self.trouble is not None:
            raise self.trouble
        self.beats.append((running, held, posture))
        return self.answer

    async def leave(self) -> None: ...


class Owner:
    """What the heartbeat tells."""

    def __init__(self) -> None:
        self.canceled: list[int] = []
        self.sorted_out = 0
        self.buried_as: list[int] = []
        self.told_reading: list[bool] = []
        self.orders: list[tuple[bool, Paused]] = []
        self.sorting_fails = False

    def load(self) -> tuple[int, int]:
        return 3, 4

    def posture(self) -> Posture:
        return "reading"

    def ordered(self, *, drain: bool, paused: Paused) -> None:
        self.orders.append((drain, paused))

    def told(self, *, reading: bool) -> None:
        self.told_reading.append(reading)

    def cancel(self, tasks: Sequence[int]) -> None:
        self.canceled += tasks

    async def sort_out(self) -> None:
        self.sorted_out += 1
        if self.sorting_fails:
            raise DatabaseUnavailable("away again")

    def buried(self, number: int) -> None:
        self.buried_as.append(number)


async def beating() -> tuple[Heartbeat, Table, Owner, Time]:
    time = Time()
    table, owner = Table(time), Owner()
    membership: Any = table
    heartbeat = Heartbeat(membership, Identity("me", 10, ("a",), "1", ("plain-http",)), time)
    await heartbeat.join()
    return heartbeat, table, owner, time


async def test_a_beat_says_what_is_true_and_brings_back_what_is_canceled() -> None:
    heartbeat, table, owner, _ = await beating()
    table.answer = Answered([7, 8], True, Paused(lanes=frozenset({4})))
    assert await heartbeat._beat(owner)
    assert table.beats == [(3, 4, "reading")]
    assert owner.orders == [(True, Paused(lanes=frozenset({4})))]
    assert owner.canceled == [7, 8]
    assert owner.told_reading == [True]
    assert owner.sorted_out == 0


async def test_trust_ends_six_seconds_after_the_last_answered_beat_was_sent() -> None:
    heartbeat, table, owner, time = await beating()
    table.takes = 2.0
    await heartbeat._beat(owner)
    time.now += TRUST_SECONDS - 2.1
    assert heartbeat.trusted
    time.now += 0.2
    assert not heartbeat.trusted


@pytest.mark.parametrize("trouble", [DatabaseUnavailable("away"), RuntimeError("a surprise")])
async def test_failed_beats_do_not_renew_trust(trouble: Exception) -> None:
    heartbeat, table, owner, time = await beating()
    table.trouble = trouble
    for _ in range(4):
        time.now += 2.0
        assert not await heartbeat._beat(owner)
        assert not heartbeat.answering
    assert not heartbeat.trusted
    assert owner.sorted_out == 0


async def test_after_a_silence_trust_comes_back_only_when_all_is_sorted_out() -> None:
    heartbeat, _, owner, time = await beating()
    time.now += 60
    owner.sorting_fails = True
    assert not await heartbeat._beat(owner)
    assert not heartbeat.trusted
    owner.sorting_fails = False
    assert await heartbeat._beat(owner)
    assert heartbeat.trusted
    assert heartbeat.answering
    assert owner.sorted_out == 2


async def test_who_was_presumed_dead_joins_under_a_new_number() -> None:
    heartbeat, table, owner, _ = await beating()
    table.answer = None
    assert await heartbeat._beat(owner)
    assert owner.buried_as == [2]
    assert heartbeat.number == 2
    assert heartbeat.trusted


async def test_waiting_for_trust_ends_with_the_next_answered_beat() -> None:
    heartbeat, _, owner, time = await beating()
    time.now += 60
    waiting = asyncio.ensure_future(heartbeat.regain())
    await asyncio.sleep(0)
    assert not waiting.done()
    await heartbeat._beat(owner)
    await asyncio.wait_for(waiting, 1)


async def test_a_beat_that_is_long_under_way_counts_as_unanswered() -> None:
    heartbeat, _, _, time = await beating()
    assert heartbeat.answering
    heartbeat._asked_at = time.now
    time.now += 1.5
    assert not heartbeat.answering
