"""The dispatch queue in memory, by the same rules as the statements: for tests of what stands above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from uuid import UUID, uuid4

from libs.common.ports_dispatch import Key, LaneAsk, LaneInfo, LaneRoom, LeasedRow, Moved, Placed, Turn

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class Row:
    """One open task."""

    id: int
    lane: int
    klass: int
    key: Key
    lease: int | None = None
    sends: int = 0
    due: float | None = None
    public_id: UUID = field(default_factory=uuid4)


class MemoryQueue:
    """Implements ports_dispatch.DispatchQueue. `locked` are lanes that another dispatcher has at this moment; each
    lane is its own tenant's."""

    def __init__(self, windows: dict[int, int]) -> None:
        self.windows = windows
        self.rows: dict[int, Row] = {}
        self._lanes: dict[int, dict[int, Row]] = {lane: {} for lane in windows}
        self.open_leases: set[int] = set()
        self.locked: set[int] = set()
        self.asked: list[list[LaneAsk]] = []
        self.infos: list[LaneInfo] = []
        self.server = NOW
        self.spreads: dict[int, int] = {}
        self.fail_with: Exception | None = None
        self._ids = count(1)
        self._leases = count(1)

    def add(
        self, lane: int, rows: int = 1, *, klass: int = 1, priority: int = 0, position: int | None = None
    ) -> list[Row]:
        """Ready rows at the end of the lane, or at a position."""
        new = []
        for _ in range(rows):
            number = next(self._ids)
            key = Key(priority, number if position is None else position)
            new.append(Row(number, lane, klass, key))
            self.rows[number] = self._lanes[lane][number] = new[-1]
        return new

    def finish(self, id_: int) -> int:
        """A running task ends; returns its lane."""
        return self._pop(id_).lane

    def _pop(self, id_: int) -> Row:
        row = self.rows.pop(id_)
        return self._lanes[row.lane].pop(id_)

    def in_flight(self, lane: int) -> list[Row]:
        return [row for row in self._lanes[lane].values() if row.lease is not None]

    def ready(self, lane: int) -> list[Row]:
        return [row for row in self._lanes[lane].values() if row.lease is None and row.due is None]

    async def new_dispatcher(self) -> int:
        return 1

    async def lease_due(
        self, asks: Sequence[LaneAsk], batch: int, dispatcher: int, acknowledged: Sequence[int]
    ) -> Turn:
        if self.fail_with is not None:
            raise self.fail_with
        self.asked.append(list(asks))
        self.open_leases -= set(acknowledged)
        rooms, picked = [], []
        for turn, ask in enumerate(asks):
            if ask.lane in self.locked:
                continue
            flying = [row.lease for row in self.in_flight(ask.lane) if row.lease is not None and row.lease >= ask.low]
            room = self.windows[ask.lane] - len(flying)
            rooms.append(LaneRoom(ask.lane, room, min(flying, default=None)))
            heads = self._heads(ask)[: max(min(room, ask.quantum), 0)]
            picked += [(nth / ask.quantum, turn, row) for nth, row in enumerate(heads, 1)]
        chosen = [row for *_, row in sorted(picked, key=lambda pick: pick[:2])[:batch]]
        lease = next(self._leases) if chosen else 0
        if chosen:
            self.open_leases.add(lease)
        for row in chosen:
            row.lease = lease
        leased = [LeasedRow(row.id, row.lane, row.klass, row.key, 0, lease, 0, 10, NOW) for row in chosen]
        return Turn(rooms, leased, [ask.lane for ask in asks if ask.lane in self.locked])

    def _heads(self, ask: LaneAsk) -> list[Row]:
        """Heads of both classes, one to one, from the cursors on."""
        ranked = []
        for klass, start in ((0, ask.returning), (1, ask.fresh)):
            rows = sorted(
                (row for row in self.ready(ask.lane) if row.klass == klass and row.key >= start),
                key=lambda row: row.key,
            )
            ranked += [(nth, klass, row) for nth, row in enumerate(rows)]
        return [row for *_, row in sorted(ranked, key=lambda entry: (entry[0], (entry[1] == 1) != ask.fresh_first))]

    async def close_leases(self, leases: Sequence[int]) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        self.open_leases -= set(leases)

    async def lanes_with_work(self) -> list[int]:
        return sorted(
            lane for lane, window in self.windows.items() if self.ready(lane) and window > len(self.in_flight(lane))
        )

    async def spread(self, partitions: Mapping[int, int]) -> None:
        self.spreads.update(partitions)

    async def server_began(self) -> datetime:
        return self.server

    async def lanes_changed(self, since: datetime | None) -> list[LaneInfo]:
        changed = [info for info in self.infos if since is None or info.changed_at >= since]
        return [replace(info, spread=self.spreads.get(info.lane, info.partitions)) for info in changed]

    async def give_back(self, lease: int, ids: Sequence[int]) -> list[Moved]:
        if self.fail_with is not None:
            raise self.fail_with
        back = [self.rows[id_] for id_ in ids if self.rows[id_].lease == lease]
        for row in back:
            row.lease = None
        return [Moved(row.lane, row.id, Placed(row.lane, row.klass, row.key)) for row in back]

    async def postpone_refused(self, rows: Sequence[tuple[int, int, float, str]]) -> list[tuple[int, int]]:
        answer = []
        for id_, lease, delay, _ in rows:
            row = self.rows[id_]
            assert row.lease == lease
            row.lease, row.sends, row.due = None, row.sends + 1, delay
            answer.append((id_, row.sends))
        return answer

    async def bury_refused(self, ids: Sequence[int], message: str) -> list[tuple[UUID, int]]:
        return [(row.public_id, row.lane) for row in map(self._pop, ids)]


def lane_info(
    lane: int, tenant: int = 1, *, weight: int = 1, partitions: int = 1, name: str = "m", closed: bool = False
) -> LaneInfo:
    """A lane whose model has the lane's number."""
    return LaneInfo(lane, tenant, lane, name, partitions, partitions, closed, weight, NOW)
