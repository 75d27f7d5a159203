"""Whose turn it is when thousands listen to one tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

import pytest

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports_push import TaskState
from libs.common.runtime.metrics import REGISTRY
from services.api.push import hub as hubs
from services.api.push.hub import Hub
from services.api.push.news import News
from services.api.push.stream import Stream, Wanted
from tests.support.waiting import until
from tests.unit.api.test_push_telling import STATE, FakeAudience

CROWD, QUIET = 1, 2
LISTENERS = 1_500
TASKS = 200


@dataclass
class FakeStates:
    """Implements ports_push.TaskStates: every task is there, and was submitted."""

    reads: int = 0
    looks: int = 0
    slow: float = 0.0
    trouble: Exception | None = None
    away: bool = False
    version: int = STATE.version

    async def by_ids(self, tasks: Sequence[tuple[int, int]]) -> list[TaskState]:
        self.reads += 1
        if self.away:
            raise DatabaseUnavailable("away")
        same = replace(STATE, version=self.version)
        return [replace(same, id=task, public_id=UUID(int=task), tenant_id=tenant) for tenant, task in tasks]

    async def find(self, tenant_id: int, public_id: UUID) -> TaskState | None:
        return None

    async def newest(self, tenant_id: int, before: int | None, limit: int) -> list[TaskState]:
        self.looks += 1
        await asyncio.sleep(self.slow)
        if self.trouble is not None:
            raise self.trouble
        return []


class Bench:
    """A hub to which many listen for one tenant, and one for another."""

    def __init__(self) -> None:
        self.states, self.audience = FakeStates(), FakeAudience()
        self.hub = Hub(self.states, self.audience, most=2 * LISTENERS)
        self.crowd: list[Stream] = []
        self._nobody_hears = self.audience.say

    def told(self) -> int:
        """What was told, in whole rounds."""
        return int(REGISTRY.get_sample_value("sluiceway_push_events_total") or 0) - self._before

    async def gather(self, listeners: int) -> Stream:
        self.crowd = [await self.hub.listen(CROWD, Wanted()) for _ in range(listeners)]
        quiet = await self.hub.listen(QUIET, Wanted())
        await until(lambda: self.audience.say is not self._nobody_hears)
        self._before = 0
        self._before = self.told()
        return quiet


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    running = asyncio.create_task(made.hub.run())
    try:
        yield made
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_crowd_of_listeners_delays_no_other_tenants_news() -> None:
    async with bench() as rig:
        quiet = await rig.gather(LISTENERS)
        rig.audience.say(CROWD, list(range(1, TASKS + 1)))
        await until(lambda: rig.states.reads > 0)
        rig.audience.say(CROWD, [TASKS + 1])  # waits until those are told
        rig.audience.say(QUIET, [1_000])
        heard = await quiet.next(20)
        assert [news.task for news in heard or ()] == [1_000]
        assert rig.told() < LISTENERS * TASKS, "the crowd is still being told"
        await until(lambda: rig.told() == LISTENERS * (TASKS + 1) + 1, seconds=30)
        for stream in rig.crowd:
            assert [news.task for news in await stream.next(1) or ()] == list(range(1, TASKS + 2))


async def test_who_is_woken_for_what_it_has_read_already_listens_on() -> None:
    stream = Stream(CROWD)
    stream.woken_by(lambda _sleeper: None)  # as the hub does it: later, and meanwhile the stream may look by itself
    stream.offer(News.of(STATE))
    assert await stream.next(0) == [News.of(STATE)]
    waiting = asyncio.create_task(stream.next(5))
    await asyncio.sleep(0)
    stream.wake()
    assert await waiting == []
    stream.close()
    assert await stream.next(5) is None


async def test_a_tenant_that_changes_much_leaves_others_their_share_of_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "_BATCH", 4)
    async with bench() as rig:
        quiet = await rig.gather(1)
        rig.audience.say(CROWD, list(range(1, 41)))
        rig.audience.say(QUIET, [1_000])
        assert await quiet.next(20)
        assert rig.states.reads <= 2
        await until(lambda: rig.told() == 41)


async def test_what_could_not_be_read_is_read_when_postgresql_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "_AWAY_SECONDS", 0.01)
    async with bench() as rig:
        quiet = await rig.gather(1)
        rig.states.away = True
        rig.audience.say(QUIET, [1_000])
        await until(lambda: rig.states.reads > 2)
        rig.states.away = False
        assert [news.task for news in await quiet.next(20) or ()] == [1_000]


async def test_one_slow_look_does_not_put_off_the_next_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "LOOK_SECONDS", 0.1)
    async with bench() as rig:
        await rig.gather(0)
        rig.states.slow = 0.5
        looks = rig.states.looks
        await until(lambda: rig.states.looks > looks)
        rig.states.slow = 0.0
        await until(lambda: rig.states.looks > looks + 2, seconds=3)


@pytest.mark.parametrize("trouble", [DatabaseUnavailable("away"), RuntimeError("a surprise")])
async def test_a_look_that_fails_is_followed_by_others(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    monkeypatch.setattr(hubs, "LOOK_SECONDS", 0.05)
    async with bench() as rig:
        await rig.gather(0)
        rig.states.trouble = trouble
        looks = rig.states.looks
        await until(lambda: rig.states.looks > looks + 2, seconds=5)


async def test_an_older_state_behind_an_outage_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "_AWAY_SECONDS", 0.01)
    async with bench() as rig:
        rig.states.version = 9
        quiet = await rig.gather(1)
        rig.audience.say(QUIET, [1_000])
        assert [news.stage.version for news in await quiet.next(20) or ()] == [9]
        rig.states.version = 4
        rig.audience.say(QUIET, [1_000])
        await until(lambda: rig.states.reads > 1)
        rig.states.away = True
        rig.audience.say(QUIET, [1_000])
        await until(lambda: rig.states.reads > 3)
        rig.states.away = False
        assert [news.stage.version for news in await quiet.next(20) or ()] == [4]


async def test_each_outage_that_only_looks_meet_leaves_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "LOOK_SECONDS", 0.05)
    async with bench() as rig:
        await rig.gather(0)
        circle = rig.hub._circles[QUIET]
        for _ in range(2):
            rig.states.trouble = DatabaseUnavailable("away")
            await until(lambda: circle.deaf)
            rig.states.trouble = None
            await until(lambda: not circle.deaf)
            await asyncio.sleep(0.2)
