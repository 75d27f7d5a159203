"""What a stream tells from its first to its last line, whatever carries it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.ports_push import TaskState
from libs.common.ports_tasks import KeyOwner
from libs.common.runtime.metrics import counter
from libs.common.runtime.shares import Shares
from services.api.problems import Problem
from services.api.push.asked import TaskAsked, TenantAsked
from services.api.push.circle import OVERLAP
from services.api.push.hub import Hub
from services.api.push.news import News, place_in_time
from services.api.push.stream import Stream

HEARTBEAT_SECONDS: Final = 15.0
#: What a connection takes no byte of for so long is given up.
SEND_SECONDS: Final = 10.0
_AT_ONCE: Final = 100
_PAGE: Final = 500
#: Who comes back hears of tasks that ended since; as many are looked at, and as many told.
MOST_EXAMINED: Final = 10_000
MOST_CAUGHT: Final = 2_000
#: After this what was told in catching up is not heard again as news.
_FORGET_SECONDS: Final = 30.0
_CATCHING_UP_AT_ONCE: Final = 8


class SlowReader(Exception):
    """The other side takes nothing any more."""


#: A status change, and the place where the caller may come back to; None while he is catching up.
Line: TypeAlias = tuple[News, str | None]
#: Raises Problem when the caller may not be here any more.
Still: TypeAlias = Callable[[], Awaitable[Any]]


class NotWelcome(Exception):
    """The caller may not listen any more."""


class Right:
    """The caller's right to listen: asked for anew every so many seconds, however much there is to tell."""

    def __init__(self, still: Still, seconds: float) -> None:
        self._still = still
        self._seconds = seconds
        self.due_at = time.monotonic() + seconds  #: when it is asked for next

    async def check(self) -> None:
        """Raises NotWelcome when the caller may hear no more."""
        now = time.monotonic()
        if now < self.due_at:
            return
        self.due_at = now + self._seconds
        try:
            await self._still()
        except Problem:
            raise NotWelcome from None
        except (Unavailable, OutcomeUnknown):
            return  # nobody can tell: it stood a moment ago


class Outlet(Protocol):
    """The connection: raises nothing when the other side has gone, waits while it does not read."""

    async def begin(self, stream: Stream, place: str) -> None:
        """Accept; the stream is closed when the other side goes. `place`, if any: where it may come back to."""

    async def news(self, lines: Sequence[Line]) -> None:
        """Send status changes."""

    async def caught_up(self, document: dict[str, Any], place: str) -> None:
        """Say that what follows is new; no place where nothing was read."""

    async def beat(self, place: str) -> None:
        """A sign of life, and where the other side may come back to by now."""

    async def end(self, stream: Stream) -> None:
        """Everything is said."""

    def abort(self) -> None:
        """Drop the connection with what it has not taken."""


