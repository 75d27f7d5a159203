"""Who listens is known to those who change tasks; while nobody does, they say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.audience import RedisAudience
from libs.common.adapters.redis.connection import RedisServer, open_redis
from libs.common.adapters.redis.hints import RedisHints, open_hints
from libs.common.ports import Audience, Hints
from tests.support.redis_doors import eventually
from tests.support.waiting import until


class Ears:
    """What an audience hears."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, list[int]]] = []
        self.gaps = 0

    def on_changes(self, tenant: int, tasks: list[int]) -> None:
        self.changes.append((tenant, tasks))

    def on_gap(self) -> None:
        self.gaps += 1


@asynccontextmanager
async def hearing(redis: RedisServer, ears: Ears) -> AsyncIterator[RedisAudience]:
    audience = RedisAudience(redis)
    port: Audience = audience
    running = asyncio.create_task(port.run(ears.on_changes, ears.on_gap))
    await until(lambda: ears.gaps == 1)
    try:
        yield audience
    finally:
        running.cancel()
        await asyncio.wait([running])


@asynccontextmanager
async def writer(redis: RedisServer) -> AsyncIterator[RedisHints]:
    """Hints that know who listens."""
    async with open_hints(redis) as hints:

        async def ready() -> bool:
            (counts,) = await redis.command_many([("PUBSUB", "NUMSUB", "sw:listeners")])
            return bool(counts[1]) and hints.listened is not None

        await eventually(ready, what="it follows the listeners")
        yield hints


def never_looked_at() -> Iterator[tuple[int, int]]:
    raise AssertionError("nobody listens")
    yield (0, 0)


async def test_while_nobody_listens_nothing_is_said_nor_looked_at(redis_url: str) -> None:
    async with open_redis(redis_url) as redis, writer(redis) as hints:
        port: Hints = hints
        port.changed(never_looked_at())


async def test_who_joins_is_heard_of_at_once_and_hears_his_own_tenants_alone(redis_url: str) -> None:
    ears = Ears()
    async with open_redis(redis_url) as redis, writer(redis) as hints, hearing(redis, ears) as audience:
        await audience.join(7)
        await audience.join(-8)

        async def told() -> bool:
            hints.changed([(7, 70), (7, 71), (9, 90), (-8, 80)])
            await asyncio.sleep(0.01)
            return {tenant for tenant, _ in ears.changes} == {7, -8}

        await eventually(told, what="both are heard of")
        assert {task for _, tasks in ears.changes for task in tasks} == {70, 71, 80}
        await audience.leave(7)
        ears.changes.clear()
        hints.changed([(7, 72), (-8, 82)])
        await until(lambda: (-8, [82]) in ears.changes)
        assert 7 not in {tenant for tenant, _ in ears.changes}


async def test_a_late_writer_looks_up_who_listens_and_lapsed_ones_are_gone(redis_url: str) -> None:
    ears = Ears()
    async with open_redis(redis_url) as redis, hearing(redis, ears) as audience:
        await redis.command_many([("ZADD", keys.listeners(), 1, "9")])  # its time is over
        await audience.join(7)
        async with writer(redis) as hints:
            assert hints.listened == {7}
        (left,) = await redis.command_many([("ZRANGE", keys.listeners(), 0, -1)])
        assert left == [b"7"]


async def test_a_broken_connection_is_made_anew_and_said(redis_url: str) -> None:
    ears = Ears()
    async with open_redis(redis_url) as redis, writer(redis) as hints, hearing(redis, ears) as audience:
        await audience.join(7)
        await redis.command_many([("CLIENT", "KILL", "TYPE", "pubsub")])
        await until(lambda: ears.gaps == 2)
        hints.changed([(7, 70)])
        await until(lambda: ears.changes == [(7, [70])])


async def test_a_redis_that_forgot_who_listens_is_told_at_once(redis_url: str) -> None:
    ears = Ears()
    async with open_redis(redis_url) as redis, writer(redis) as hints, hearing(redis, ears) as audience:
        await audience.join(7)
        await redis.command_many([("DEL", keys.listeners()), ("CLIENT", "KILL", "TYPE", "pubsub")])
        hints.listened = set()  # what a writer finds that is back first
        await until(lambda: ears.gaps == 2)
        await until(lambda: hints.listened == {7}, seconds=3)  # the next renewal is 5 s away


async def test_redis_away_keeps_nobody_waiting(redis_url: str) -> None:
    async with open_redis("redis://127.0.0.1:1/0", seconds=0.2) as redis, open_hints(redis) as hints:
        await asyncio.wait_for(RedisAudience(redis).join(7), 5)
        assert hints.listened is None
        hints.changed([(7, 70)])
        await until(lambda: hints.lost > 0)


async def test_bytes_that_are_no_text_make_nobody_deaf(redis_url: str) -> None:
    ears = Ears()
    async with open_redis(redis_url) as redis, hearing(redis, ears) as audience:
        await audience.join(7)
        await redis.command_many([("PUBLISH", "sw:changes:7", b"\xff\xfe"), ("PUBLISH", "sw:changes:7", "70")])  # type: ignore[list-item]
        await until(lambda: (7, [70]) in ears.changes)
        assert ears.gaps == 1


async def test_more_than_we_ever_say_at_once_is_passed_over(redis_url: str) -> None:
    ears = Ears()
    async with open_redis(redis_url) as redis, hearing(redis, ears) as audience:
        await audience.join(7)
        await redis.command_many([("PUBLISH", "sw:changes:7", "1 " * 600_000), ("PUBLISH", "sw:changes:7", "70")])
        await until(lambda: bool(ears.changes))
        assert ears.changes == [(7, [70])]
        assert ears.gaps == 1
