"""Whose partition it is: a rendezvous hash over the executors whose heartbeats were seen to move.

An executor lives while its beat moved within 6 s of *my own successful looks*. The clock of this view stands still
while PostgreSQL cannot be asked, so an outage makes nobody look dead; a view that cannot be refreshed stays as it is.
Age by the database's clock serves only for executors that I see for the first time. Two views may differ for a moment,
and two executors read the same partition then: the claim in PostgreSQL decides, so that costs a few stale messages.

A model is read by executors that have its adapter, if any of those that read has it: while packages are installed one
executor after the other, some have it and some do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from typing import Final

from libs.common.ports_attempts import WatchedBeat

SILENT_SECONDS: Final = 6.0
#: Between two looks the view's clock moves by at most this much: what is more was an outage, mine or the database's.
_LONGEST_STEP_SECONDS: Final = 2.0


class BeatView:
    """What one executor has seen of the others' heartbeats; times are of `observe`'s own clock."""

    def __init__(self) -> None:
        self._moved: dict[int, tuple[int, float]] = {}  #: by executor: its last beat, and when that was new
        self._live: dict[int, WatchedBeat] = {}
        self._clock = 0.0
        self._looked_at: float | None = None

    def observe(self, beats: Sequence[WatchedBeat], at: float) -> None:
        """Take over one successful look at monotonic time `at`."""
        if self._looked_at is not None:
            self._clock += min(at - self._looked_at, _LONGEST_STEP_SECONDS)
        self._looked_at = at
        before, self._moved = self._moved, {}
        for beat in beats:
            known = before.get(beat.id)
            if known is None:
                moved_at = self._clock - max(beat.age, 0.0)  # below 0 after the database's clock was set back
            else:
                moved_at = known[1] if known[0] == beat.beat else self._clock
            self._moved[beat.id] = beat.beat, moved_at
        self._live = {beat.id: beat for beat in beats if self._clock - self._moved[beat.id][1] <= SILENT_SECONDS}

    def readers(self) -> frozenset[int]:
        """Those that live and take work: the hash is over these. Where nobody does, over those that go on with what
        needs no permit, or no room in staging.
        """
        able = frozenset(number for number, beat in self._live.items() if beat.reading)
        return able or frozenset(number for number, beat in self._live.items() if beat.last_resort)

    def others_start(self, me: int) -> bool:
        """Whether another executor takes work and can start it."""
        return any(number != me and beat.reading for number, beat in self._live.items())

    def room_elsewhere(self, me: int, slots: int) -> bool:
        """Whether another executor takes work and has so many slots left."""
        return any(number != me and beat.reading and beat.free >= slots for number, beat in self._live.items())

    def with_store(self, store: str, *, but: int) -> int | None:
        """A live executor other than `but` that can read this staging store, if possible one that takes work."""
        fit = [
            (not beat.reading, number) for number, beat in self._live.items() if number != but and store in beat.stores
        ]
        return min(fit)[1] if fit else None

    def stores_differ(self) -> bool:
        """Whether some live executor reads other staging stores than another."""
        return len({beat.stores for beat in self._live.values()}) > 1

    def has_adapter(self, number: int, adapter: str) -> bool:
        """Whether this executor lives, and can call models by that adapter."""
        beat = self._live.get(number)
        return beat is not None and adapter in beat.adapters

    def adapters_differ(self) -> bool:
        """Whether some live executor has other adapters than another."""
        return len({beat.adapters for beat in self._live.values()}) > 1


class Ownership:
    """Which partitions are mine: `adapter_of` says by which adapter a model is called, if that is known."""

    def __init__(self, adapter_of: Callable[[int], str | None], adapters: Collection[str]) -> None:
        self.view = BeatView()
        self._adapter_of = adapter_of
        self._adapters = adapters
        self._me = 0
        self._readers: Collection[int] = ()
        self._owners: dict[tuple[int, int, str | None], int | None] = {}

    def update(self, me: int, *, reading: bool) -> bool:
        """Take over what the view says by now, and whether I read; returns whether ownership may have moved.

        Of myself I know more than the table says: I leave the hash at once when I stop reading.
        """
        readers = self.view.readers() - {me} | ({me} if reading else frozenset())
        if readers == self._readers and me == self._me:
            return False
        self._me, self._readers, self._owners = me, readers, {}
        return True

    def mine(self, model_id: int, partition: int) -> bool:
        """Whether I own this partition of a model's topic."""
        adapter = self._adapter_of(model_id)
        key = (model_id, partition, adapter)
        if key not in self._owners:
            able = [reader for reader in self._readers if adapter is None or self._has(reader, adapter)]
            self._owners[key] = owner_of(model_id, partition, able or self._readers)
        return self._me != 0 and self._owners[key] == self._me

    def _has(self, reader: int, adapter: str) -> bool:
        return adapter in self._adapters if reader == self._me else self.view.has_adapter(reader, adapter)


def owner_of(model_id: int, partition: int, readers: Collection[int]) -> int | None:
    """The reader with the highest hash for this partition: when one comes or goes, only its own partitions move."""
    return max(readers, key=lambda reader: (_weight(model_id, partition, reader), reader), default=None)


def _weight(model_id: int, partition: int, reader: int) -> bytes:
    return blake2b(b"%d %d %d" % (model_id, partition, reader), digest_size=8).digest()
