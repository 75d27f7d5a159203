"""Gate, permits, hints and open tasks in memory; the first two pass the same contract tests as the real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from libs.common.domain.errors import GateUnavailable
from libs.common.ports import PermitRequest, SlotRequest, SlotVerdict

PAGE = 1_000


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class FakeSet:
    """One lane: owner -> end of its place."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.ends: dict[str, int] = {}
        self._clock = clock

    def claim(self, owner: str, limit: int, ttl_ms: int) -> SlotVerdict:
        now = self._clock()
        self.ends = {known: end for known, end in self.ends.items() if end > now}
        if owner in self.ends:
            self.ends[owner] = max(self.ends[owner], now + ttl_ms)
            return SlotVerdict.HELD
        if len(self.ends) >= limit:
            return SlotVerdict.FULL
        self.ends[owner] = now + ttl_ms
        return SlotVerdict.TAKEN

    def release(self, owner: str) -> bool:
        return self.ends.pop(owner, None) is not None

    def renew(self, owner: str, ttl_ms: int) -> None:
        now = self._clock()
        if now < self.ends.get(owner, 0) < now + ttl_ms / 2:
            self.ends[owner] = now + ttl_ms

    def put(self, owner: str, ttl_ms: int) -> None:
        self.ends[owner] = self._clock() + ttl_ms

    def restore(self, owner: str, ttl_ms: int) -> None:
        self.ends[owner] = max(self.ends.get(owner, 0), self._clock() + ttl_ms)

    def has(self, owner: str) -> bool:
        return self.ends.get(owner, 0) > self._clock()

    def count(self) -> int:
        return sum(map(self.has, self.ends))


class _Lanes:
    """What both fakes share. While `available` is False every call raises GateUnavailable."""

    def __init__(self, clock: Callable[[], int] = monotonic_ms) -> None:
        self.available = True
        self._clock = clock
        self._lanes: dict[int, FakeSet] = {}

    def lane(self, lane: int) -> FakeSet:
        return self._lanes.setdefault(lane, FakeSet(self._clock))

    def lapse(self, lane: int, owner: str) -> None:
        """Let time pass for one owner alone."""
        ends = self.lane(lane).ends
        if owner in ends:
            ends[owner] = self._clock() - 1

    async def restore(self, lane: int, owners: Sequence[tuple[str, int]]) -> None:
        self._check()
        for owner, ttl_ms in owners:
            self.lane(lane).restore(owner, ttl_ms)

    async def missing(self, lane: int, owners: Sequence[str]) -> list[str]:
        self._check()
        return [owner for owner in owners if not self.lane(lane).has(owner)]

    async def members(self, lane: int, cursor: int, count: int) -> tuple[int, list[str]]:
        self._check()
        owners = list(self.lane(lane).ends)
        end = cursor + count
        return (end if end < len(owners) else 0), owners[cursor:end]

    def _check(self) -> None:
        if not self.available:
            raise GateUnavailable("the fake is away")


class FakeQueueGate(_Lanes):
    """Implements ports.QueueGate."""

    async def take_many(self, requests: Sequence[SlotRequest]) -> list[SlotVerdict]:
        self._check()
        return [self.lane(r.lane).claim(r.member, r.limit, r.ttl_ms) for r in requests]

    async def release_many(self, slots: Sequence[tuple[int, str]]) -> None:
        self._check()
        for lane, member in slots:
            self.lane(lane).release(member)

    async def renew_many(self, lane: int, members: Sequence[str], ttl_ms: int) -> None:
        self._check()
        for member in members:
            self.lane(lane).renew(member, ttl_ms)

    async def depths(self, lanes: Sequence[int]) -> list[int]:
        self._check()
        return [self.lane(lane).count() for lane in lanes]


class FakePermits(_Lanes):
    """Implements ports.Permits; `wakes` are the lanes that a release woke."""

    def __init__(self, clock: Callable[[], int] = monotonic_ms) -> None:
        super().__init__(clock)
        self.wakes: list[int] = []
        self._waiting: set[int] = set()

    async def acquire_many(self, requests: Sequence[PermitRequest]) -> list[bool]:
        self._check()
        granted = []
        for request in requests:
            verdict = self.lane(request.lane).claim(request.token, request.limit, request.ttl_ms)
            if verdict is SlotVerdict.FULL:
                self._waiting.add(request.lane)
            granted.append(verdict is not SlotVerdict.FULL)
        return granted

    async def release_many(self, permits: Sequence[tuple[int, str]]) -> None:
        self._check()
        for lane, token in permits:
            if self.lane(lane).release(token) and lane in self._waiting:
                self._waiting.remove(lane)
                self.wakes.append(lane)

    async def rename_many(self, renames: Sequence[tuple[int, str, str, int]]) -> None:
        self._check()
        for lane, old, new, ttl_ms in renames:
            self.lane(lane).release(old)
            self.lane(lane).put(new, ttl_ms)

    async def in_use(self, lanes: Sequence[int]) -> list[int]:
        self._check()
        return [self.lane(lane).count() for lane in lanes]


class FakeHints:
    """Implements ports.Hints inside one process: who listens hears at once; `lines` keeps all that was said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.changes: list[tuple[int, int]] = []  #: (tenant, task)
        self._listeners: list[tuple[Sequence[str], Callable[[str, list[str]], Awaitable[None] | None]]] = []

    def publish_soon(self, channel: str, line: str) -> None:
        self.lines.append((channel, line))
        for channels, on_lines in self._listeners:
            if channel in channels:
                pending = on_lines(channel, [line])
                assert pending is None, "the fake calls plain functions only"

    def changed(self, tasks: Iterable[tuple[int, int]]) -> None:
        self.changes += tasks

    async def listen(
        self,
        channels: Sequence[str],
        on_lines: Callable[[str, list[str]], Awaitable[None] | None],
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        listener = (channels, on_lines)
        self._listeners.append(listener)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._listeners.remove(listener)


class FakeOpenTasks:
    """Implements ports.OpenTaskSource; counts tries and reads, and raises `error` if one is set."""

    def __init__(self) -> None:
        self.slots: dict[int, list[tuple[str, int]]] = {}
        self.permits: dict[int, list[tuple[str, int]]] = {}
        self.reads = 0
        self.tries = 0
        self.error: Exception | None = None
        #: Awaited before each page of slots: lets a test act half-way.
        self.before_page: Callable[[int], Awaitable[None]] | None = None

    async def open_slots(self, lane: int) -> AsyncIterator[list[tuple[str, int]]]:
        self.reads += 1
        slots = self.slots.get(lane, [])
        for number, start in enumerate(range(0, len(slots), PAGE)):
            if self.before_page is not None:
                await self.before_page(number)
            yield slots[start : start + PAGE]

    async def live_permits(self, lane: int) -> list[tuple[str, int]]:
        self.tries += 1
        if self.error is not None:
            raise self.error
        return self.permits.get(lane, [])
