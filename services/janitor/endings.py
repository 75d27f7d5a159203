"""How the janitor ends tasks that nobody runs: one way, whatever the cause."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.operations.wake import Wake
from libs.common.ports_sweeps import Ending, Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did
from services.janitor.returns import Returns


class Endings:
    """Writes ends, and gives back what the tasks had."""

    def __init__(self, sweeps: Sweeps, returns: Returns, wake: Wake) -> None:
        self._sweeps = sweeps
        self._returns = returns
        self._wake = wake

    async def write(self, sweep: str, endings: Sequence[Ending]) -> int:
        """End those that are still as they were looked at; returns how many that were."""
        if not endings:
            return 0
        await failpoint("janitor/before-end-waiting")
        ended = await self._sweeps.end_waiting(endings)
        await self._returns.give(slots=[(task.lane, task.member) for task in ended if task.owned_slot])
        self._wake.ended(ended)
        return did(sweep, len(ended), tasks=[task.member for task in ended[:10]])
