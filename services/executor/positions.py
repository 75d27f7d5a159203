"""Where reading stands in each partition that is mine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from libs.common.ports_road import Spot


@dataclass(slots=True)
class Place:
    """One partition. It is remembered while I own it, whether it is assigned at the moment or not.

    `cursor` is what Kafka is asked for next; `settled` is where everything below was answered by PostgreSQL. A batch in
    hand moves `settled` only if nobody sought meanwhile (`epoch`), else the records between would be skipped.
    """

    spot: Spot
    model_id: int
    lane: int
    cursor: int | None = None
    settled: int = 0
    epoch: int = 0
    floor_ms: int = 0  #: older records were not wanted; a broker that cannot look up by time sends them all the same
    doubtful_ms: int = 0  #: older records were most likely answered for before we began to read
    assigned: bool = False
    assigned_at: float = 0.0
    busy_at: float = 0.0
    heal: Heal = field(default_factory=lambda: Heal())

    @property
    def key(self) -> tuple[int, int]:
        return self.model_id, self.spot.partition

    def start(self, offset: int, floor_ms: int) -> None:
        """Begin to read here, whatever was in hand."""
        self.cursor = self.settled = offset
        self.floor_ms = floor_ms
        self.epoch += 1

    def again(self) -> None:
        """What is in hand could not be settled: read it once more."""
        if self.cursor is not None:
            self.start(self.settled, self.floor_ms)

    def took(self, end: int) -> int:
        """Records below `end` are in hand; returns what `settle` wants to know."""
        self.cursor = end
        return self.epoch

    def settle(self, end: int, epoch: int) -> None:
        """Everything below `end` is answered."""
        if epoch == self.epoch:
            self.settled = end


@dataclass(slots=True)
class Heal:
    """What was tried for the row that nobody claims though it should have been read."""

    oldest: datetime | None = None
    looks: int = 0
    next_at: float = 0.0
    rebuilt: bool = False

    def due(self, oldest: datetime, now: float) -> bool:
        """Whether to look again: at once for a new row, after a pause that doubles for the same one."""
        if oldest != self.oldest:
            self.oldest, self.looks, self.next_at, self.rebuilt = oldest, 0, now, False
        return now >= self.next_at

    def looked(self, now: float) -> None:
        """It was looked at now."""
        self.looks += 1
        self.next_at = now + 2.0**self.looks

    def hopeless(self) -> bool:
        """Whether looking has not helped twice, so that the connection is to be suspected: once for each row."""
        if self.looks < 2 or self.rebuilt:
            return False
        self.rebuilt = True
        return True


class Places:
    """All partitions that I own and have met."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[int, int], Place] = {}
        self._by_spot: dict[Spot, Place] = {}

    def put(self, place: Place) -> None:
        """Remember a partition, in place of an older one of the same key."""
        old = self._by_key.get(place.key)
        if old is not None:
            self.forget(old)
        self._by_key[place.key] = place
        self._by_spot[place.spot] = place

    def find(self, model_id: int, partition: int) -> Place | None:
        """The partition of a model, if I have met it."""
        return self._by_key.get((model_id, partition))

    def at(self, spot: Spot) -> Place | None:
        """The assigned partition of this topic."""
        place = self._by_spot.get(spot)
        return place if place is not None and place.assigned else None

    def forget(self, place: Place) -> None:
        """It is somebody else's now."""
        place.assigned = False
        self._by_key.pop(place.key, None)
        self._by_spot.pop(place.spot, None)

    def clear(self) -> None:
        """Forget everything."""
        for place in self:
            self.forget(place)

    def assigned(self) -> list[Place]:
        """Those that are read now."""
        return [place for place in self._by_key.values() if place.assigned]

    def __iter__(self) -> Iterator[Place]:
        return iter(list(self._by_key.values()))
