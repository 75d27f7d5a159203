"""What every Hints keeps, those of Redis and the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.hints import open_hints
from libs.common.ports import Hints
from tests.support.fakes_redis import FakeHints
from tests.support.redis_doors import eventually
from tests.support.waiting import until


@dataclass(frozen=True, slots=True)
class Case:
    hints: Hints
    listeners: Callable[[str], Awaitable[int]]  #: how many listen to a channel

    @asynccontextmanager
    async def listening(self, *channels: str) -> AsyncIterator[list[tuple[str, str]]]:
        """What is heard on these channels for the length of the block."""
        heard: list[tuple[str, str]] = []

        def on_lines(channel: str, lines: list[str]) -> None:
            heard.extend((channel, line) for line in lines)

        before = [await self.listeners(channel) for channel in channels]
        task = asyncio.create_task(self.hints.listen(channels, on_lines))

        async def ready() -> bool:
            now = [await self.listeners(channel) for channel in channels]
            return all(count > others for count, others in zip(now, before, strict=True))

        await eventually(ready, what="somebody listens")
        yield heard
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

        async def gone() -> bool:
            return [await self.listeners(channel) for channel in channels] == before

        await eventually(gone, what="who has stopped listens no more")


@pytest.fixture(params=["fake", "real"])
async def case(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakeHints()

        async def listened(channel: str) -> int:
            return sum(channel in channels for channels, _ in fake._listeners)

        yield Case(fake, listened)
        return
    async with open_redis(redis_url, seconds=5) as redis, open_hints(redis) as hints:

        async def subscribed(channel: str) -> int:
            ((_, count),) = await redis.command_many([("PUBSUB", "NUMSUB", channel)])
            return int(count)

        yield Case(hints, subscribed)


async def test_who_listens_hears_the_lines_of_his_channels_in_order(case: Case) -> None:
    async with case.listening("sw:a", "sw:b") as heard, case.listening("sw:c") as others:
        for number in range(5):
            case.hints.publish_soon("sw:a", f"{number}")
        case.hints.publish_soon("sw:b", "b")
        case.hints.publish_soon("sw:c", "c")
        case.hints.publish_soon("sw:unheard", "x")
        await until(lambda: len(heard) == 6 and len(others) == 1)
        assert [line for channel, line in heard if channel == "sw:a"] == ["0", "1", "2", "3", "4"]
        assert ("sw:b", "b") in heard
        assert others == [("sw:c", "c")]


async def test_all_who_listen_hear_it(case: Case) -> None:
    async with case.listening("sw:a") as first, case.listening("sw:a") as second:
        case.hints.publish_soon("sw:a", "x")
        await until(lambda: first == second == [("sw:a", "x")])


async def test_who_has_stopped_hears_nothing_and_speaking_to_nobody_is_harmless(case: Case) -> None:
    case.hints.publish_soon("sw:a", "to nobody")
    async with case.listening("sw:a") as before:
        pass
    async with case.listening("sw:a") as heard:
        case.hints.publish_soon("sw:a", "x")
        await until(lambda: ("sw:a", "x") in heard)
    assert ("sw:a", "x") not in before


async def test_changes_may_always_be_said(case: Case) -> None:
    case.hints.changed([(7, 1), (7, 2)])
    case.hints.changed([])
