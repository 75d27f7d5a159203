"""How often it is worth while to look: at once while little happens, in batches while much does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: From the first to the second as the rate grows: a batch must be worth its commit.
_SHORTEST: Final = 0.002
_LONGEST: Final = 0.015
#: 3,000 rows a second, where the longest is reached.
_SECONDS_PER_RATE: Final = _LONGEST / 3_000
_SHARE_OF_NEW: Final = 0.3


class Pace:
    """Turns begin at least 2 ms apart, 15 ms from 3,000 rows a second on, and not apart at all while they come full."""

    def __init__(self, full: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._full = full
        self._clock = clock
        self._began = clock()
        self._rate = 0.0
        self._rows = 0

    def begin(self) -> None:
        """A turn begins."""
        now = self._clock()
        self._rate += _SHARE_OF_NEW * (self._rows / max(now - self._began, 1e-3) - self._rate)
        self._began = now

    def end(self, rows: int) -> None:
        """It brought so many rows."""
        self._rows = rows

    def pause(self) -> float:
        """Seconds until the next turn may begin; not above zero when it may now."""
        if 2 * self._rows >= self._full:
            return 0.0
        spacing = min(max(_SHORTEST, self._rate * _SECONDS_PER_RATE), _LONGEST)
        return self._began + spacing - self._clock()
