"""How a lane comes back when Redis has lost its memory: from PostgreSQL, by one process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import Call, RedisServer
from libs.common.adapters.redis.script import STEP, Script
from libs.common.domain.errors import GateUnavailable, LaneUnavailable
from libs.common.ports import OpenTaskSource
from libs.common.runtime.backoff import reconnect_delays
from libs.common.runtime.logging import get_logger

log = get_logger()

LOCK: Final = Script.load("lock")
MARK: Final = Script.load("mark")
RESTORE: Final = Script.load("restore")
UNLOCK: Final = Script.load("unlock")

#: How long callers wait for a lane, counted from when it was found unknown; later ones are told at once.
_PATIENCE_SECONDS: Final = 1.0
#: A lane that could not be rebuilt is left alone for so long: PostgreSQL has enough to do when it comes back.
_REST_SECONDS: Final = 0.5
#: Creates whose slot was lost while they were writing are committed by then.
_SECOND_PASS_SECONDS: Final = 5.0
#: A lane of a million open tasks takes some 10 s.
_REBUILD_SECONDS: Final = 60.0
#: Kept alive by every step; the next process takes over this long after a rebuilder was killed.
_LOCK_MS: Final = 10_000
_WAITING_MS: Final = 3_600_000
#: Half of the hot connections to PostgreSQL: after a flush every lane wants to be rebuilt.
_AT_ONCE: Final = 4

_LOCKED: Final = 1
_KNOWN: Final = 2


class LaneUnknown(LaneUnavailable):
    """A lane of the batch is still being rebuilt, or cannot be."""


@dataclass(frozen=True, slots=True)
class _Rebuild:
    task: asyncio.Task[None]
    patience_until: float


class LaneRebuilder:
    """Rebuilds lanes that Redis does not know, each once at a time; `open_rebuilder` makes and ends one."""

    def __init__(self, redis: RedisServer, source: OpenTaskSource, *, second_pass_seconds: float) -> None:
        self._redis = redis
        self._source = source
        self._second_pass_seconds = second_pass_seconds
        self._rebuilds: dict[int, _Rebuild] = {}
        self._second_passes: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def ensure_known(self, lanes: Iterable[int]) -> dict[int, GateUnavailable]:
        """Wait until these lanes are known, a second at most; the answer says which are not, and why."""
        loop = asyncio.get_running_loop()
        failures: dict[int, GateUnavailable] = {}
        for lane, rebuild in {lane: self._rebuild_of(lane) for lane in lanes}.items():
            await asyncio.wait([rebuild.task], timeout=max(rebuild.patience_until - loop.time(), 0))
            failure = _failure(lane, rebuild.task)
            if failure is not None:
                failures[lane] = failure
        return failures

    async def close(self) -> None:
        """Stop what is under way. A lane left half-filled stays unknown, and others may rebuild it."""
        tasks = [*self._second_passes, *(rebuild.task for rebuild in self._rebuilds.values())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _rebuild_of(self, lane: int) -> _Rebuild:
        rebuild = self._rebuilds.get(lane)
        if rebuild is None:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._rebuild(lane), name=f"rebuild-lane-{lane}")
            rebuild = self._rebuilds[lane] = _Rebuild(task, loop.time() + _PATIENCE_SECONDS)
            task.add_done_callback(lambda done: self._over(lane, done))
        return rebuild

    def _over(self, lane: int, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            del self._rebuilds[lane]
            return
        log.error("lane.rebuild_failed", lane=lane, error=type(error).__name__, message=str(error)[:500])
        task.get_loop().call_later(_REST_SECONDS, self._rebuilds.pop, lane)

    async def _rebuild(self, lane: int) -> None:
        """Fill the lane and mark it as known, unless another process does or did."""
        token = uuid4().hex
        async with asyncio.timeout(_REBUILD_SECONDS):
            for pause in reconnect_delays(first=0.02, cap=0.25):
                if await self._attempt(lane, token):
                    return
                await asyncio.sleep(pause)

    async def _attempt(self, lane: int, token: str) -> bool:
        async with self._room:
            verdict = await self._ask(Call(LOCK, (keys.known(lane), keys.lock(lane)), (token, _LOCK_MS)))
            if verdict != _LOCKED:
                return verdict == _KNOWN
            try:
                restored = await self._fill(lane)
                mark_keys = (keys.known(lane), keys.lock(lane), keys.waiting(lane))
                marked = await self._ask(Call(MARK, mark_keys, (token, _WAITING_MS)))
            except BaseException:
                with suppress(GateUnavailable):
                    await self._ask(Call(UNLOCK, (keys.lock(lane),), (token,)))
                raise
        if marked:
            log.info("lane.rebuilt", lane=lane, restored=restored)
            self._plan_second_pass(lane)
        return bool(marked)

    async def _fill(self, lane: int) -> int:
        """Add everything that PostgreSQL knows; the answer says how much of it was missing."""
        restored = await self._add(keys.permits(lane), lane, await self._source.live_permits(lane))
        pages = self._source.open_slots(lane)
        try:
            async for page in pages:
                restored += await self._add(keys.gate(lane), lane, page)
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()  # now, not when it is collected: it holds a connection to PostgreSQL
        return restored

    async def _add(self, key: str, lane: int, owners: Sequence[tuple[str, int]]) -> int:
        restored = 0
        for call in restore_calls((key, keys.lock(lane)), owners):
            restored += await self._ask(call)
        return restored

    def _plan_second_pass(self, lane: int) -> None:
        task = asyncio.get_running_loop().create_task(self._second_pass(lane), name=f"second-pass-lane-{lane}")
        self._second_passes.add(task)
        task.add_done_callback(self._second_passes.discard)

    async def _second_pass(self, lane: int) -> None:
        """Once more, for creates and starts that were under way: their places were lost, their rows not there yet."""
        await asyncio.sleep(self._second_pass_seconds)
        try:
            async with self._room, asyncio.timeout(_REBUILD_SECONDS):
                restored = await self._fill(lane)
        except Exception as error:  # nobody waits for it; reconcile adds them later
            log.error("lane.second_pass_failed", lane=lane, error=type(error).__name__, message=str(error)[:500])
        else:
            log.debug("lane.second_pass", lane=lane, restored=restored)

    async def _ask(self, call: Call) -> int:
        (answer,) = await self._redis.run([call])
        if isinstance(answer, GateUnavailable):
            raise answer
        return int(answer[0])


@asynccontextmanager
async def open_rebuilder(
    redis: RedisServer, source: OpenTaskSource, *, second_pass_seconds: float = _SECOND_PASS_SECONDS
) -> AsyncIterator[LaneRebuilder]:
    """What the gate and the permits of one process share."""
    rebuilder = LaneRebuilder(redis, source, second_pass_seconds=second_pass_seconds)
    try:
        yield rebuilder
    finally:
        await rebuilder.close()


def restore_calls(set_and_lock: tuple[str, ...], owners: Sequence[tuple[str, int]]) -> list[Call]:
    """The scripts that add owners (owner, ttl_ms) to a set; a lock named beside it is kept alive."""
    return [
        Call(RESTORE, set_and_lock, [_LOCK_MS, *(part for owner in owners[start : start + STEP] for part in owner)])
        for start in range(0, len(owners), STEP)
    ]


def _failure(lane: int, task: asyncio.Task[None]) -> GateUnavailable | None:
    if not task.done():
        return LaneUnknown(f"lane {lane} is being rebuilt from PostgreSQL")
    if task.cancelled():
        return GateUnavailable("this process is stopping")
    error = task.exception()
    if error is None or isinstance(error, GateUnavailable):
        return error
    failure = LaneUnknown(f"lane {lane} could not be rebuilt: {type(error).__name__} {error}".rstrip())
    failure.__cause__ = error
    return failure
