"""Rows that PostgreSQL remembers as held here, until a permit and a slot are free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from services.executor.admission.rotation import Arrival

#: A lane is looked at again this long after a refusal; the release script's hint comes earlier as a rule.
SHORTEST_POLL_SECONDS: Final = 0.25
LONGEST_POLL_SECONDS: Final = 1.0
#: How many permits are asked for at first when a lane is woken; while all are granted, twice as many, up to the most.
FIRST_ASK: Final = 4
MOST_ASK: Final = 1_024


@dataclass(slots=True)
class _Lane:
    calls: dict[int, Arrival] = field(default_factory=dict)  #: by id, in the order of arrival
    uploads: dict[int, Arrival] = field(default_factory=dict)  #: need a slot alone: never behind who needs a permit
    look_at: float = 0.0
    poll: float = SHORTEST_POLL_SECONDS
    ask: int = FIRST_ASK

    def rows(self) -> Iterable[Arrival]:
        """All that wait, in the order in which they are looked at."""
        return chain(self.uploads.values(), self.calls.values())


class WaitingRoom:
    """Held rows by lane, first come, first served in each. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._lane_of: dict[int, int] = {}
        self._woken: set[int] = set()
        self._expected: Counter[int] = Counter()
        self._woken_early: set[int] = set()
        self._scan_at = 0.0

    def __len__(self) -> int:
        return len(self._lane_of)

    def __contains__(self, arrival: Arrival) -> bool:
        return self.lease_of(arrival.id) == arrival.lease

    def lease_of(self, task: int) -> int | None:
        """The lease under which a row is held here."""
        number = self._lane_of.get(task)
        if number is None:
            return None
        lane = self._lanes[number]
        return (lane.calls.get(task) or lane.uploads[task]).lease

    def busy(self, lane: int) -> bool:
        """Whether somebody waits in this lane: who comes later goes behind."""
        return lane in self._lanes

    @contextmanager
    def expecting(self, lanes: Collection[int]) -> Iterator[None]:
        """Rows of these lanes are asked about, and may be put here soon: what becomes free between their refusal and
        their arrival wakes them when they come.
        """
        self._expected.update(lanes)
        try:
            yield
        finally:
            self._expected -= Counter(lanes)
            self._woken_early &= self._expected.keys()

    def put(self, arrivals: Iterable[Arrival], now: float) -> None:
        """Rows are held from now on; one that is there already, under an older lease, is replaced."""
        for arrival in arrivals:
            if arrival.id in self._lane_of:
                self.remove(arrival.id)
            lane = self._lanes.get(arrival.lane)
            if lane is None:
                lane = self._lanes[arrival.lane] = _Lane(look_at=now + SHORTEST_POLL_SECONDS)
                if arrival.lane in self._woken_early:
                    self._woken.add(arrival.lane)
            arrival.held_at = now
            (lane.calls if arrival.needs_permit else lane.uploads)[arrival.id] = arrival
            self._lane_of[arrival.id] = arrival.lane

    def let_go(self, arrival: Arrival) -> None:
        """A row is no longer held here; not if it is held again, under another lease, by now."""
        if arrival in self:
            self.remove(arrival.id)

    def remove(self, task: int) -> None:
        """A row is no longer held here; unknown ones are fine."""
        number = self._lane_of.pop(task, None)
        if number is None:
            return
        lane = self._lanes[number]
        lane.calls.pop(task, None)
        lane.uploads.pop(task, None)
        if not lane.calls and not lane.uploads:
            del self._lanes[number]
            if number in self._expected:
                # Who comes is behind the last one here, and has not asked: what was free for it has woken nobody.
                self._woken_early.add(number)

    def wake(self, lane: int) -> bool:
        """A permit of this lane may be free; returns whether anybody waits for it."""
        if lane not in self._lanes:
            if lane in self._expected:
                self._woken_early.add(lane)
            return False
        self._woken.add(lane)
        return True

    def wake_all(self) -> None:
        """Permits of any lane may be free."""
        self._woken.update(self._lanes)

    def candidates(self, now: float, able: Callable[[Arrival], bool] = lambda _: True) -> list[Arrival]:
        """The first able rows of each lane that is to be looked at now."""
        due, self._woken = self._woken, set()
        if now >= self._scan_at:
            self._scan_at = now + SHORTEST_POLL_SECONDS
            due.update(number for number, lane in self._lanes.items() if lane.look_at <= now)
        found: list[Arrival] = []
        for number in due & self._lanes.keys():
            lane = self._lanes[number]
            found.extend(islice(filter(able, lane.rows()), lane.ask))
        return found

    def looked(self, number: int, now: float, *, granted: bool) -> None:
        """A look at a lane is over: all that was asked for was granted, so ask for more at once; or not, so wait."""
        lane = self._lanes.get(number)
        if lane is None:
            return
        if granted:
            lane.ask = min(lane.ask * 2, MOST_ASK)
            lane.poll = SHORTEST_POLL_SECONDS
            self._woken.add(number)
        else:
            lane.ask = FIRST_ASK
            lane.look_at = now + lane.poll
            lane.poll = min(lane.poll * 2, LONGEST_POLL_SECONDS)

    def next_look(self, now: float) -> float | None:
        """In how many seconds a lane may have to be looked at; None when nobody waits."""
        if not self._lanes:
            return None
        return 0.0 if self._woken else max(0.0, self._scan_at - now)

    def held_since(self, before: float) -> list[Arrival]:
        """Rows that have been held since before then."""
        return [row for lane in self._lanes.values() for row in lane.rows() if row.held_at <= before]

    def clear(self) -> None:
        """Forget all."""
        self._lanes.clear()
        self._lane_of.clear()
        self._woken.clear()
