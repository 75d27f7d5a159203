"""Who is alive, judged by beats that were seen to move.

An executor beats every 2 s. It is presumed dead after 10 s in which *this* janitor asked PostgreSQL successfully all
the time and saw no beat:

    asked . . . . . . . . . .      an answer every second
    beat  x   x   -   -   -   -    silence runs from the last beat that was seen
                  `--- 10 s ---`   presumed dead

A pause between two answers (PostgreSQL was away, or this process stood still) says nothing about executors, so it sets
every silence back to nothing, and so does a janitor's own start. Otherwise every model would be called twice after each
outage. Nothing here compares wall clocks of two machines; the age of a beat, by PostgreSQL's clock, only refines *when*
between two of our own looks a beat was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from libs.common.ports_attempts import WatchedBeat

SILENCE_SECONDS: Final = 10.0
#: Answers that come further apart than this are no continuous watch: we ask every second.
_GAP_SECONDS: Final = 2.5
#: Partitions of an executor that is silent for so long belong to others.
_READER_SECONDS: Final = 6.0


@dataclass(slots=True)
class _Seen:
    beat: int
    silent_from: float


class BeatWatch:
    """Watches heartbeats; times are monotonic seconds."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._answered: float | None = None
        self._reader_since: float | None = None

    def observe(self, beats: Sequence[WatchedBeat], *, asked: float, answered: float) -> list[WatchedBeat]:
        """Take in one answer; returns those that are presumed dead now."""
        previous = self._answered
        watching = previous is not None and answered - previous <= _GAP_SECONDS
        known, self._seen, self._answered = self._seen, {}, answered
        for beat in beats:
            seen = known.get(beat.id)
            if seen is None or seen.beat != beat.beat or not watching:
                # It was written after our last look: its age may say how long after, but never more than that.
                since = answered - previous if watching and previous is not None else 0.0
                seen = _Seen(beat.beat, answered - min(max(beat.age, 0.0), since))
            self._seen[beat.id] = seen
        self._note_readers(beats, watching=watching, now=answered)
        return [beat for beat in beats if asked - self._seen[beat.id].silent_from >= SILENCE_SECONDS]

    def read_for(self, now: float) -> float:
        """How long there has been, all the time, an executor that reads; 0 when there is none."""
        return 0.0 if self._reader_since is None else now - self._reader_since

    def _note_readers(self, beats: Sequence[WatchedBeat], *, watching: bool, now: float) -> None:
        read = any(
            (beat.reading or beat.last_resort) and now - self._seen[beat.id].silent_from < _READER_SECONDS
            for beat in beats
        )
        if not read:
            self._reader_since = None
        elif self._reader_since is None or not watching:
            self._reader_since = now