class Telling:
    """Tells streams of the hub to connections."""

    def __init__(self, hub: Hub, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._hub = hub
        self._heartbeat = heartbeat_seconds
        self._catching_up = Shares(_CATCHING_UP_AT_ONCE)

    async def task(self, caller: KeyOwner, asked: TaskAsked, outlet: Outlet, still: Still) -> bool:
        """One task, from where the caller left it to its end; False when there is nothing left to tell.

        Raises Refused or Unavailable before the outlet has begun, never afterwards.
        """
        stream, state = await self._hub.watch(caller.tenant_id, asked.task_id)
        try:
            known = asked.after is not None and state.version <= asked.after
            if known and not state.open:
                return False
            stream.tell(state.id, state.stage)
            right = Right(still, self._heartbeat)
            await self._guarded(outlet, stream, self._tell_task(outlet, stream, None if known else state, right))
        finally:
            await self._hub.leave(stream)
        return True

    async def tenant(self, caller: KeyOwner, asked: TenantAsked, outlet: Outlet, still: Still) -> None:
        """Everything that the caller wants of his tenant, from where he left, until he goes. Raises as above."""
        stream = await self._hub.listen(caller.tenant_id, asked.wanted)
        try:
            right = Right(still, self._heartbeat)
            await self._guarded(outlet, stream, self._tell_tenant(outlet, stream, asked.since, right))
        finally:
            await self._hub.leave(stream)

    async def _guarded(self, outlet: Outlet, stream: Stream, story: Awaitable[None]) -> None:
        stream.on_slow = outlet.abort  # it waits in a send; nothing else would end that
        try:
            try:
                await story
            except NotWelcome:
                stream.bar()
            if not stream.slow:
                await _soon(outlet.end(stream))
        except SlowReader:
            stream.slow = True
        if stream.slow:
            counter("sluiceway_push_dropped_total").inc()
            outlet.abort()

    async def _tell_task(self, outlet: Outlet, stream: Stream, first: TaskState | None, right: Right) -> None:
        await _soon(outlet.begin(stream, ""))
        if first is not None:
            news = News.of(first)
            await _soon(outlet.news([(news, news.place_in_task)]))
            if not first.open:
                return
        await self._pass_on(outlet, stream, right)

    async def _tell_tenant(self, outlet: Outlet, stream: Stream, since: datetime | None, right: Right) -> None:
        # Who was told nothing yet has a place to come back to, too; who catches up, only when he has.
        await _soon(outlet.begin(stream, self._place_of(stream) if since is None else ""))
        if since is not None:
            await self._catching_up.take(stream.tenant_id)
            try:
                if not await self._catch_up(outlet, stream, since - OVERLAP, right):
                    return  # news would have places behind what was not told: the caller comes again from where he was
            finally:
                self._catching_up.give_back(stream.tenant_id)
        await self._pass_on(outlet, stream, right)

    async def _pass_on(self, outlet: Outlet, stream: Stream, right: Right) -> None:
        began = time.monotonic()
        beat_at = began + self._heartbeat
        place = ""
        while (batch := await stream.next(max(min(beat_at, right.due_at) - time.monotonic(), 0.0))) is not None:
            await right.check()
            for start in range(0, len(batch), _AT_ONCE):
                await _soon(outlet.news([(news, _place(stream, news)) for news in batch[start : start + _AT_ONCE]]))
                if len(batch) > _AT_ONCE:
                    await asyncio.sleep(0)  # a send that finds room does not wait for anybody
                    await right.check()
            if stream.task is not None and batch and batch[-1].over:
                return
            now = time.monotonic()
            if batch:
                place, beat_at = _place(stream, batch[-1]), now + self._heartbeat
            elif now >= beat_at:
                beat_at = now + self._heartbeat
                await _soon(outlet.beat(max(place, self._place_of(stream))))
            if now - began > _FORGET_SECONDS and stream.task is None:
                stream.forget()

    def _place_of(self, stream: Stream) -> str:
        until = self._hub.told_until(stream)
        return "" if until is None else place_in_time(until)

    async def _catch_up(self, outlet: Outlet, stream: Stream, since: datetime, right: Right) -> bool:
        """Tell of open tasks and of ends since then, the newest tasks first; False when the stream ends in the middle,
        or PostgreSQL is away."""
        before: int | None = None
        examined = caught = 0
        place = ""
        while True:
            page = await self._page(stream, before)
            if page is None or stream.closed:
                return False
            place = place or (place_in_time(page[0].read_at) if page else "")
            told: list[Line] = [(News.of(state), None) for state in page if self._is_due(stream, state, since)]
            for start in range(0, len(told), _AT_ONCE):
                await right.check()
                await _soon(outlet.news(told[start : start + _AT_ONCE]))
            examined, caught = examined + len(page), caught + len(told)
            whole = len(page) < _PAGE
            if whole or examined >= MOST_EXAMINED or caught >= MOST_CAUGHT:
                break
            before = page[-1].id
        oldest = None if whole else page[-1].created_at
        await _soon(outlet.caught_up({"complete": whole, "complete_from": oldest}, place))
        return True

    def _is_due(self, stream: Stream, state: TaskState, since: datetime) -> bool:
        return (
            (state.open or state.at >= since)
            and stream.wanted.includes(state.model_name, str(state.public_id))
            and stream.tell(state.id, state.stage)
        )

    async def _page(self, stream: Stream, before: int | None) -> list[TaskState] | None:
        try:
            return await self._hub.page(stream.tenant_id, before, _PAGE)
        except (Unavailable, OutcomeUnknown):
            stream.close()
            return None


async def _soon(sending: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await sending
    except TimeoutError:
        raise SlowReader from None


def _place(stream: Stream, news: News) -> str:
    return news.place_in_time if stream.task is None else news.place_in_task
