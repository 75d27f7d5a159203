"""Which lanes are worth a turn, in what order, and from where: all in memory."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from libs.common.ports_dispatch import Key, LaneAsk, LaneInfo, LeasedRow, Turn
from services.dispatcher.pace import rest_after

#: Rows that one turn takes, about, and lanes that it names at most (a row costs 10 us, a lane 15).
BATCH: Final = 500
MAX_LANES: Final = 500
_FIRST: Final = Key(-(2**15), -(2**63))


class _Seen(Enum):
    """What the last turn left in a lane."""

    UNKNOWN = 0
    EMPTY = 1  #: nothing was ready; new rows come with their own hint, so room alone is no news
    FULL = 2  #: no room was left


@dataclass(slots=True, eq=False)
class _Tenant:
    """A tenant's active lanes in rotation, and what it may still take of the turns so far (deficit round robin)."""

    weight: int
    credit: float = 0.0
    lanes: deque[_Lane] = field(default_factory=deque)
    in_ring: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    info: LaneInfo
    tenant: _Tenant
    open: bool = False
    active: bool = False
    asked: int = 0  #: the quantum while a turn is under way, else 0
    again: bool = False  #: something happened while it was asked
    seen: _Seen = _Seen.UNKNOWN
    epoch: int = 0
    low: int = 0
    heads: list[Key] = field(default_factory=lambda: [_FIRST, _FIRST])
    hinted: list[Key | None] = field(default_factory=lambda: [None, None])
    fresh_first: bool = False  #: whose turn it is: a returning row was taken last


