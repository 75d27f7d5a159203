"""Jobs whose tasks ended before they did: their providers are told that nobody wants them any more.

The statement that ends such a task leaves a mark; whoever sees it first, mostly the executor that ended the task,
calls the provider's cancel. So a job is ended at its provider even if its executor dies, or the task was canceled while
nobody ran it. The job's permit goes back with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.domain.model_errors import ModelError
from libs.common.operations.model_cache import ModelCache
from libs.common.ports_provider_jobs import ProviderJobs, UnwantedJob
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.jobs.calls import JobCalls, in_time

log = get_logger()

LOOK_SECONDS: Final = 2.0
_PAGE: Final = 50
#: Until another executor may try; and how often anybody does.
_AGAIN_SECONDS: Final = 60.0
_TRIES: Final = 5


class Unwanted:
    """Tells providers."""

    def __init__(
        self, jobs: ProviderJobs, models: ModelCache, calls: JobCalls, drop_permit: Callable[[int, UUID], None]
    ) -> None:
        self._jobs = jobs
        self._models = models
        self._calls = calls
        self._drop_permit = drop_permit
        self._wake = asyncio.Event()

    def soon(self) -> None:
        """There is one now."""
        self._wake.set()

    async def run(self) -> None:
        """Look and tell until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                while await self.look() == _PAGE:
                    pass
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("jobs.not_looked", error=type(error).__name__)

    async def look(self) -> int:
        """One page; returns how many jobs it had."""
        page = await self._jobs.unwanted(_PAGE, _AGAIN_SECONDS)
        if not page:
            return 0
        for job in page:
            self._drop_permit(job.lane, job.permit)
        await failpoint("executor/before-provider-cancel")
        told = await asyncio.gather(*(self._tell(job) for job in page))
        await failpoint("executor/after-provider-cancel")
        done = [job.key for job, over in zip(page, told, strict=True) if over or job.tries >= _TRIES]
        if done:
            await self._jobs.told(done)
        return len(page)

    async def _tell(self, job: UnwantedJob) -> bool:
        """Whether the provider knows, or never can."""
        try:
            model = await self._models.by_id(job.model_id)
            if model is None:
                return True
            adapter = self._calls.adapter(job.adapter)
            call = self._calls.ask(model, job.key, job.intended_at, since_submit=job.ended_for)
            provider_id = job.provider_id or (str(job.key) if adapter.keyed(call.config) else "")
            if not provider_id:
                found = await in_time(call, adapter.find, passes=LookupError)
                provider_id = found.provider_id if found is not None and not found.status.over else ""
            if provider_id:
                await in_time(call, lambda call: adapter.cancel(call, provider_id))
                log.info("job.canceled", intent=str(job.key), provider_id=provider_id)
        except LookupError:
            return True
        except ModelError as error:
            log.warning("job.not_canceled", intent=str(job.key), provider_id=job.provider_id, code=error.code)
            return not error.retryable
        return True
