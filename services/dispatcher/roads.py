"""Where each lane's messages go: the topic of its model, which exists before the lane is ever asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final

from libs.common.contracts.topics import MODEL_RETENTION_MS, model_topic
from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.ports_dispatch import DispatchQueue, LaneInfo, TopicPlan
from libs.common.runtime.backoff import set_within
from libs.common.runtime.logging import get_logger
from services.dispatcher.lanes import LaneBook
from services.dispatcher.topic_keeper import TopicKeeper

log = get_logger()

_LOOK_SECONDS: Final = 1.0
#: Changes are read by the time of their statement; their transaction may commit this much later.
_LATE_COMMIT: Final = timedelta(seconds=10)
#: More are refused where the broker refuses all.
_MOST_REFUSED: Final = 1_000
#: Everything is read so often: a transaction may have committed later than that, or the database's clock was set back.
_ALL_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Road:
    """A lane's way to its executors."""

    topic: str
    partitions: int
    tenant_id: int
    model_id: int


class Roads:
    """Keeps the lanes of the book and their topics in step with the models."""

    def __init__(
        self,
        queue: DispatchQueue,
        book: LaneBook,
        keeper: TopicKeeper,
        *,
        topic_prefix: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._queue = queue
        self._book = book
        self._keeper = keeper
        self._prefix = topic_prefix
        self._roads: dict[int, Road] = {}
        self._there: dict[int, int] = {}  #: partitions of the topics of roads, which may be more than are wanted
        self._known: dict[int, LaneInfo] = {}
        self._newest: datetime | None = None
        self._server: datetime | None = None
        self._newest_at = 0.0
        self._looked_at = 0.0
        self._all_at = 0.0
        self._unsaid: dict[int, int] = {}  #: partitions of lanes of which PostgreSQL says another number
        self._news = asyncio.Event()

    def of(self, lane: int) -> Road | None:
        """The lane's road, if its topic exists."""
        return self._roads.get(lane)

    def look_soon(self) -> None:
        """Models changed."""
        self._news.set()

    def look_at_topics(self) -> None:
        """The broker was away, and may have lost its memory."""
        self._keeper.look_at_all()

    def trust(self, lanes: Iterable[int]) -> None:
        """Their messages were acknowledged."""
        for lane in lanes:
            if (road := self._roads.get(lane)) is not None:
                self._keeper.trust(road.topic)

    def doubt(self, lanes: Iterable[int]) -> None:
        """Their messages were not acknowledged although the broker answers."""
        for lane in lanes:
            if (road := self._roads.get(lane)) is not None:
                self._keeper.doubt(road.topic)

    def refused(self) -> dict[int, str]:
        """Lanes that no turn asks because the broker refuses their topics, and why; a thousand of them."""
        causes = self._keeper.refused()
        if not causes:
            return {}
        open_lanes = ((info, self._topic(info)) for info in self._known.values() if not info.closed)
        refused = ((info.lane, causes[topic]) for info, topic in open_lanes if topic in causes)
        return dict(islice(refused, _MOST_REFUSED))

    async def run(self) -> None:
        """Read changes every second, and at once when told, until cancelled; after a failure hints hurry nothing."""
        while True:
            self._news.clear()
            try:
                await self.look()
                await self._say()
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("lanes.not_read", cause=str(error))
                await asyncio.sleep(_LOOK_SECONDS)
            except Exception as error:  # the loop's end would be the process's
                log.error("lanes.failed", error=type(error).__name__, message=str(error)[:500])
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await set_within(self._news, _LOOK_SECONDS)

    async def look(self) -> None:
        """Read what changed since the last look. Raises DatabaseUnavailable."""
        began = self._clock()
        server = await self._queue.server_began()  # before the lanes: theirs is no older then
        everything = self._newest is None or began - self._all_at > _ALL_SECONDS or server != self._server
        infos = await self._queue.lanes_changed(None if everything else self._since())
        if everything:
            self._all_at, self._newest = began, None  # the database's clock may have been set back
        self._looked_at, self._server = began, server
        for info in infos:
            if self._newest is None or info.changed_at > self._newest:
                self._newest, self._newest_at = info.changed_at, began
        if everything:  # PostgreSQL may go on from an older state, without those that came last
            gone = self._known.keys() - {info.lane for info in infos}
            infos += [replace(self._known[lane], closed=True) for lane in gone]
        changed = [info for info in infos if self._known.get(info.lane) != info]
        self._book.learn(changed)
        for info in changed:
            self._learn(info)

    async def _say(self) -> None:
        """Tell executors where rows of a topic lie that has fewer partitions than it should: their sweep counts on it.

        What was sent in between is found by its hint, or sent again by the janitor. Raises DatabaseUnavailable.
        """
        while self._unsaid:
            said = dict(self._unsaid)
            await self._queue.spread(said)
            for lane, partitions in said.items():
                self._known[lane] = replace(self._known[lane], spread=partitions)
                if self._unsaid.get(lane) == partitions:
                    del self._unsaid[lane]

    def _since(self) -> datetime | None:
        # By the database's clock: the newest change plus the time from its look to the last one that was answered. Not
        # to now: this process may have been frozen, or without PostgreSQL, while others changed models.
        assert self._newest is not None
        return self._newest + timedelta(seconds=self._looked_at - self._newest_at) - _LATE_COMMIT

    def _learn(self, info: LaneInfo) -> None:
        before = self._known.get(info.lane)
        topic = self._topic(info)
        if before is not None and (info.closed or self._topic(before) != topic):
            self._keeper.drop(self._topic(before))
            self._book.close([info.lane])
            self._roads.pop(info.lane, None)
        self._known[info.lane] = info
        if info.closed:
            return
        self._keeper.want(
            topic, TopicPlan(info.partitions, MODEL_RETENTION_MS), partial(self._on_topic, info.lane, topic)
        )
        if info.lane in self._roads:
            self._lead(info.lane, topic, self._there[info.lane])

    def _on_topic(self, lane: int, topic: str, partitions: int | None) -> None:
        self._lead(lane, topic, partitions)
        if self._unsaid:
            self._news.set()

    def _lead(self, lane: int, topic: str, partitions: int | None) -> None:
        info = self._known[lane]
        if info.closed or topic != self._topic(info):
            return
        if partitions is None:
            # The road stays known: what was leased before still asks for it.
            self._book.close([lane])
            return
        spread = min(partitions, info.partitions)
        self._there[lane] = partitions
        self._roads[lane] = Road(topic, spread, info.tenant_id, info.model_id)
        self._unsaid.pop(lane, None)
        if spread != info.spread:
            self._unsaid[lane] = spread
        self._book.open([lane])

    def _topic(self, info: LaneInfo) -> str:
        return model_topic(self._prefix, info.model_id, info.model_name)
