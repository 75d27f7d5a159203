"""The read loop: read, settle, move on. It never waits for a model, and no lane for another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol

from libs.common.contracts.dispatch_message import MalformedMessage, decode
from libs.common.domain.errors import BrokerUnavailable, OutcomeUnknown, Unavailable
from libs.common.domain.model import Model
from libs.common.domain.task import Phase
from libs.common.ports_dead import DeadLetter
from libs.common.ports_road import Road, RoadRecord, Spot, Unreadable
from libs.common.runtime.logging import get_logger
from services.executor.admission.desk import Closing
from services.executor.admission.rotation import Arrival
from services.executor.figures import Figures
from services.executor.positions import Place, Places

log = get_logger()

#: Nothing more is read while so many records are in hand or wait: what one read brings is at most 500.
MOST_IN_HAND: Final = 2_000
#: So many of a partition are settled together; a long queue of one lane makes no statement longer.
SETTLED_AT_ONCE: Final = 500
_WAIT_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.3


class Settler(Protocol):
    """Where arrivals go."""

    async def settle(self, arrivals: Sequence[Arrival]) -> None: ...


class Models(Protocol):
    """Models in memory."""

    def known(self, model_id: int) -> Model | None: ...


class DeadMessages(Protocol):
    """Where records that nobody can understand are kept and announced."""

    async def keep(self, letters: Sequence[DeadLetter]) -> None: ...


class Mender(Protocol):
    """Who repairs the connection, and who reads a partition again."""

    @property
    def generation(self) -> int: ...
    async def mend(self, cause: str, generation: int) -> None: ...
    def read_again(self, places: Sequence[Place]) -> None: ...


@dataclass(slots=True)
class _Batch:
    """What was read of one partition and is not settled yet."""

    place: Place
    epoch: int
    records: list[RoadRecord]
    since: float


class Reader:
    """Reads what is assigned; what is read of a lane is settled in its order.

    Lanes do not wait for each other: settling takes as long as PostgreSQL takes to start or to hold what was read, and
    behind a flood that is long. So while records of a lane are in hand, what is read of it meanwhile waits for them
    (else it would overtake those that are about to be held), and other lanes go ahead.
    """

    def __init__(
        self,
        road: Road,
        places: Places,
        desk: Settler,
        models: Models,
        graveyard: DeadMessages,
        mender: Mender,
        figures: Figures,
    ) -> None:
        self._road = road
        self._places = places
        self._desk = desk
        self._models = models
        self._graveyard = graveyard
        self._mender = mender
        self._figures = figures
        self._stopping = False
        self._in_hand: dict[Spot, _Batch] = {}
        self._behind: dict[Spot, _Batch] = {}  #: of lanes that are in hand
        self._settled = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._turned_at = time.monotonic()

    def stop(self) -> None:
        """Settle nothing more than what is in hand."""
        self._stopping = True
        self._behind.clear()
        self._settled.set()

    @property
    def moved_at(self) -> float:
        """When the loop last began a turn; earlier, if something in hand is older than that."""
        return min([self._turned_at, *(batch.since for batch in self._in_hand.values())])

    @property
    def busy(self) -> bool:
        """Whether anything is in hand."""
        return bool(self._in_hand)

    def busy_with(self, lane: int) -> bool:
        """Whether records of this lane may be in hand, or wait to be read until others are settled."""
        return self._full() or lane in self._lanes()

    async def idle(self) -> None:
        """Wait until nothing is in hand."""
        while self._in_hand:
            await self._next_settled()

    async def run(self) -> None:
        """Read until stopped; what is in hand is settled first."""
        self._loop = asyncio.current_task()
        async with asyncio.TaskGroup() as group:
            while not self._stopping:
                self._turned_at = time.monotonic()
                if self._full():
                    await self._next_settled()
                    continue
                generation = self._mender.generation
                try:
                    batches = await self._road.read(_WAIT_SECONDS)
                except BrokerUnavailable as error:
                    await self._mender.mend(str(error), generation)
                except Unreadable as error:
                    await self._skip(error)
                else:
                    self._take(batches)
                    self._begin(group)

    def _full(self) -> bool:
        return sum(len(batch.records) for batch in chain(self._in_hand.values(), self._behind.values())) >= MOST_IN_HAND

    def _lanes(self) -> set[int]:
        return {batch.place.lane for batch in self._in_hand.values()}

    async def _next_settled(self) -> None:
        self._settled.clear()
        await self._settled.wait()

    def _take(self, batches: Mapping[Spot, Sequence[RoadRecord]]) -> None:
        """Put what was read behind what is in hand. From then on the position stands behind it."""
        now = time.monotonic()
        for place, records in self._mine(batches):
            epoch = place.took(records[-1].offset + 1)
            waiting = self._behind.get(place.spot)
            if waiting is not None and waiting.place is place and waiting.epoch == epoch:
                waiting.records += records
            else:  # somebody sought meanwhile: what waited is read again
                self._behind[place.spot] = _Batch(place, epoch, list(records), now)

    def _begin(self, group: asyncio.TaskGroup) -> None:
        """Settle what waits for no lane, all together."""
        lanes = self._lanes()
        ready = [batch for batch in self._behind.values() if batch.place.lane not in lanes]
        if not ready or self._stopping:
            return
        for batch in ready:
            self._take_in_hand(batch)
        group.create_task(self._work(group, ready), name="settle")

    def _take_in_hand(self, batch: _Batch) -> None:
        spot, rest = batch.place.spot, batch.records[SETTLED_AT_ONCE:]
        self._in_hand[spot] = self._behind.pop(spot)
        batch.since = time.monotonic()
        if rest:
            self._behind[spot] = _Batch(batch.place, batch.epoch, rest, batch.since)
            del batch.records[SETTLED_AT_ONCE:]

    async def _work(self, group: asyncio.TaskGroup, batches: Sequence[_Batch]) -> None:
        try:
            await self._settle(batches)
        except asyncio.CancelledError:
            # Also if it came from within: a task group would take it for a good end, and the records would be lost
            # until somebody missed them. The loop ends, and with it the process.
            if self._loop is not None:
                self._loop.cancel()
            raise
        finally:
            for batch in batches:
                del self._in_hand[batch.place.spot]
            self._settled.set()
        self._begin(group)

    async def _settle(self, batches: Sequence[_Batch]) -> None:
        """Settle these together; if that fails in an unforeseen way, read them again."""
        try:
            arrivals = []
            for batch in batches:
                arrivals += await self._arrivals(batch.place, batch.records)
            await self._desk.settle(arrivals)
        except Closing:
            return
        except Exception as error:
            log.warning("reader.unsettled", error=type(error).__name__, message=str(error)[:200])
            await asyncio.sleep(_RETRY_SECONDS)
            for batch in batches:
                self._behind.pop(batch.place.spot, None)  # it is read again, too
            self._mender.read_again([batch.place for batch in batches])
            return
        now = time.monotonic()
        for batch in batches:
            batch.place.settle(batch.records[-1].offset + 1, batch.epoch)
            batch.place.busy_at = now

    def _mine(self, batches: Mapping[Spot, Sequence[RoadRecord]]) -> list[tuple[Place, Sequence[RoadRecord]]]:
        """Batches of partitions that are still assigned; what was fetched before that changed is not ours to read."""
        found = []
        for spot, records in batches.items():
            place = self._places.at(spot)
            if place is not None and records:
                found.append((place, records))
        return found

    async def _arrivals(self, place: Place, records: Sequence[RoadRecord]) -> list[Arrival]:
        model = self._models.known(place.model_id)
        if model is None:
            # It was known when the partition was assigned: PostgreSQL goes on from an older state, without it. Should
            # it be there after all, the healer reads again what it misses.
            log.warning("reader.model_lost", topic=place.spot.topic, records=len(records))
            return []
        arrivals, bad = [], []
        for record in records:
            try:
                message = decode(record.value)
            except MalformedMessage as error:
                bad.append(_letter(place.spot, record, error.code, str(error)))
                continue
            except Exception as error:
                # Nobody foresaw these bytes. Read again they would fail again, and with them all that lies behind.
                log.error("reader.unforeseen", topic=place.spot.topic, offset=record.offset, error=type(error).__name__)
                bad.append(_letter(place.spot, record, "unreadable", f"reading it failed: {type(error).__name__}"))
                continue
            if record.timestamp < place.floor_ms:
                continue  # its row was claimed before we began: the broker could not start at a time
            phase = Phase(min(max(message.phase, Phase.NONE), Phase.MIGRATING))
            doubtful = record.timestamp < place.doubtful_ms
            arrivals.append(Arrival(message.task, message.lease, max(0, message.size), phase, model, doubtful))
        if bad:
            await self._bury(bad)
        return arrivals

    async def _skip(self, error: Unreadable) -> None:
        """Note a record that not even its bytes could be had of, and go on behind it.

        What was read before it is settled first. If that failed, or somebody sought meanwhile, it is met again.
        """
        before = self._places.at(error.spot)
        epoch = before.epoch if before is not None else 0
        await self.idle()
        letter = DeadLetter(*error.spot, error.offset, None, None, (), "unreadable", str(error), 0)
        try:
            await self._bury([letter])
        except Closing:
            return
        place = self._places.at(error.spot)
        if place is None or place is not before or place.epoch != epoch:
            return
        place.start(error.offset + 1, place.floor_ms)
        self._road.seek(place.spot, error.offset + 1)

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep bytes that nobody can understand, before the position moves on behind them."""
        for letter in letters:
            log.warning(
                "message.dead", topic=letter.topic, partition=letter.partition, offset=letter.offset, cause=letter.cause
            )
        while True:
            try:
                await self._graveyard.keep(letters)
            except (Unavailable, OutcomeUnknown) as error:
                if self._stopping:
                    raise Closing("stopping before PostgreSQL answered") from error
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._figures.dead_messages(len(letters))
                return


def _letter(spot: Spot, record: RoadRecord, code: str, cause: str) -> DeadLetter:
    size = len(record.value or b"")
    return DeadLetter(*spot, record.offset, record.key, record.value, tuple(record.headers), code, cause, size)
