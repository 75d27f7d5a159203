"""Wake-ups between processes, over Redis's publish and subscribe. They may be lost: polling stands behind each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import Call, RedisServer
from libs.common.adapters.redis.script import Script
from libs.common.contracts import hints as wire
from libs.common.domain.errors import GateUnavailable
from libs.common.runtime.backoff import reconnect_delays, set_within
from libs.common.runtime.logging import get_logger

log = get_logger()

#: What is said within it goes out together.
_GATHER_SECONDS: Final = 0.002
#: Nobody of ours says as much at once; line by line, what anybody else may say would stop the loop for many seconds.
MOST_BYTES: Final = 2**20
#: While Redis is away lines wait for its return, but not for ever and not all.
_MOST_LINES: Final = 10_000
_LONGEST_PAUSE: Final = 1.0
_LONGEST_RECONNECT: Final = 5.0
#: A silent subscription is asked whether it still lives.
_QUIET_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 2.0
#: How often it is looked up which tenants somebody listens to; a new one is said at once.
_LISTENERS_SECONDS: Final = 5.0
#: How long a tenant counts as listened to unless that is said again.
LISTENER_LIFE_SECONDS: Final = 20
LISTENERS: Final = Script.load("listeners")

OnLines = Callable[[str, list[str]], Awaitable[None] | None]


class RedisHints:
    """Implements ports.Hints; `open_hints` makes one and sends its last lines. Nothing here raises."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._waiting: dict[str, dict[str, None]] = {}
        self._publisher: asyncio.Task[None] | None = None
        self.listened: set[int] | None = None  #: tenants that somebody listens to; None while nobody knows
        self.lost = 0  #: lines that were never sent

    def publish_soon(self, channel: str, line: str) -> None:
        """Send a line; at once when nothing was sent in the last 2 ms, else with its neighbours, equal ones once."""
        lines = self._waiting.setdefault(channel, {})
        if len(lines) >= _MOST_LINES:
            self.lost += 1
            return
        lines[line] = None
        if self._publisher is None:
            self._publisher = asyncio.get_running_loop().create_task(self._publish(), name="hints-publish")

    def changed(self, tasks: Iterable[tuple[int, int]]) -> None:
        """Say which tasks (tenant, id) changed, as far as somebody listens to their tenants."""
        listened = self.listened
        if listened is None:
            for tenant, task in tasks:
                self.publish_soon(wire.changes(tenant), str(task))
        elif listened:
            for tenant, task in tasks:
                if tenant in listened:
                    self.publish_soon(wire.changes(tenant), str(task))

    async def follow_listeners(self) -> None:
        """Know which tenants somebody listens to, until cancelled."""
        look = Call(LISTENERS, (keys.listeners(),), [LISTENER_LIFE_SECONDS])
        gap = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.listen([wire.LISTENERS], self._on_listeners, gap.set), name="hints-listeners")
            while True:
                with suppress(GateUnavailable):  # what was known last holds until Redis is back
                    (answer,) = await self._redis.run([look])
                    if not isinstance(answer, GateUnavailable):
                        self.listened = {int(tenant) for tenant in answer}
                gap.clear()
                await set_within(gap, _LISTENERS_SECONDS)

    def _on_listeners(self, _channel: str, lines: Sequence[str]) -> None:
        if self.listened is not None:
            self.listened.update(number for line in lines for number in wire.numbers(line))

    async def listen(
        self, channels: Sequence[str], on_lines: OnLines, on_gap: Callable[[], None] | None = None
    ) -> None:
        """Hear channels until cancelled; `on_gap` is called after every reconnect, since hints may have been lost.

        An error of either function is logged and changes nothing.
        """
        deaf = False
        delays = reconnect_delays(cap=_LONGEST_RECONNECT)

        def hearing() -> None:
            nonlocal deaf, delays
            if deaf and on_gap is not None:
                with _outlived():
                    on_gap()
            deaf, delays = False, reconnect_delays(cap=_LONGEST_RECONNECT)

        while True:
            try:
                async with self._redis.own_connection() as connection:
                    await _hear(connection, channels, on_lines, hearing)
            except (RedisError, OSError) as error:
                if not deaf:
                    log.warning("hints.deaf", channels=list(channels), error=type(error).__name__, message=str(error))
                deaf = True
            await asyncio.sleep(next(delays))

    async def close(self) -> None:
        """Send what waits, within about a second."""
        if self._publisher is not None:
            await asyncio.wait([self._publisher], timeout=_LONGEST_PAUSE)
        if self._publisher is not None:
            self._publisher.cancel()
            await asyncio.wait([self._publisher])

    async def _publish(self) -> None:
        """Send batch after batch, one round trip each, until nothing waits."""
        delays: Iterator[float] | None = None
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                try:
                    await self._redis.command_many([("PUBLISH", name, "\n".join(batch[name])) for name in batch])
                except GateUnavailable as error:
                    # Not kept: whoever listens has lost the connection too, and looks at everything afterwards.
                    self.lost += sum(map(len, batch.values()))
                    if delays is None:
                        log.warning("hints.lost", message=str(error))
                        delays = reconnect_delays(cap=_LONGEST_PAUSE)
                    await asyncio.sleep(next(delays))
                else:
                    delays = None
                    await asyncio.sleep(_GATHER_SECONDS)
        finally:
            self._publisher = None  # no await since the last look at `_waiting`


@asynccontextmanager
async def open_hints(redis: RedisServer) -> AsyncIterator[RedisHints]:
    """Hints of one process; what was said last is sent before it closes."""
    hints = RedisHints(redis)
    following = asyncio.create_task(hints.follow_listeners(), name="hints-follow")
    try:
        yield hints
    finally:
        following.cancel()
        await asyncio.wait([following])
        await hints.close()


async def _hear(
    connection: Connection, channels: Sequence[str], on_lines: OnLines, on_hearing: Callable[[], None]
) -> None:
    """Subscribe and pass on messages until the connection breaks."""
    await connection.send_command("SUBSCRIBE", *channels)
    unconfirmed = len(channels)
    while True:
        match await next_reply(connection):
            case [b"message", bytes(channel), bytes(payload)] if len(payload) <= MOST_BYTES:
                # Anybody may publish there: bytes that are no text become lines that nobody knows.
                with _outlived():
                    pending = on_lines(channel.decode(), payload.decode(errors="replace").split("\n"))
                    if pending is not None:
                        await pending
            case [b"subscribe", *_]:
                unconfirmed -= 1
                if not unconfirmed:
                    on_hearing()


async def next_reply(connection: Connection) -> Any:
    """What a subscription hears next; raises when it gives no sign of life."""
    reply = await connection.read_response(timeout=_QUIET_SECONDS)
    if reply is None:
        await connection.send_command("PING", check_health=False)
        reply = await connection.read_response(timeout=_ANSWER_SECONDS)
        if reply is None:
            raise RedisConnectionError("no sign of life")
    return reply


@contextmanager
def _outlived() -> Iterator[None]:
    """A listener's own trouble must not make it deaf."""
    try:
        yield
    except Exception as error:
        log.error("hints.listener_failed", error=type(error).__name__, message=str(error)[:500])
