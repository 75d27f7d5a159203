"""Whether Redis answers us: it gives the permits, and nothing starts without one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from libs.common.domain.errors import GateUnavailable

#: So long without an answer, and others should read in our place, if it answers them.
AWAY_SECONDS: Final = 3.0


class Doorman:
    """Asks, as calls and permits may not come by for long. Silence counts from the first question without an answer: a
    process that was frozen must not count its sleep as Redis's.
    """

    def __init__(self, ping: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.monotonic) -> None:
        self.away = False
        self._ping = ping
        self._clock = clock
        self._unanswered_since: float | None = None

    async def look(self) -> None:
        """Ask once, which takes a second at most."""
        began = self._clock()
        try:
            await self._ping()
        except GateUnavailable:
            if self._unanswered_since is None:
                self._unanswered_since = began
            self.away = began - self._unanswered_since >= AWAY_SECONDS
        else:
            self._unanswered_since, self.away = None, False
