"""Gate and permits over a real Redis, with what tests do to them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import RedisServer, open_redis
from libs.common.adapters.redis.permits import RedisPermits
from libs.common.adapters.redis.queue_gate import RedisQueueGate
from libs.common.adapters.redis.rebuild import open_rebuilder
from tests.support.fakes_redis import FakeOpenTasks

Result = TypeVar("Result")

#: No test waits for it.
NEVER = 3_600.0
LONG_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Doors:
    """One process's gate and permits."""

    redis: RedisServer
    gate: RedisQueueGate
    permits: RedisPermits

    async def command(self, *command: str | int) -> Any:
        """Run one plain command."""
        (reply,) = await self.redis.command_many([command])
        return reply

    async def lapse_slot(self, lane: int, member: str) -> None:
        """Let time pass for one slot alone."""
        await self.command("ZADD", keys.gate(lane), "XX", 1, member)

    async def lapse_permit(self, lane: int, token: str) -> None:
        """Let time pass for one permit alone."""
        await self.command("ZADD", keys.permits(lane), "XX", 1, token)

    async def forget_everything(self) -> None:
        await self.command("FLUSHDB")


@asynccontextmanager
async def open_doors(
    url: str, source: FakeOpenTasks | None = None, *, second_pass_seconds: float = NEVER, seconds: float = 5.0
) -> AsyncIterator[Doors]:
    """As a service's wiring does it. Generous with time, unless told otherwise: the machine may be busy."""
    async with (
        open_redis(url, seconds=seconds) as redis,
        open_rebuilder(redis, source or FakeOpenTasks(), second_pass_seconds=second_pass_seconds) as rebuilder,
    ):
        yield Doors(redis, RedisQueueGate(redis, rebuilder), RedisPermits(redis, rebuilder))


class Ear:
    """Hears one channel on a connection of its own."""

    def __init__(self, redis: RedisServer, connection: Any, channel: str) -> None:
        self._redis = redis
        self._connection = connection
        self._channel = channel

    async def heard(self) -> list[str]:
        """Everything published since the last call: what comes before a message of our own."""
        await self._redis.command_many([("PUBLISH", self._channel, "the end")])
        messages: list[str] = []
        while True:
            reply = await self._connection.read_response(timeout=5)
            assert reply is not None, "not even our own message was heard"
            if reply[0] == b"message":
                if reply[2] == b"the end":
                    return messages
                messages.append(reply[2].decode())


@asynccontextmanager
async def open_ear(redis: RedisServer, channel: str) -> AsyncIterator[Ear]:
    async with redis.own_connection() as connection:
        await connection.send_command("SUBSCRIBE", channel)
        await connection.read_response(timeout=5)
        yield Ear(redis, connection, channel)


async def eventually(question: Callable[[], Awaitable[Result]], *, seconds: float = 5, what: str) -> Result:
    """Ask until the answer is true; AssertionError naming `what` after the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (answer := await question()):
        assert loop.time() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.005)
    return answer
