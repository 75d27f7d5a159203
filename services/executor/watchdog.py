"""Notices a read loop that hangs although PostgreSQL answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: So long without a turn, while heartbeats are answered, and others should read in its place.
HANGS_SECONDS: Final = 3.0


class Watchdog:
    """Counts only time in which heartbeats are answered: while PostgreSQL is away, waiting for it is no hanging.

    A stuck owner that beats would keep its partitions for ever, republished rows included.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._turned_at = 0.0
        self.stuck = 0.0  #: seconds without a turn while heartbeats were answered

    def hangs(self, turned_at: float, *, answering: bool) -> bool:
        """Look again: when the loop last turned, and whether PostgreSQL answers heartbeats now."""
        now = self._clock()
        # A frozen process must not count its sleep as the loop's.
        passed, self._looked_at = min(now - self._looked_at, 1.0), now
        if turned_at != self._turned_at:
            self._turned_at, self.stuck = turned_at, 0.0
        elif answering:
            self.stuck += passed
        return self.stuck >= HANGS_SECONDS
