"""Where status changes arrive and go out to those who listen.

Hints say which tasks changed; PostgreSQL is read for what they are now, all that were named within 20 ms together. So
every listener hears what is true, in order, each stage once; a status that lasted shorter may be skipped. Hints may be
lost: a look behind them, every few seconds, compares what was told with what is.

Tenants take turns, and where thousands listen to one of them, telling these goes on beside everybody else's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

from libs.common.domain.errors import Exhausted, NotFound, OutcomeUnknown, Unavailable
from libs.common.ports import Audience
from libs.common.ports_push import TaskState, TaskStates
from libs.common.runtime.backoff import set_within
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter, gauge
from services.api.push.circle import NEVER, Circle
from services.api.push.news import News
from services.api.push.stream import Stream, Wanted

log = get_logger()

_BEGINNING: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_GATHER_SECONDS: Final = 0.02
_BATCH: Final = 500
#: Of one tenant, named and not read yet; beyond it the tenant is looked at as a whole.
_MOST_DUE: Final = 10_000
_AWAY_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 5.0
#: Soon after the first listener of a tenant came: whoever changed a task just then may not have known of him.
_SECOND_LOOKS: Final = (0.1, 1.0)
_SHORTEST_BETWEEN_LOOKS: Final = 0.1
#: Looks cost at most this share of the time, however many tenants are listened to, as long as one takes half a
#: second at most: a slow answer, say in an outage, must not put off for minutes what no hint told.
_LOOK_SHARE: Final = 10
#: How many of a tenant's newest tasks one look covers.
_NEWEST: Final = 200
#: How many open tasks are known, of one tenant and of all together (some 40 MB); the newest of each in any case.
_MOST_KNOWN: Final = 5_000
_MOST_KNOWN_IN_ALL: Final = 200_000
#: Offers between two turns of the event loop, and streams that begin to send in one: creates go on beside a crowd.
_OFFERS_AT_ONCE: Final = 1_000
_WAKES_AT_ONCE: Final = 20
#: What such a turn takes, in its own lengths, before the next one.
_REST_SHARE: Final = 3


class Hub:
    """All listeners of one API process. `run` must be running."""

    def __init__(
        self,
        states: TaskStates,
        audience: Audience,
        *,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most` streams are open at once, half of them of one tenant at most."""
        self._states = states
        self._audience = audience
        self._most = most
        self._clock = clock
        self._circles: dict[int, Circle] = {}
        self._due: dict[int, dict[int, None]] = {}  #: tasks by tenant, whose turn is next first
        self._crowds: set[int] = set()  #: tenants whose many listeners are being told
        self._heard = asyncio.Event()
        self._look_wanted = asyncio.Event()
        self._to_wake: dict[int, deque[Stream]] = {}  #: by tenant, whose turn is next first
        self._somebody_sleeps = asyncio.Event()
        self._closed = False
        self._away = False
        self.open = 0  #: streams, at this moment

    # those who listen

    async def watch(self, tenant_id: int, public_id: UUID) -> tuple[Stream, TaskState]:
        """A stream of one task, and where the task is. Raises NotFound, Exhausted, Unavailable."""
        state = await self._find(tenant_id, public_id)
        stream = Stream(tenant_id, task=state.id)
        await self._enter(stream)
        try:
            # Once more, now that changes are heard.
            return stream, await self._find(tenant_id, public_id)
        except BaseException:
            await self.leave(stream)
            raise

    async def listen(self, tenant_id: int, wanted: Wanted) -> Stream:
        """A stream of everything of a tenant that is wanted. Raises Exhausted, Unavailable."""
        stream = Stream(tenant_id, wanted=wanted)
        await self._enter(stream)
        return stream

    async def leave(self, stream: Stream) -> None:
        """The connection of this stream is over."""
        stream.close()
        circle = self._circles[stream.tenant_id]
        if stream.task is None:
            circle.streams.discard(stream)
            if not circle.streams:
                circle.forget()
        elif stream.task in circle.watchers:
            circle.watchers[stream.task].discard(stream)
            if not circle.watchers[stream.task]:
                del circle.watchers[stream.task]
        circle.users -= 1
        self._count(-1)
        if not circle.users:
            del self._circles[stream.tenant_id]
            self._due.pop(stream.tenant_id, None)
            await self._audience.leave(stream.tenant_id)

    def close(self) -> None:
        """Let everybody go, and take nobody more."""
        self._closed = True
        for circle in self._circles.values():
            for stream in circle.everybody():
                stream.close()

    async def page(self, tenant_id: int, before: int | None, limit: int) -> list[TaskState]:
        """A page of the tenant's tasks, newest first, for one who catches up."""
        states = await self._states.newest(tenant_id, before, limit)
        if tenant_id in self._circles:
            self._circles[tenant_id].note(states, self._most_known())
        return states

    def told_until(self, stream: Stream) -> datetime | None:
        """The instant up to which looks have told a tenant's stream everything; None for a task's stream."""
        return self._circles[stream.tenant_id].since if stream.task is None else None

    async def _find(self, tenant_id: int, public_id: UUID) -> TaskState:
        state = await self._states.find(tenant_id, public_id)
        if state is None:
            raise NotFound("task_unknown", "there is no such task")
        return state

    async def _enter(self, stream: Stream) -> None:
        if self._closed:
            raise Unavailable("this process stops")
        circle = self._circles.setdefault(stream.tenant_id, Circle(stream.tenant_id))
        if self.open >= self._most or circle.users >= max(1, self._most // 2):
            if not circle.users:
                del self._circles[stream.tenant_id]
            raise Exhausted("too_many_streams", "too many streams are open here", retry_after=5)
        circle.users += 1
        self._count(1)
        try:
            await self._begin(circle, whole=stream.task is None)
            if self._closed:
                raise Unavailable("this process stops")  # `close` did not find it
        except BaseException:
            await self.leave(stream)
            raise
        stream.woken_by(self._wake_in_turn)
        if stream.task is None:
            circle.streams.add(stream)
        else:
            circle.watchers.setdefault(stream.task, set()).add(stream)

    async def _begin(self, circle: Circle, *, whole: bool) -> None:
        """Hear the tenant's changes; before its first stream of everything, learn the newest tasks, no news to it."""
        async with circle.entering:
            if not circle.joined:
                await self._audience.join(circle.tenant_id)
                circle.joined = True
                self._look_in(circle, _SECOND_LOOKS[0])
            if whole and circle.since is None:
                newest = await self._states.newest(circle.tenant_id, None, _NEWEST)
                circle.since = newest[0].read_at if newest else _BEGINNING
                await self._tell(newest)
                self._look_in(circle, _SECOND_LOOKS[0])

    def _count(self, more: int) -> None:
        self.open += more
        gauge("sluiceway_push_streams").set(self.open)

    # what changes

    async def run(self) -> None:
        """Hear, read and tell until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._audience.run(self._on_changes, self.look_at_all), name="push-hear")
            group.create_task(self._read_for_ever(group), name="push-read")
            group.create_task(self._wake_for_ever(), name="push-wake")
            group.create_task(self._look_for_ever(), name="push-look")

    def look_at_all(self) -> None:
        """Hints may have been lost."""
        for circle in self._circles.values():
            circle.deaf = True
            self._look_in(circle, 0)

    def _on_changes(self, tenant_id: int, tasks: Sequence[int]) -> None:
        circle = self._circles.get(tenant_id)
        if circle is None:
            return
        due = self._due.setdefault(tenant_id, {})
        due.update(dict.fromkeys(task for task in tasks if circle.cares(task)))
        if len(due) > _MOST_DUE:
            due.clear()
            circle.deaf = True
            self._look_in(circle, 0)
        if due:
            self._heard.set()
        else:
            del self._due[tenant_id]

    async def _read_for_ever(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._heard.wait()
            self._heard.clear()
            named = self._take_due()
            states = await self._read(named)
            if states is None:
                for tenant_id, task in named:
                    self._due.setdefault(tenant_id, {})[task] = None
                await asyncio.sleep(_AWAY_SECONDS)
            else:
                await self._tell_each(states, group)
            if self._due.keys() - self._crowds:
                self._heard.set()
            await asyncio.sleep(_GATHER_SECONDS)

    def _take_due(self) -> list[tuple[int, int]]:
        """Of each tenant its share; not of those who are still told of what was read before."""
        ready = [tenant_id for tenant_id in self._due if tenant_id not in self._crowds][:_BATCH]
        named = []
        for tenant_id in ready:
            due = self._due.pop(tenant_id)
            for task in list(islice(due, _BATCH // len(ready))):
                del due[task]
                named.append((tenant_id, task))
            if due:
                self._due[tenant_id] = due  # behind the others
        return named

    async def _read(self, named: Sequence[tuple[int, int]]) -> list[TaskState] | None:
        """What became of these; None when PostgreSQL is away."""
        try:
            states = await self._states.by_ids(named) if named else []
        except (Unavailable, OutcomeUnknown) as error:
            self._note_outage(error)
            return None
        except Exception as error:  # nobody may be deaf for one look that went wrong; the next one covers it
            log.error("push.read_failed", error=type(error).__name__, message=str(error)[:500])
            return []
        self._away = self._away and not named
        return states

    def _note_outage(self, error: Exception) -> None:
        log.warning("push.database_away", cause=str(error))
        if not self._away:
            self._away = True
            for circle in self._circles.values():
                circle.doubt()

    async def _tell_each(self, states: Iterable[TaskState], group: asyncio.TaskGroup) -> None:
        by_tenant: dict[int, list[TaskState]] = {}
        for state in states:
            by_tenant.setdefault(state.tenant_id, []).append(state)
        for tenant_id, theirs in by_tenant.items():
            circle = self._circles.get(tenant_id)
            if circle is not None and circle.users * len(theirs) > _OFFERS_AT_ONCE:
                self._crowds.add(tenant_id)
                group.create_task(self._tell_crowd(tenant_id, theirs), name="push-crowd")
            else:
                await self._tell(theirs)

    async def _tell_crowd(self, tenant_id: int, states: Sequence[TaskState]) -> None:
        try:
            await self._tell(states)
        finally:
            self._crowds.discard(tenant_id)
            self._heard.set()

    async def _tell(self, states: Iterable[TaskState]) -> None:
        offers = told = 0
        began = self._clock()
        most = self._most_known()
        for state in states:
            circle = self._circles.get(state.tenant_id)
            if circle is None or not circle.learn(state, most):
                continue
            listeners = circle.listeners(state.model_name, str(state.public_id), state.id)
            if not listeners:
                continue
            news = News.of(state)
            for stream in listeners:
                stream.offer(news)
            offers += len(listeners)
            told += len(listeners)
            if offers > _OFFERS_AT_ONCE:
                offers = 0
                await asyncio.sleep((self._clock() - began) * _REST_SHARE * max(1, len(self._crowds)))
                began = self._clock()
        counter("sluiceway_push_events_total").inc(told)

    def _most_known(self) -> int:
        """Open tasks that each circle may know."""
        return max(_NEWEST, min(_MOST_KNOWN, _MOST_KNOWN_IN_ALL // max(1, len(self._circles))))

    def _wake_in_turn(self, stream: Stream) -> None:
        self._to_wake.setdefault(stream.tenant_id, deque()).append(stream)
        self._somebody_sleeps.set()

    async def _wake_for_ever(self) -> None:
        """Wake those that have news, some at a time: thousands at once would leave no turn for anybody else."""
        while True:
            await self._somebody_sleeps.wait()
            began = self._clock()
            for _ in range(_WAKES_AT_ONCE):
                self._wake_next()
            if not self._to_wake:
                self._somebody_sleeps.clear()
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # they have had their turn
            if self._to_wake:
                await asyncio.sleep((self._clock() - began) * _REST_SHARE)

    def _wake_next(self) -> None:
        for tenant_id in self._to_wake:
            streams = self._to_wake.pop(tenant_id)
            streams.popleft().wake()
            if streams:
                self._to_wake[tenant_id] = streams  # behind the others
            return

    # behind lost hints

    def _look_in(self, circle: Circle, seconds: float) -> None:
        due = max(self._clock() + seconds, (circle.looked_at or 0.0) + _SHORTEST_BETWEEN_LOOKS)
        if due < circle.look_at:
            circle.look_at = due
            self._look_wanted.set()

    async def _look_for_ever(self) -> None:
        while True:
            self._look_wanted.clear()
            began = self._clock()
            circle = min(self._circles.values(), key=lambda circle: circle.look_at, default=None)
            pause = NEVER if circle is None else circle.look_at - began
            if circle is None or pause > 0:
                await set_within(self._look_wanted, None if pause == NEVER else pause)
                continue
            await self._look(circle)
            await asyncio.sleep(min((self._clock() - began) * _LOOK_SHARE, LOOK_SECONDS))

    async def _look(self, circle: Circle) -> None:
        """Compare what the listeners of a tenant were told with what is."""
        first, circle.looked_at = circle.looked_at is None, self._clock()
        circle.look_at = circle.looked_at + (_SECOND_LOOKS[1] if first else LOOK_SECONDS)
        tasks = [*circle.watchers, *(circle.to_look_at() if circle.streams else ())]
        circle.deaf = False
        for start in range(0, len(tasks), _BATCH):
            states = await self._read([(circle.tenant_id, task) for task in tasks[start : start + _BATCH]])
            if states is None:
                circle.deaf = True
                return
            await self._tell(states)
        if circle.streams and circle.since is not None:
            await self._look_at_newest(circle, circle.since)

    async def _look_at_newest(self, circle: Circle, since: datetime) -> None:
        try:
            newest = await self._states.newest(circle.tenant_id, None, _NEWEST)
        except (Unavailable, OutcomeUnknown) as error:
            self._note_outage(error)
            return
        except Exception as error:  # the loop's end would be the process's
            log.error("push.look_failed", error=type(error).__name__, message=str(error)[:500])
            return
        self._away = False
        fresh = [state for state in newest if circle.knows(state.id) or state.at >= since]
        await self._tell(reversed(fresh))
        if newest and circle.since is not None:  # somebody listens still
            circle.looked(newest[0].read_at)
