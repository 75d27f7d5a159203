"""Which partitions are read, and from where: hints, the sweep behind them, the healer, the rebuild.

Reading starts where PostgreSQL's oldest unclaimed row says (by time), never at a commit and never at an end; positions
are remembered only while the partition stays mine. The sweep compares PostgreSQL's unclaimed rows with
what is read: rows of a partition that is not assigned assign it, rows that stay although it is read send the position
back, and if that does not help, the connection itself is made anew. Where then no fetch is answered, though all else
is (a network that loses large packets alone, or a broker that is sick), others read for a while.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from libs.common.contracts.hints import read_sent
from libs.common.contracts.topics import model_topic
from libs.common.domain.errors import BrokerUnavailable, OutcomeUnknown, Unavailable
from libs.common.operations.model_cache import ModelCache
from libs.common.ports_attempts import Membership, UnclaimedPartition
from libs.common.ports_road import Road, Spot
from libs.common.runtime.backoff import reconnect_delays, set_within
from libs.common.runtime.logging import get_logger
from services.executor.figures import Figures
from services.executor.ownership import Ownership
from services.executor.positions import Place, Places

log = get_logger()

SWEEP_SECONDS: Final = 1.0
#: A partition that saw nothing for this long is no longer fetched; its position is remembered.
IDLE_SECONDS: Final = 30.0
#: A partition that another executor owns from now on is read here a little longer: that one has to look up where to
#: begin, which takes a tenth of a second on a quiet machine. Until then both read it, and a few messages are stale.
HANDING_OVER_SECONDS: Final = 0.5
#: A row that nobody claims is suspicious when it and the assignment of its partition are older than this.
SUSPICIOUS_SECONDS: Final = 2.0
#: What was sent this long before we begin to read has mostly been read by somebody else; a hint comes sooner.
DOUBTFUL_MS: Final = 1_000
#: The healer suspects the connection at most this often: rows that the log has lost would make it do so for ever.
REBUILD_SECONDS: Final = 10.0
#: A connection that broke sooner than this does not count as one: the next try waits.
SHORT_LIVED_SECONDS: Final = 5.0
#: How long others read what we cannot fetch over a connection that is good for everything else.
MUTE_SECONDS: Final = 60.0


class Steward:
    """Keeps the road's assignment right. The only one who assigns, seeks and rebuilds."""

    def __init__(
        self,
        road: Road,
        places: Places,
        ownership: Ownership,
        membership: Membership,
        models: ModelCache,
        topic_prefix: str,
        figures: Figures,
    ) -> None:
        self._road = road
        self._places = places
        self._ownership = ownership
        self._membership = membership
        self._models = models
        self._prefix = topic_prefix
        self._figures = figures
        self._me = 0
        self._reading = False
        self._hinted: set[tuple[int, int]] = set()
        self._parting: dict[tuple[int, int], tuple[Place, float]] = {}  #: others' by now, and since when
        self._wake = asyncio.Event()
        self._sweep_at = 0.0
        self.broken = "not connected yet"  #: why there is no connection to Kafka; empty when there is one
        self._mended = asyncio.Event()
        self.generation = 0  #: which connection it is
        self.reader_busy: Callable[[int], bool] = lambda lane: False
        self._rebuilt_at = 0.0
        self.mute_until = 0.0  #: the broker answers no fetch of ours; monotonic seconds
        self._rng = random.Random()  # noqa: S311  spreads reconnects
        self._breaths = reconnect_delays(self._rng, cap=SWEEP_SECONDS)

    # what others tell

    def hinted(self, lines: Iterable[str]) -> None:
        """`<model_id> <partition>`: a record was sent there."""
        now = time.monotonic()
        for line in lines:
            named = read_sent(line)
            if named is None:
                continue
            place = self._places.find(*named)
            if place is not None and place.assigned:
                place.busy_at = now
            elif self._ownership.mine(*named):
                self._hinted.add(named)
                self._wake.set()

    def look(self) -> None:
        """Somebody joined or left, or hints were lost: sweep now."""
        self._sweep_at = 0.0
        self._wake.set()

    def become(self, me: int, *, reading: bool) -> None:
        """Who I am, and whether I read. Under a new number everything is forgotten."""
        if me != self._me:
            self._places.clear()
            self._parting.clear()
            self._road.assign({})
        if (me, reading) != (self._me, self._reading):
            self._me, self._reading = me, reading
            self._reown()
            self.look()

    async def mend(self, cause: str, generation: int) -> None:
        """That connection is broken: returns when there is another one."""
        if generation == self.generation:
            self._break(cause)
            await self._mended.wait()

    def read_again(self, places: Sequence[Place]) -> None:
        """What is in hand of these could not be settled."""
        for place in places:
            place.again()
            if place.assigned and place.cursor is not None:
                self._road.seek(place.spot, place.cursor)

    def _break(self, cause: str) -> None:
        if not self.broken:
            self.broken = cause
            self._mended.clear()
        self._wake.set()

    # the loop

    async def run(self) -> None:
        """Assign and heal until cancelled."""
        delays = reconnect_delays(self._rng)
        while True:
            await self._rest()
            try:
                if self.broken:
                    await self._breathe()
                    await self._rebuild()
                    delays = reconnect_delays(self._rng)
                if time.monotonic() >= self._sweep_at:
                    self._sweep_at = time.monotonic() + SWEEP_SECONDS
                    await self._sweep()
                await self._follow_hints()
            except BrokerUnavailable as error:
                log.warning("road.unavailable", message=str(error))
                self._break(str(error))
                await asyncio.sleep(next(delays))
            except (Unavailable, OutcomeUnknown, TimeoutError) as error:
                # A view that cannot be refreshed stays; so does the assignment.
                log.warning("road.sweep_failed", error=type(error).__name__)
            except Exception as error:
                log.error("road.surprise", error=type(error).__name__, exc_info=True)
                await asyncio.sleep(SWEEP_SECONDS)

    async def _rest(self) -> None:
        if not self.broken:
            await set_within(self._wake, max(0.0, self._sweep_at - time.monotonic()))
        self._wake.clear()

    async def _breathe(self) -> None:
        """After a connection that broke at once, wait before the next: what broke it might break them all."""
        if time.monotonic() - self._rebuilt_at < SHORT_LIVED_SECONDS:
            await asyncio.sleep(next(self._breaths))
        else:
            self._breaths = reconnect_delays(self._rng, cap=SWEEP_SECONDS)

    async def _rebuild(self) -> None:
        self.generation += 1
        await self._road.rebuild()
        log.info("road.open", after=self.broken)
        self._figures.rebuilt()
        self.broken, self._rebuilt_at = "", time.monotonic()
        for place in self._places.assigned():
            place.assigned_at = self._rebuilt_at
        self._assign()
        self._mended.set()

    # sweeping

    async def _sweep(self) -> None:
        async with asyncio.timeout(3):
            beats = await self._membership.watch()
        self._ownership.view.observe(beats, time.monotonic())
        self._reown()
        async with asyncio.timeout(3):
            unclaimed = await self._membership.unclaimed()
        now = time.monotonic()
        wanted = [place for row in unclaimed if (place := await self._place(row.model_id, row.partition, now))]
        self._drop_idle(now)
        await self._activate(wanted)
        await self._heal(unclaimed)

    def _reown(self) -> None:
        """Forget what is not mine any more: at once where I cannot go on, else when its owner has had time to begin."""
        moved, now = self._ownership.update(self._me, reading=self._reading), time.monotonic()
        # A model that is called by another adapter now may be others' from now on.
        differ = self._ownership.view.adapters_differ()
        if moved or differ:
            since = {key: at for key, (_, at) in self._parting.items()}
            lost = [place for place in self._places if not self._ownership.mine(*place.key)]
            self._parting = {place.key: (place, since.get(place.key, now)) for place in lost}
        at_once = differ or not self._reading
        over = [place for place, at in self._parting.values() if at_once or now - at >= HANDING_OVER_SECONDS]
        for place in over:
            del self._parting[place.key]
        # A model that was renamed meanwhile has another place by now.
        self._release([place for place in over if self._places.find(*place.key) is place], forget=True)

    def _drop_idle(self, now: float) -> None:
        self._release([place for place in self._places.assigned() if now - place.busy_at > IDLE_SECONDS], forget=False)

    def _release(self, places: Sequence[Place], *, forget: bool) -> None:
        changed = any(place.assigned for place in places)
        for place in places:
            place.assigned = False
            if forget:
                self._places.forget(place)
        if changed:
            self._assign()

    # assigning

    async def _follow_hints(self) -> None:
        hinted, self._hinted = self._hinted, set()
        now = time.monotonic()
        await self._activate([place for key in hinted if (place := await self._place(*key, now))])

    async def _place(self, model_id: int, partition: int, now: float) -> Place | None:
        """The partition, if it is mine; it is busy now."""
        model = await self._models.by_id(model_id)  # first: whose it is depends on its adapter
        if model is None or partition < 0 or not self._ownership.mine(model_id, partition):
            return None
        spot = Spot(model_topic(self._prefix, model_id, model.name), partition)
        place = self._places.find(model_id, partition)
        if place is None or place.spot != spot:
            place = Place(spot, model_id, model.lane)
            self._places.put(place)
        place.busy_at = now
        return place

    async def _activate(self, places: Sequence[Place]) -> None:
        """Read these too; those that were never read, or whose beginning was not found yet, are looked up by time."""
        sleeping = [place for place in places if not place.assigned]
        now = time.monotonic()
        for place in sleeping:
            place.assigned, place.assigned_at = True, now
        if sleeping:
            self._assign()
        unknown = [place for place in places if place.cursor is None]
        if unknown:
            await self._look_up(unknown)

    def _assign(self) -> None:
        # Assigning replaces everything, so each partition is sought to where it stands, in the same turn of the loop.
        self._road.assign({place.spot: place.cursor for place in self._places.assigned()})

    async def _look_up(self, places: Sequence[Place]) -> None:
        async with asyncio.timeout(3):
            since = await self._membership.read_from([(place.lane, place.spot.partition) for place in places])
        floors = {place.spot: _milliseconds(at.since) for place, at in zip(places, since, strict=True)}
        offsets = await self._road.offsets(floors)
        missing = [place for place in places if place.spot not in offsets]
        for place, at in zip(places, since, strict=True):
            if place.spot in offsets:
                self._begin(place, offsets[place.spot], floors[place.spot], at.now)
        if missing:
            topics = sorted({place.spot.topic for place in missing})
            log.warning("road.partitions_missing", partitions=len(missing), topics=topics[:20])
        # Assigned without a leader it would have aiokafka ask for metadata all the time; the sweep tries again.
        self._release(missing, forget=False)

    def _begin(self, place: Place, offset: int, floor_ms: int, now: datetime) -> None:
        place.start(offset, floor_ms)
        place.doubtful_ms = _milliseconds(now) - DOUBTFUL_MS
        if place.assigned:
            self._road.seek(place.spot, offset)

    # healing

    async def _heal(self, unclaimed: Sequence[UnclaimedPartition]) -> None:
        now = time.monotonic()
        suspects = [(place, row) for row in unclaimed if (place := self._suspect(row, now))]
        if not suspects:
            return
        floors = {place.spot: _milliseconds(row.oldest) - 1 for place, row in suspects}
        offsets = await self._road.offsets(floors)
        for place, row in suspects:
            place.heal.looked(now)
            offset = offsets.get(place.spot)
            if offset is not None and place.cursor is not None and offset < place.cursor:
                log.warning(
                    "road.healed", topic=place.spot.topic, partition=place.spot.partition,
                    position=place.cursor, offset=offset, age=round(row.age, 1),
                )  # fmt: skip
                self._figures.healed()
                self._begin(place, offset, floors[place.spot], row.oldest + timedelta(seconds=row.age))
        mute = [place.spot for place, _ in suspects if place.heal.rebuilt and place.spot in offsets]
        if mute and not any(map(self._road.heard, mute)):
            log.warning("road.mute", topics=sorted({spot.topic for spot in mute})[:20])
            self.mute_until = now + MUTE_SECONDS
        hopeless = [place for place, _ in suspects if place.heal.hopeless()]
        if hopeless and now - self._rebuilt_at > REBUILD_SECONDS:
            self._break("looking again did not help")

    def _suspect(self, row: UnclaimedPartition, now: float) -> Place | None:
        """The partition, if it should have been read up to this row by now."""
        place = self._places.find(row.model_id, row.partition)
        if place is None or not place.assigned or place.cursor is None:
            return None
        if row.age <= SUSPICIOUS_SECONDS or now - place.assigned_at <= SUSPICIOUS_SECONDS:
            return None
        # What is in hand is not claimed yet, and what waits behind it is nobody's fault but the database's.
        if self.reader_busy(place.lane):
            return None
        return place if place.heal.due(row.oldest, now) else None


def _milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1_000)
