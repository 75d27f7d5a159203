"""One listener: what it wants, and what waits to be sent to it, which is bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from libs.common.ports_push import Stage
from libs.common.runtime.backoff import set_within
from services.api.push.news import News

#: How far a listener may fall behind. News are shared: each costs a pointer here.
MOST_WAITING: Final = 2_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stream of a tenant is narrowed to; empty: everything."""

    models: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()

    def includes(self, model_name: str, task_id: str) -> bool:
        return (not self.models or model_name in self.models) and (not self.tasks or task_id in self.tasks)


class Stream:
    """Filled by the hub, emptied by a connection. `task` is None on the stream of a tenant."""

    __slots__ = (
        "_awake", "_told", "_waiting", "_woken_by", "barred", "closed", "on_slow", "slow", "task", "tenant_id",
        "wanted",
    )  # fmt: skip

    def __init__(self, tenant_id: int, *, task: int | None = None, wanted: Wanted | None = None) -> None:
        self.tenant_id = tenant_id
        self.task = task
        self.wanted = wanted or Wanted()
        self.closed = False
        self.barred = False  #: the caller may not listen any more
        self.slow = False  #: it fell too far behind; what waited for it is gone
        self.on_slow: Callable[[], None] | None = None
        self._waiting: deque[News] = deque()
        self._awake = asyncio.Event()
        self._told: dict[int, Stage] = {}
        self._woken_by: Callable[[Stream], None] = Stream.wake

    def offer(self, news: News) -> None:
        """Something new."""
        if self.closed:
            return
        if len(self._waiting) >= MOST_WAITING:
            self.slow = True
            self._waiting.clear()
            self.close()
            if self.on_slow is not None:
                self.on_slow()
            return
        self._waiting.append(news)
        if len(self._waiting) == 1:
            self._woken_by(self)

    def woken_by(self, waker: Callable[[Stream], None]) -> None:
        """Have `waker` wake it, which spreads that over time; without one it wakes at once."""
        self._woken_by = waker

    def wake(self) -> None:
        """There may be news."""
        self._awake.set()

    def tell(self, task: int, stage: Stage) -> bool:
        """Remember that it is told of this stage; False when it knows this one, or a later one, already."""
        known = self._told.get(task)
        if known is not None and stage <= known:
            return False
        self._told[task] = stage
        return True

    def forget(self) -> None:
        """What it was told when it caught up can no longer be news."""
        self._told.clear()

    def close(self) -> None:
        """Nothing more is offered; who waits gets what is left, then the end."""
        self.closed = True
        self._awake.set()

    def bar(self) -> None:
        """The caller lost the right to listen: there is no coming again."""
        self.barred = True
        self.close()

    async def next(self, seconds: float) -> list[News] | None:
        """What waits, at once or within that time (perhaps nothing); None at the end."""
        if not self._waiting and not self.closed:
            self._awake.clear()
            if not await set_within(self._awake, seconds):
                return []
        if not self._waiting:  # whoever wakes it may do so when it has read already what he wakes it for
            return None if self.closed else []
        batch, self._waiting = self._waiting, deque()
        return [news for news in batch if self._is_new(news)]

    def _is_new(self, news: News) -> bool:
        """The hub tells nothing twice; but the connection itself looked too, when it began."""
        if self.task is not None:
            return self.tell(news.task, news.stage)
        known = self._told.get(news.task)
        return known is None or news.stage > known
