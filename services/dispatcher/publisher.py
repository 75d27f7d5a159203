"""One leased batch on its way: send it, and settle what became of each row."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from libs.common.contracts import hints as wire
from libs.common.contracts.dispatch_message import DispatchMessage
from libs.common.contracts.topics import partition_of
from libs.common.domain.errors import GateUnavailable
from libs.common.operations.wake import Wake
from libs.common.ports import Hints, QueueGate
from libs.common.ports_dispatch import Carrier, DispatchQueue, LeasedRow, Placed, Record
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter
from services.dispatcher.roads import Road, Roads

log = get_logger()

#: A row that the broker refused this often is dead (reliability F19).
MAX_SENDS: Final = 20
_REFUSED_SECONDS: Final = 1.0
_UNDELIVERABLE: Final = "the broker refused its message too often"


class Publisher:
    """Sends leased rows outside any transaction. Nothing is burnt by a broker that is away: its rows go back."""

    def __init__(
        self,
        queue: DispatchQueue,
        carrier: Carrier,
        gate: QueueGate,
        hints: Hints,
        roads: Roads,
        rng: Random,
    ) -> None:
        self._queue = queue
        self._carrier = carrier
        self._gate = gate
        self._hints = hints
        self._wake = Wake(hints)
        self._roads = roads
        self._rng = rng
        published = counter("sluiceway_dispatches_published_total")
        self._acknowledged = published.labels(result="acknowledged")
        self._refused = published.labels(result="refused")
        self._given_back = published.labels(result="given_back")

    async def publish(self, rows: Sequence[LeasedRow]) -> list[Placed]:
        """Send one lease's rows; returns those that are ready again. The lease may be closed after that.

        Raises Unavailable or OutcomeUnknown when PostgreSQL was away for the settling: then the lease must stay open,
        so that the janitor gives its rows back.
        """
        roads = [self._roads.of(row.lane) for row in rows]
        records = [_record(row, road) for row, road in zip(rows, roads, strict=True) if road is not None]
        verdicts = iter(await self._carrier.send(records))
        await failpoint("dispatcher/after-publish")
        arrived: list[tuple[LeasedRow, Road]] = []
        refused: list[tuple[LeasedRow, Road, str]] = []
        lost: list[LeasedRow] = []
        for row, road in zip(rows, roads, strict=True):
            if road is None:
                lost.append(row)
            elif (verdict := next(verdicts)).acknowledged:
                arrived.append((row, road))
            elif verdict.refused:
                refused.append((row, road, verdict.refused))
            else:
                lost.append(row)
        self._announce(arrived)
        back = await self._give_back(lost)
        await self._postpone(refused)
        return back

    def _announce(self, arrived: Sequence[tuple[LeasedRow, Road]]) -> None:
        if not arrived:
            return
        self._acknowledged.inc(len(arrived))
        self._roads.trust({row.lane for row, _ in arrived})
        self._hints.changed((road.tenant_id, row.id) for row, road in arrived)
        for model, partition in {(road.model_id, partition_of(row.id, road.partitions)) for row, road in arrived}:
            self._hints.publish_soon(wire.ROAD, wire.sent(model, partition))

    async def _give_back(self, lost: Sequence[LeasedRow]) -> list[Placed]:
        if not lost:
            return []
        self._given_back.inc(len(lost))
        if self._carrier.reachable or await self._carrier.probe():
            # The broker answers, but not for these: their topics may be gone, or their partitions without a leader.
            self._roads.doubt({row.lane for row in lost})
        await failpoint("dispatcher/before-give-back")
        back = await self._queue.give_back(lost[0].lease, [row.id for row in lost])
        log.warning("relay.given_back", rows=len(back), of=len(lost), cause=self._carrier.last_error)
        self._wake.moved(back)  # they stand behind every dispatcher's cursors
        return [row.place for row in back]

    async def _postpone(self, refused: Sequence[tuple[LeasedRow, Road, str]]) -> None:
        if not refused:
            return
        self._refused.inc(len(refused))
        await failpoint("dispatcher/before-postpone")
        delays = (_REFUSED_SECONDS * (1 + self._rng.random() / 4) for _ in refused)
        rows = [(row.id, row.lease, delay, cause) for (row, _, cause), delay in zip(refused, delays, strict=True)]
        log.warning("relay.refused", rows=len(rows), cause=refused[0][2])
        spent = [id_ for id_, sends in await self._queue.postpone_refused(rows) if sends >= MAX_SENDS]
        if spent:
            await failpoint("dispatcher/before-bury")
            await self._bury(spent, refused[0][2])
        self._hints.changed((road.tenant_id, row.id) for row, road, _ in refused)
        for lane in {row.lane for row, _, _ in refused}:
            self._wake.room(lane)

    async def _bury(self, ids: Sequence[int], cause: str) -> None:
        buried = await self._queue.bury_refused(ids, f"{_UNDELIVERABLE}: {cause}")
        log.error("relay.buried", tasks=[str(public_id) for public_id, _ in buried], cause=cause)
        self._wake.events()
        try:
            await self._gate.release_many([(lane, str(public_id)) for public_id, lane in buried])
        except GateUnavailable:
            log.warning("relay.slots_not_released", slots=len(buried))  # the janitor's reconcile gives them back


def _record(row: LeasedRow, road: Road) -> Record:
    message = DispatchMessage(
        task=row.id,
        lane=row.lane,
        tenant=road.tenant_id,
        model=road.model_id,
        attempt=row.attempt,
        lease=row.lease,
        phase=row.phase,
        size=row.input_size,
    )
    return Record(
        topic=road.topic,
        partition=partition_of(row.id, road.partitions),
        key=str(row.id).encode(),
        value=message.encode(),
        timestamp_ms=int(row.leased_at.timestamp() * 1000),
    )
