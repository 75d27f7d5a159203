"""The permit of a job that changed hands: it stays taken at every moment, and has the token of who runs it now."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

from libs.common.domain.errors import GateUnavailable
from libs.common.operations.by_lane import kept_by_lane
from libs.common.ports import Permits
from libs.common.runtime.coalescer import Coalescer
from services.executor.admission.desk import PERMIT_GRACE_SECONDS
from services.executor.jobs.job import Job
from services.executor.jobs.ledger import JobLedger

_RETRY_SECONDS: Final = 1.0


class JobPermits:
    """Renames permits in Redis first, then in PostgreSQL: what dies in between leaves a place that reconcile frees."""

    def __init__(self, permits: Permits, ledger: JobLedger) -> None:
        self._ledger = ledger
        self._renames: Coalescer[tuple[int, str, str, int], bool] = Coalescer(self._rename)
        self._permits = permits

    async def take_over(self, job: Job, former: UUID) -> None:
        """Until it is done, or cancelled: the job goes on meanwhile."""
        attempt = job.run.attempt
        seconds = max(job.left, 0.0) + job.run.model.timeout_seconds + PERMIT_GRACE_SECONDS
        while True:
            try:
                if await self._renames.submit((attempt.lane, str(former), str(attempt.token), int(seconds * 1_000))):
                    break
            except GateUnavailable:
                pass
            await asyncio.sleep(_RETRY_SECONDS)
        await self._ledger.own_permit(attempt)

    async def _rename(self, renames: list[tuple[int, str, str, int]]) -> list[bool]:
        """False for those whose lane cannot be answered for."""
        kept = await kept_by_lane(self._permits.rename_many, renames)
        return [rename not in kept for rename in renames]
