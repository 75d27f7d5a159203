"""Everybody in this process who listens to one tenant, and what they were told.

What was told is kept of tasks that are open, and of those that ended as long as a look might find that end again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from libs.common.ports_push import Stage, TaskState
from services.api.push.stream import Stream

#: How many of those known as open one look covers.
_OPEN: Final = 500
#: Ends that are remembered; looks forget them long before, unless thousands end between two.
_MOST_OVER: Final = 5_000
#: Transactions that began before an answer was read may commit after it, and hints are on their way.
OVERLAP: Final = timedelta(seconds=10)
NEVER: Final = float("inf")


class Circle:
    """The streams of one tenant."""

    def __init__(self, tenant_id: int) -> None:
        self.tenant_id = tenant_id
        self.users = 0
        self.streams: set[Stream] = set()
        self.watchers: dict[int, set[Stream]] = {}
        self.since: datetime | None = None  #: looks tell the tenant's streams what happened after this
        self.entering = asyncio.Lock()
        self.joined = False
        self.look_at = NEVER  #: when a look is due, and when one last was made; by the hub's clock
        self.looked_at: float | None = None
        self.deaf = False  #: hints may have been lost: the next look covers all that is open
        self._known: dict[int, Stage] = {}
        self._open: OrderedDict[int, None] = OrderedDict()
        self._over: deque[tuple[datetime, int, Stage]] = deque()
        self._doubted: set[int] = set()

    def cares(self, task: int) -> bool:
        return bool(self.streams) or task in self.watchers

    def learn(self, state: TaskState, most: int) -> bool:
        """Take in a state; returns whether it is news: further than what was known, or other than that where it is in
        doubt. Of open tasks the newest `most` are kept."""
        known, doubted = self._known.get(state.id), state.id in self._doubted
        self._doubted.discard(state.id)
        if known is not None and (state.stage == known if doubted else state.stage <= known):
            return False
        self._known[state.id] = state.stage
        if state.open:
            self._open[state.id] = None
            while len(self._open) > most:
                del self._known[self._open.popitem(last=False)[0]]
        else:
            self._open.pop(state.id, None)
            self._over.append((state.at, state.id, state.stage))
            if self.since is None or len(self._over) > _MOST_OVER:  # streams of a task know what they were told
                self._forget_end()
        return True

    def doubt(self) -> None:
        """PostgreSQL was away: it may go on from an older state, in which tasks have come less far."""
        self.deaf = True
        self._doubted = set(self._known)
        for stream in self.everybody():
            stream.forget()

    def note(self, states: Iterable[TaskState], most: int) -> None:
        """Remember the open ones of states that somebody who came back was told, so that looks cover them.

        Not what changed just now: its hint is on its way, and the others must still take it for news.
        """
        for state in states:
            if len(self._open) >= most:
                return
            if state.open and state.id not in self._known and state.at < state.read_at - OVERLAP:
                self._known[state.id] = state.stage
                self._open[state.id] = None

    def knows(self, task: int) -> bool:
        return task in self._known

    def to_look_at(self) -> list[int]:
        """Of those known as open some, others every time; all of them after a gap."""
        if self.deaf:
            return list(self._open)
        chosen = [task for task, _ in zip(self._open, range(_OPEN), strict=False)]
        for task in chosen:
            self._open.move_to_end(task)
        return chosen

    def looked(self, read_at: datetime) -> None:
        """A look has told what it found: the next one finds nothing new before this, so older ends are forgotten."""
        until = read_at - OVERLAP
        self.since = max(self.since or until, until)
        while self._over and self._over[0][0] < self.since:
            self._forget_end()

    def forget(self) -> None:
        """Nobody listens to all of the tenant any more: what changes from here on is told to nobody."""
        self.since = None
        self._known.clear()
        self._open.clear()
        self._over.clear()
        self._doubted.clear()

    def everybody(self) -> list[Stream]:
        return [*self.streams, *(stream for watching in self.watchers.values() for stream in watching)]

    def listeners(self, model_name: str, task_id: str, task: int) -> list[Stream]:
        whole = [stream for stream in self.streams if stream.wanted.includes(model_name, task_id)]
        return [*whole, *self.watchers.get(task, ())]

    def _forget_end(self) -> None:
        _, task, stage = self._over.popleft()
        if self._known.get(task) == stage:  # else it was replayed since
            del self._known[task]
