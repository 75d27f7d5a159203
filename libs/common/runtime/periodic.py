"""A piece of work that is done again and again, whatever happens to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

from libs.common.runtime.backoff import set_within
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter

log = get_logger()


class Periodic:
    """Runs `action` at once and then every `interval`, plus up to `jitter` (a share of it), until stopped.

    An error is logged in one line and counted; it never ends the loop.
    """

    def __init__(
        self,
        name: str,
        interval: timedelta,
        action: Callable[[], Awaitable[object]],
        *,
        jitter: float = 0.1,
    ) -> None:
        self.name = name
        self.failures = 0  #: in a row
        self._interval = interval.total_seconds()
        self._action = action
        self._jitter = jitter
        self._wake = asyncio.Event()
        self._stopping = False
        runs = counter("sluiceway_periodic_runs_total")
        self._done, self._failed = runs.labels(name=name, result="ok"), runs.labels(name=name, result="error")

    async def run(self) -> None:
        """Work until `stop`; an action under way is finished first. Ends at once when cancelled."""
        while not self._stopping:
            self._wake.clear()
            await self._once()
            if not self._stopping:
                await self._rest()

    def trigger(self) -> None:
        """Do it now, or once more directly after the run under way."""
        self._wake.set()

    def stop(self) -> None:
        """Begin no further run."""
        self._stopping = True
        self._wake.set()

    async def _once(self) -> None:
        try:
            await self._action()
        except Exception as error:
            self.failures += 1
            self._failed.inc()
            log.error(
                "periodic.failed",
                name=self.name,
                failures=self.failures,
                error=type(error).__name__,
                message=str(error)[:500],
            )
        else:
            self.failures = 0
            self._done.inc()

    async def _rest(self) -> None:
        # Several processes run the same sweep: jitter keeps them from marching in step.
        jitter = self._jitter * random.random()  # noqa: S311  no secret depends on it
        await set_within(self._wake, self._interval * (1 + jitter))
