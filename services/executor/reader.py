"""The read loop: read, settle, move on. It never waits for a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from libs.common.contracts.dispatch_message import MalformedMessage, decode
from libs.common.domain.errors import BrokerUnavailable, OutcomeUnknown, Unavailable
from libs.common.domain.model import Model
from libs.common.domain.task import Phase
from libs.common.ports_dead import DeadLetter
from libs.common.ports_road import Road, RoadRecord, Spot, Unreadable
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.admission.desk import Closing
from services.executor.admission.rotation import Arrival
from services.executor.figures import Figures
from services.executor.positions import Place, Places

log = get_logger()

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


class Reader:
    """Reads what is assigned, batch by batch; a batch is settled before the next is read."""

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
        self._idle = asyncio.Event()
        self._idle.set()
        self.turned_at = time.monotonic()  #: when the loop last began a turn

    def stop(self) -> None:
        """Settle nothing more than what is in hand."""
        self._stopping = True

    @property
    def busy(self) -> bool:
        """Whether a batch is in hand."""
        return not self._idle.is_set()

    async def idle(self) -> None:
        """Wait until nothing is in hand."""
        await self._idle.wait()

    async def run(self) -> None:
        """Read until stopped; what is in hand is settled first."""
        while not self._stopping:
            self.turned_at = time.monotonic()
            generation = self._mender.generation
            try:
                batches = await self._road.read(_WAIT_SECONDS)
            except BrokerUnavailable as error:
                await self._mender.mend(str(error), generation)
                continue
            except Unreadable as error:
                await self._skip(error)
                continue
            if batches and not self._stopping:
                self._idle.clear()
                try:
                    await self._settle(batches)
                finally:
                    self._idle.set()

    async def _settle(self, batches: Mapping[Spot, Sequence[RoadRecord]]) -> None:
        """Settle one batch; if that fails in an unforeseen way, read it again."""
        taken = [(place, place.took(records[-1].offset + 1), records) for place, records in self._mine(batches)]
        try:
            arrivals = []
            for place, _, records in taken:
                arrivals += await self._arrivals(place, records)
            await self._desk.settle(arrivals)
        except Closing:
            return
        except Exception as error:
            log.warning("reader.unsettled", error=type(error).__name__, message=str(error)[:200])
            await asyncio.sleep(_RETRY_SECONDS)
            self._mender.read_again([place for place, _, _ in taken])
            return
        now = time.monotonic()
        for place, epoch, records in taken:
            place.settle(records[-1].offset + 1, epoch)
            place.busy_at = now

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
        assert model is not None, "a partition is assigned only when its model is known"
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
            arrivals.append(Arrival(message.task, message.lease, max(0, message.size), phase, model))
        if bad:
            await self._bury(bad)
        return arrivals

    async def _skip(self, error: Unreadable) -> None:
        """Note a record that not even its bytes could be had of, and go on behind it."""
        letter = DeadLetter(*error.spot, error.offset, None, None, (), "unreadable", str(error), 0)
        try:
            await self._bury([letter])
        except Closing:
            return
        place = self._places.at(error.spot)
        if place is not None and place.cursor is not None and place.cursor <= error.offset:
            place.start(error.offset + 1, place.floor_ms)
            self._road.seek(place.spot, error.offset + 1)

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep bytes that nobody can understand, before the position moves on behind them."""
        for letter in letters:
            log.warning(
                "message.dead", topic=letter.topic, partition=letter.partition, offset=letter.offset, cause=letter.cause
            )
        await failpoint("executor/before-dead-message")
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
