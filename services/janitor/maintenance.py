"""The janitor: its sweeps, each at its own pace, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from libs.common.runtime.periodic import Periodic


class Maintenance:
    """Runs the sweeps side by side: none waits for another one, and none ends another one by failing."""

    def __init__(self, sweeps: Sequence[Periodic], leave: Callable[[], Awaitable[None]]) -> None:
        self._sweeps = sweeps
        self._leave = leave

    async def run(self) -> None:
        """Sweep until stopped; sweeps under way are finished first."""
        async with asyncio.TaskGroup() as group:
            for sweep in self._sweeps:
                group.create_task(sweep.run(), name=f"sweep-{sweep.name}")
        await self._leave()

    def stop(self) -> None:
        """Begin no further sweep."""
        for sweep in self._sweeps:
            sweep.stop()
