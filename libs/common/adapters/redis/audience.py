"""Which tenants an API process speaks to, and what it hears of their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import Call, RedisServer
from libs.common.adapters.redis.hints import LISTENER_LIFE_SECONDS, LISTENERS, MOST_BYTES, next_reply
from libs.common.contracts import hints as wire
from libs.common.domain.errors import GateUnavailable
from libs.common.runtime.backoff import reconnect_delays
from libs.common.runtime.logging import get_logger

log = get_logger()

#: Said again long before it lapses.
_RENEW_SECONDS: Final = LISTENER_LIFE_SECONDS / 4
_JOIN_SECONDS: Final = 1.0
_LONGEST_RECONNECT: Final = 5.0
_AT_ONCE: Final = 1_000

OnChanges = Callable[[int, list[int]], None]


class RedisAudience:
    """Implements ports.Audience: one connection that hears, with a channel for each tenant."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._tenants: set[int] = set()
        self._ear: Connection | None = None
        self._confirmations: dict[str, asyncio.Future[None]] = {}

    async def join(self, tenant_id: int) -> None:
        self._tenants.add(tenant_id)
        with suppress(TimeoutError, GateUnavailable, RedisError, OSError):
            async with asyncio.timeout(_JOIN_SECONDS):
                await self._hear_too(tenant_id)
                await self._announce([tenant_id])
                await self._say([tenant_id])

    async def leave(self, tenant_id: int) -> None:
        self._tenants.discard(tenant_id)
        if self._ear is not None:
            with suppress(RedisError, OSError):
                await self._ear.send_command("UNSUBSCRIBE", wire.changes(tenant_id))

    async def run(self, on_changes: OnChanges, on_gap: Callable[[], None]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew(), name="audience-renew")
            group.create_task(self._hear_for_ever(on_changes, on_gap), name="audience-hear")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with suppress(GateUnavailable):
                await self._announce(sorted(self._tenants))

    async def _announce(self, tenants: Sequence[int]) -> None:
        """Say for how long somebody listens to these."""
        for start in range(0, len(tenants), _AT_ONCE):
            some = tenants[start : start + _AT_ONCE]
            (answer,) = await self._redis.run([Call(LISTENERS, (keys.listeners(),), [LISTENER_LIFE_SECONDS, *some])])
            if isinstance(answer, GateUnavailable):
                raise answer

    async def _say(self, tenants: Sequence[int]) -> None:
        """Say it at once to those who change tasks, who look it up now and then."""
        await self._redis.command_many([("PUBLISH", wire.LISTENERS, " ".join(map(str, tenants)))])

    async def _say_all(self) -> None:
        """A Redis that was away may have forgotten who listens, and writers found nobody there when it came back."""
        tenants = sorted(self._tenants)
        with suppress(GateUnavailable):  # the next renewal says it
            await self._announce(tenants)
            for start in range(0, len(tenants), _AT_ONCE):
                await self._say(tenants[start : start + _AT_ONCE])

    async def _hear_too(self, tenant_id: int) -> None:
        """Subscribe; while there is no connection the next one subscribes to all, and says that there was a gap."""
        if self._ear is None:
            return
        channel = wire.changes(tenant_id)
        confirmed = self._confirmations.setdefault(channel, asyncio.get_running_loop().create_future())
        await self._ear.send_command("SUBSCRIBE", channel)
        await asyncio.shield(confirmed)

    async def _hear_for_ever(self, on_changes: OnChanges, on_gap: Callable[[], None]) -> None:
        delays = reconnect_delays(cap=_LONGEST_RECONNECT)
        while True:
            try:
                async with self._redis.own_connection() as ear:
                    await self._subscribe_all(ear)
                    await self._say_all()
                    on_gap()
                    delays = reconnect_delays(cap=_LONGEST_RECONNECT)
                    await self._hear(ear, on_changes)
            except (RedisError, OSError) as error:
                log.warning("audience.deaf", error=type(error).__name__, message=str(error)[:200])
            finally:
                self._ear = None
                for confirmation in self._confirmations.values():
                    if not confirmation.done():
                        confirmation.set_result(None)  # the next connection subscribes to all
                self._confirmations.clear()
            await asyncio.sleep(next(delays))

    async def _subscribe_all(self, ear: Connection) -> None:
        """Whoever joins from here on subscribes himself."""
        self._ear = ear
        channels = [*map(wire.changes, self._tenants)]
        for start in range(0, len(channels), _AT_ONCE):
            await ear.send_command("SUBSCRIBE", *channels[start : start + _AT_ONCE])
        unconfirmed = set(channels)
        while unconfirmed:  # what is said to a channel before the last one is confirmed is covered by on_gap
            unconfirmed.discard(self._confirm(await next_reply(ear)) or "")

    async def _hear(self, ear: Connection, on_changes: OnChanges) -> None:
        while True:
            match await next_reply(ear):
                case [b"message", bytes(channel), bytes(payload)] if len(payload) <= MOST_BYTES:
                    numbers = wire.numbers(payload.decode(errors="replace"))
                    if (tenant_id := wire.tenant_of(channel.decode())) is not None:
                        on_changes(tenant_id, numbers)
                case reply:
                    self._confirm(reply)

    def _confirm(self, reply: object) -> str | None:
        """The channel that a reply confirms, if it does."""
        match reply:
            case [b"subscribe", bytes(name), *_]:
                channel = name.decode()
                confirmation = self._confirmations.pop(channel, None)
                if confirmation is not None and not confirmation.done():
                    confirmation.set_result(None)
                return channel
        return None