class LaneBook:
    """The lanes that this dispatcher knows, and its cursors into each.

    A lane is asked only while it is open (its topic exists) and active. Hints, the sweep and its own last turn make
    it active; it stays so only if it gave its full quantum and has room left. Tenants rotate first, by weight, then
    each tenant's lanes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lanes: dict[int, _Lane] = {}
        self._tenants: dict[int, _Tenant] = {}
        self._ring: deque[_Tenant] = deque()
        self._asked: list[_Lane] = []
        self._asked_at = 0.0
        self._limit = 0
        self._last_lease = 0
        self._epoch = 0
        self._clear_at = clock() + rest_after(0.0)
        self._measure = True

    @property
    def has_work(self) -> bool:
        """Whether any lane wants a turn."""
        return bool(self._ring)

    def info(self, lane: int) -> LaneInfo | None:
        """What is known of a lane."""
        known = self._lanes.get(lane)
        return known.info if known is not None else None

    def learn(self, infos: Iterable[LaneInfo]) -> None:
        """New lanes, and new values of known ones; closed lanes are forgotten."""
        for info in infos:
            tenant = self._tenants.setdefault(info.tenant_id, _Tenant(info.weight))
            tenant.weight = info.weight
            lane = self._lanes.get(info.lane)
            if info.closed:
                if lane is not None:
                    self.close([info.lane])
                    del self._lanes[info.lane]
            elif lane is not None and lane.tenant is tenant:
                lane.info = info
            else:
                self.close([info.lane])  # another tenant's, where PostgreSQL goes on from an older state
                self._lanes[info.lane] = _Lane(info, tenant)

    def open(self, lanes: Iterable[int]) -> None:
        """Their topics exist: they may be asked, and may have been waiting for that."""
        for number in lanes:
            lane = self._lanes.get(number)
            if lane is not None and not lane.open:
                lane.open = True
                self._forget(lane)
                self._activate(lane)

    def close(self, lanes: Iterable[int]) -> None:
        """Their topics are in doubt: they are not asked until opened again."""
        for number in lanes:
            lane = self._lanes.get(number)
            if lane is None:
                continue
            lane.open = False
            if lane.active:
                lane.active = False
                lane.tenant.lanes.remove(lane)

    def work(self, lane: int, klass: int, key: Key) -> bool:
        """A row became ready there. False when the lane is not known."""
        known = self._lanes.get(lane)
        if known is None:
            return False
        lowest = known.hinted[klass]
        if lowest is None or key < lowest:
            known.hinted[klass] = key
        self._activate(known)
        return True

    def room(self, lane: int) -> None:
        """A row of the lane left its window."""
        known = self._lanes.get(lane)
        if known is not None and (known.asked or known.seen is not _Seen.EMPTY or known.epoch != self._epoch):
            self._activate(known)

    def swept(self, lanes: Iterable[int]) -> None:
        """The sweep found ready rows and room there."""
        for number in lanes:
            known = self._lanes.get(number)
            if known is not None:
                known.seen = _Seen.UNKNOWN
                self._activate(known)

    def take(self, batch: int = BATCH) -> list[LaneAsk]:
        """The lanes of the next turn of about `batch` rows. Each `take` is followed by `settle` or `abandon`."""
        self._clear_cursors_when_due()
        lanes = min(batch, MAX_LANES)
        count = min(len(self._ring), lanes)
        tenants = [self._ring.popleft() for _ in range(count)]
        weights = sum(tenant.weight for tenant in tenants)
        for tenant in tenants:
            tenant.credit = min(tenant.credit + batch * tenant.weight / weights, batch)
            self._take_of(tenant, lanes)
            tenant.in_ring = bool(tenant.lanes)
            if tenant.in_ring:
                self._ring.append(tenant)
        asks = [self._ask(lane) for lane in self._asked]
        self._limit = min(sum(ask.quantum for ask in asks), 2 * batch)
        self._asked_at = self._clock()
        return asks

    @property
    def limit(self) -> int:
        """How many rows the turn of the last `take` may bring."""
        return self._limit

    def settle(self, turn: Turn) -> None:
        """What the turn of the last `take` found."""
        given: dict[int, list[LeasedRow]] = defaultdict(list)
        for row in turn.rows:
            given[row.lane].append(row)
        if turn.rows:
            if turn.rows[0].lease < self._last_lease:
                self._epoch += 1  # PostgreSQL was restored, or failed over to a standby that lagged
            self._last_lease = turn.rows[0].lease
        asked = {lane.info.lane: lane for lane in self._asked}
        truncated = len(turn.rows) >= self._limit
        for seen in turn.rooms:
            lane = asked.pop(seen.lane)
            more = self._settle_lane(lane, given[seen.lane], seen.room, truncated)
            lane.low = max(lane.low, self._last_lease if seen.low is None else seen.low)
            self._release(lane, more)
        busy = set(turn.busy)
        for number, lane in asked.items():
            self._release(lane, number in busy)
        self._end_turn()
        if self._measure:
            self._clear_at = self._clock() + rest_after(self._clock() - self._asked_at)
            self._measure = False

    def abandon(self) -> None:
        """The turn of the last `take` failed: its lanes are asked again."""
        for lane in self._asked:
            self._release(lane, True)
        self._end_turn()

    def _take_of(self, tenant: _Tenant, most: int) -> None:
        lanes = min(len(tenant.lanes), max(1, int(tenant.credit)), most - len(self._asked))
        if lanes <= 0 or tenant.credit < 1:
            return
        quantum = -int(-tenant.credit // lanes)
        for _ in range(lanes):
            lane = tenant.lanes.popleft()
            lane.active, lane.again, lane.asked = False, False, quantum
            self._asked.append(lane)

    def _ask(self, lane: _Lane) -> LaneAsk:
        if lane.epoch != self._epoch:
            self._forget(lane)
        for klass, key in enumerate(lane.hinted):
            # A row that was committed late, came back or jumped stands behind the cursor.
            if key is not None and key < lane.heads[klass]:
                lane.heads[klass] = key
            lane.hinted[klass] = None
        return LaneAsk(lane.info.lane, lane.asked, lane.low, lane.heads[0], lane.heads[1], lane.fresh_first)

    def _settle_lane(self, lane: _Lane, rows: Sequence[LeasedRow], room: int, truncated: bool) -> bool:
        """Move the cursors; returns whether the lane has more to give."""
        for row in rows:
            if row.key > lane.heads[row.klass]:
                lane.heads[row.klass] = row.key
        returning = sum(row.klass == 0 for row in rows)
        if returning * 2 != len(rows):  # one to one, as far as both are there: who is ahead was taken last
            lane.fresh_first = returning * 2 > len(rows)
        lane.tenant.credit -= len(rows)
        left = room - len(rows)
        if left <= 0:
            lane.seen = _Seen.FULL
        elif len(rows) < lane.asked and not truncated:
            lane.seen = _Seen.EMPTY
        else:
            lane.seen = _Seen.UNKNOWN
            return True
        return False

    def _release(self, lane: _Lane, more: bool) -> None:
        again, lane.asked, lane.again = more or lane.again, 0, False
        if again:
            self._activate(lane)

    def _end_turn(self) -> None:
        for lane in self._asked:
            if not lane.tenant.in_ring:
                lane.tenant.credit = 0.0  # who has nothing to send saves nothing up
        self._asked = []

    def _activate(self, lane: _Lane) -> None:
        if lane.asked:
            lane.again = True
        elif lane.open and not lane.active:
            lane.active = True
            lane.tenant.lanes.append(lane)
            if not lane.tenant.in_ring:
                lane.tenant.in_ring = True
                self._ring.append(lane.tenant)

    def _forget(self, lane: _Lane) -> None:
        lane.epoch, lane.low, lane.seen = self._epoch, 0, _Seen.UNKNOWN
        lane.heads = [_FIRST, _FIRST]

    def _clear_cursors_when_due(self) -> None:
        if self._clock() >= self._clear_at:
            self._epoch += 1
            self._measure = True
            self._clear_at = self._clock() + rest_after(0.0)
