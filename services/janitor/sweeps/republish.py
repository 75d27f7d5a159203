"""Republish: rows that a dispatcher or the log has lost go out again, under a new lease.

A second copy of a message that got through after all is harmless: it carries a lease number that no longer stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from libs.common.operations.wake import Wake
from libs.common.ports_sweeps import Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.beats import BeatWatch
from services.janitor.report import did

#: Longer than a send may last (4.5 s) and a dispatcher may stand still before others notice.
LEASE_SECONDS: Final = 15.0
#: Longer than a takeover of partitions (6 s and a look) and what a healer needs.
LOST_SECONDS: Final = 30.0
_PAGE: Final = 1_000
_PAGES: Final = 20


class Republish:
    """Heals what stuck between lease and claim."""

    def __init__(
        self, sweeps: Sweeps, wake: Wake, watch: BeatWatch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sweeps = sweeps
        self._wake = wake
        self._watch = watch
        self._clock = clock

    async def heal_leases(self) -> int:
        """Dispatchers that died between taking rows and their acknowledgement; returns how many rows are due again."""
        await failpoint("janitor/before-heal")
        healed = await self._sweeps.heal_leases(LEASE_SECONDS)
        self._wake.moved(healed)
        return did("heal", len(healed))

    async def republish_lost(self) -> int:
        """Messages that nobody picked up although somebody has read all the while; returns how many rows are due."""
        if self._watch.read_for(self._clock()) < LOST_SECONDS:
            return 0
        lost = 0
        for _ in range(_PAGES):
            await failpoint("janitor/before-republish")
            moved = await self._sweeps.republish_lost(LOST_SECONDS, _PAGE)
            self._wake.moved(moved)
            lost += len(moved)
            if len(moved) < _PAGE:
                break
        return did("republish", lost)
