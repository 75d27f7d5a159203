"""How often it is worth while to look: at once while little happens, in batches while much does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_SHORTEST: Final = 0.002
_LONGEST: Final = 0.02
#: A turn for a single row costs about a millisecond of CPU, in two processes, and 40 us for each further row. So turns
#: may fill a third of the time, and on a busy machine, where each lasts longer, they come as much more seldom.
_TIMES_ITS_LENGTH: Final = 3.0
#: 15 ms apart at 1,500 rows a second.
_SECONDS_PER_RATE: Final = 0.015 / 1_500
_SHARE_OF_NEW: Final = 0.3
#: Looking everywhere again costs at most 2 % of the time, as long as it takes less than a third of a second.
_LOOK_SECONDS: Final = 1.0
_LOOK_SHARE: Final = 50
LONGEST_REST: Final = 15.0


def rest_after(cost: float) -> float:
    """Seconds until it is worth while to look everywhere again, after a look that took `cost` seconds.

    Not more than 15: a single slow answer, say behind a lock, must not put off for minutes what no hint told.
    """
    return min(max(_LOOK_SECONDS, _LOOK_SHARE * cost), LONGEST_REST)


class Pace:
    """Turns begin at least 2 ms apart, up to 20 ms the longer they last and the more rows pass, and follow each other
    at once while they come full."""

    def __init__(self, full: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._full = full
        self._clock = clock
        self._began = clock()
        self._rate = 0.0
        self._length = 0.0
        self._rows = 0

    def begin(self) -> None:
        """A turn begins."""
        now = self._clock()
        self._rate += _SHARE_OF_NEW * (self._rows / max(now - self._began, 1e-3) - self._rate)
        self._began = now

    def end(self, rows: int) -> None:
        """It is over, and brought so many rows."""
        self._length += _SHARE_OF_NEW * (self._clock() - self._began - self._length)
        self._rows = rows

    def pause(self) -> float:
        """Seconds until the next turn may begin; not above zero when it may now."""
        if 2 * self._rows >= self._full:
            return 0.0
        wanted = max(_SHORTEST, _TIMES_ITS_LENGTH * self._length, _SECONDS_PER_RATE * self._rate)
        return self._began + min(wanted, _LONGEST) - self._clock()
