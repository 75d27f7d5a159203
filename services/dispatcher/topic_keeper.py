"""The topics that this dispatcher needs: made in the background, looked at again when they seem to be gone."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Final, TypeAlias

from libs.common.domain.errors import BrokerUnavailable
from libs.common.ports_dispatch import TopicPlan, Topics
from libs.common.runtime.backoff import reconnect_delays, set_within
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger

log = get_logger()

#: Told the partitions of a topic that can be used now, or None when it cannot.
OnChange: TypeAlias = Callable[[int | None], None]

_SLICE: Final = 100  # leaders of more show late
_RETRY_SECONDS: Final = 0.2
_LONGEST_RETRY: Final = 2.0
_LONGEST_REST: Final = 30.0


@dataclass(slots=True)
class _Topic:
    plan: TopicPlan
    on_change: OnChange
    doubts: int = 0  #: in a row
    misses: int = 0  #: looks in a row that did not find it
    due: float | None = None
    told: int | None = None
    refused: str = ""  #: why it cannot be used, in the broker's words


class TopicKeeper:
    """Knows which of the wanted topics exist with leaders, and brings the others into being."""

    def __init__(self, topics: Topics, rng: Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._topics = topics
        self._clock = clock
        self._rng = rng
        self._known: dict[str, _Topic] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._order = count()
        self._news = asyncio.Event()

    def want(self, name: str, plan: TopicPlan, on_change: OnChange) -> None:
        """Bring it into being soon, with more partitions if it has too few, and tell when it is there."""
        known = self._known.get(name)
        if known is not None and known.plan == plan:
            return
        if known is None:
            self._known[name] = _Topic(plan, on_change)
        else:
            known.plan = plan
        self._look(name, 0.0)

    def drop(self, name: str) -> None:
        """Nobody needs it any more; it is not deleted."""
        self._known.pop(name, None)

    def doubt(self, name: str) -> None:
        """Records for it were not acknowledged though the broker answers: rest it, longer each time, and look again."""
        topic = self._known.get(name)
        if topic is None:
            return
        rest = 0.0 if topic.doubts == 0 else min(_RETRY_SECONDS * 2.0 ** min(topic.doubts, 10), _LONGEST_REST)
        topic.doubts += 1
        self._tell(topic, None)
        self._look(name, rest * (1 + self._rng.random() / 4))

    def trust(self, name: str) -> None:
        """Records for it were acknowledged."""
        topic = self._known.get(name)
        if topic is not None:
            topic.doubts = 0

    def look_at_all(self) -> None:
        """The broker was away and may have lost everything: look at every topic, without resting any meanwhile."""
        for name in self._known:
            self._look(name, 0.0)

    def refused(self) -> dict[str, str]:
        """Topics that the broker refuses, and why."""
        return {name: topic.refused for name, topic in self._known.items() if topic.refused}

    async def run(self) -> None:
        """Work until cancelled."""
        delays = reconnect_delays(self._rng)
        while True:
            names = await self._next_slice()
            try:
                await failpoint("dispatcher/before-topic")
                there = await self._topics.ensure({name: self._known[name].plan for name in self._wanted(names)})
            except Exception as error:  # the loop's end would be the process's
                if isinstance(error, BrokerUnavailable):
                    log.warning("topics.broker_away", cause=str(error)[:300])
                else:
                    log.error("topics.failed", error=type(error).__name__, message=str(error)[:500])
                for name in self._wanted(names):
                    self._look(name, 0.0)
                await asyncio.sleep(next(delays))
                continue
            delays = reconnect_delays(self._rng)
            for name in names:
                self._settle(name, there.get(name))

    async def _next_slice(self) -> list[str]:
        while True:
            self._news.clear()
            now = self._clock()
            names: list[str] = []
            while self._queue and self._queue[0][0] <= now and len(names) < _SLICE:
                due, _, name = heapq.heappop(self._queue)
                topic = self._known.get(name)
                if topic is not None and topic.due == due:  # else looked at meanwhile, or dropped
                    topic.due = None
                    names.append(name)
            if names:
                return names
            await set_within(self._news, self._queue[0][0] - now if self._queue else None)

    def _wanted(self, names: list[str]) -> list[str]:
        """Those that nobody has dropped while we waited."""
        return [name for name in names if name in self._known]

    def _settle(self, name: str, partitions: int | None) -> None:
        topic = self._known.get(name)
        if topic is None or topic.due is not None:  # dropped, or doubted again while we looked
            return
        refused = self._topics.refused.get(name, "") if partitions is None else ""
        if refused and refused != topic.refused:
            log.warning("topics.refused", topic=name, cause=refused)
        topic.refused = refused
        if partitions is None:
            rest = min(_RETRY_SECONDS * 2.0 ** min(topic.misses, 10), _LONGEST_RETRY)
            self._look(name, rest * (1 + self._rng.random() / 4))
        topic.misses = topic.misses + 1 if partitions is None else 0
        self._tell(topic, partitions)

    def _look(self, name: str, seconds: float) -> None:
        topic = self._known[name]
        topic.due = self._clock() + seconds
        heapq.heappush(self._queue, (topic.due, next(self._order), name))
        self._news.set()

    def _tell(self, topic: _Topic, partitions: int | None) -> None:
        if topic.told != partitions:
            topic.told = partitions
            topic.on_change(partitions)
