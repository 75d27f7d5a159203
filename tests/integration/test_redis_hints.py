"""Hints over a real Redis: gathered, heard, and said to be lost when they may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.hints import RedisHints, open_hints
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.ports import Hints
from tests.support.redis_doors import eventually, open_ear
from tests.support.slow_proxy import slow_proxy
from tests.support.waiting import until


class Listener:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.messages = 0
        self.gaps = 0

    def on_lines(self, channel: str, lines: list[str]) -> None:
        self.messages += 1
        self.lines += [(channel, line) for line in lines]

    def on_gap(self) -> None:
        self.gaps += 1


@asynccontextmanager
async def open_pair(url: str) -> AsyncIterator[RedisHints]:
    async with open_redis(url, seconds=5) as redis, open_hints(redis) as hints:
        yield hints


@asynccontextmanager
async def listening(url: str, listener: Listener, *channels: str) -> AsyncIterator[asyncio.Task[None]]:
    async with open_redis(url, seconds=5) as redis, open_hints(redis) as hints:
        port: Hints = hints
        task = asyncio.create_task(port.listen(channels, listener.on_lines, listener.on_gap))

        async def subscribed() -> bool:
            (counts,) = await redis.command_many([("PUBSUB", "NUMSUB", *channels)])
            return all(count >= 1 for count in counts[1::2])

        await eventually(subscribed, what="the subscription stands")
        yield task
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_neighbours_go_together_and_equal_lines_once(redis_url: str) -> None:
    listener = Listener()
    async with listening(redis_url, listener, "sw:a", "sw:b"), open_pair(redis_url) as hints:
        for number in range(300):
            hints.publish_soon("sw:a", f"{number % 100} room")
            hints.publish_soon("sw:b", "b")
            hints.publish_soon("sw:unheard", "x")
        await until(lambda: len(listener.lines) == 101)
        assert [line for channel, line in listener.lines if channel == "sw:a"] == [f"{n} room" for n in range(100)]
        assert listener.messages == 2
        assert listener.gaps == 0
        hints.publish_soon("sw:b", "b")
        await until(lambda: listener.messages == 3)


async def test_what_was_said_last_is_sent_before_closing(redis_url: str) -> None:
    async with open_redis(redis_url) as redis, open_ear(redis, "sw:a") as ear:
        async with open_pair(redis_url) as hints:
            hints.publish_soon("sw:a", "first")
            await asyncio.sleep(0)
            hints.publish_soon("sw:a", "last")
        assert await ear.heard() == ["first", "last"]


async def test_a_lost_connection_is_made_again_and_told_as_a_gap(redis_url: str) -> None:
    listener = Listener()
    async with (
        listening(redis_url, listener, "sw:a"),
        open_pair(redis_url) as hints,
        open_redis(redis_url) as other,
    ):

        async def lose_and_recover(times: int) -> None:
            await other.command_many([("CLIENT", "KILL", "TYPE", "pubsub")])
            await until(lambda: listener.gaps == times)
            hints.publish_soon("sw:a", f"after {times}")
            await until(lambda: ("sw:a", f"after {times}") in listener.lines)

        await lose_and_recover(1)
        await lose_and_recover(2)


async def test_it_hears_again_after_redis_was_away(servers_folder: Path) -> None:
    server = EmbeddedRedis(servers_folder / "redis-of-hint-tests")
    await server.start()
    try:
        listener = Listener()
        async with listening(server.address, listener, "sw:a"), open_pair(server.address) as hints:
            await server.kill()
            hints.publish_soon("sw:a", "lost")
            await until(lambda: hints.lost == 1)
            await server.start()
            await until(lambda: listener.gaps == 1)
            hints.publish_soon("sw:a", "heard")
            await until(lambda: listener.lines == [("sw:a", "heard")])
    finally:
        await server.stop()


async def test_it_starts_to_hear_when_redis_comes_up_later(servers_folder: Path) -> None:
    server = EmbeddedRedis(servers_folder / "redis-that-is-late")
    listener = Listener()
    async with open_pair(server.address) as hints:
        task = asyncio.create_task(hints.listen(["sw:a"], listener.on_lines, listener.on_gap))
        await asyncio.sleep(0)
        await server.start()
        try:
            await until(lambda: listener.gaps == 1)  # what was said before was not heard
            hints.publish_soon("sw:a", "heard")
            await until(lambda: bool(listener.lines))
        finally:
            task.cancel()
            await asyncio.wait([task])
            await server.stop()


async def test_a_greeting_without_an_answer_makes_nobody_deaf(redis_url: str) -> None:
    """A proxy takes the connection, and what stands behind it says nothing to it."""
    listener = Listener()
    async with slow_proxy(redis_url) as proxy, open_pair(redis_url) as hints:
        proxy.hold = asyncio.Event()
        greeted = urlsplit(proxy.url)._replace(path="/1").geturl()  # another database than the first is asked for
        async with open_redis(greeted, seconds=0.5) as redis:
            task = asyncio.create_task(RedisHints(redis).listen(["sw:a"], listener.on_lines, listener.on_gap))
            await until(lambda: listener.gaps == 1)  # what was said before was not heard
            hints.publish_soon("sw:a", "heard")
            await until(lambda: bool(listener.lines))
            task.cancel()
            await asyncio.wait([task])


async def test_lines_beyond_all_measure_are_dropped_and_counted(redis_url: str) -> None:
    async with open_pair(redis_url) as hints:
        for number in range(10_005):
            hints.publish_soon("sw:a", str(number))
        assert hints.lost == 5


async def test_trouble_of_a_listener_does_not_make_it_deaf(redis_url: str) -> None:
    heard: list[str] = []

    async def stumble(channel: str, lines: list[str]) -> None:
        heard.extend(lines)
        raise ValueError("a listener's own trouble")

    async with open_redis(redis_url) as redis, open_hints(redis) as hints:
        task = asyncio.create_task(hints.listen(["sw:a"], stumble))

        async def both_heard() -> bool:
            hints.publish_soon("sw:a", f"line {len(heard)}")
            return len(heard) >= 2

        await eventually(both_heard, what="two messages in spite of an error in the first")
        task.cancel()
        await asyncio.wait([task])


async def test_bytes_that_are_no_text_end_nobody_who_listens(redis_url: str) -> None:
    listener = Listener()
    async with listening(redis_url, listener, "sw:a") as task, open_redis(redis_url) as redis:
        await redis.command_many([("PUBLISH", "sw:a", b"\xff\xfe"), ("PUBLISH", "sw:a", "7 room")])  # type: ignore[list-item]
        await until(lambda: ("sw:a", "7 room") in listener.lines)
        assert not task.done()
        assert listener.gaps == 0


async def test_all_that_we_say_at_once_is_heard_and_what_is_larger_passed_over(redis_url: str) -> None:
    listener = Listener()
    async with listening(redis_url, listener, "sw:a"), open_pair(redis_url) as hints, open_redis(redis_url) as redis:
        for number in range(10_000):
            hints.publish_soon("sw:a", f"{2**31 - 1} 1 {-(2**15)} {-(2**63) + number}")
        await until(lambda: len(listener.lines) == 10_000)
        await redis.command_many([("PUBLISH", "sw:a", "7 room\n" * 200_000), ("PUBLISH", "sw:a", "8 room")])
        await until(lambda: len(listener.lines) > 10_000)
        assert listener.lines[10_000:] == [("sw:a", "8 room")]
        assert listener.gaps == 0
