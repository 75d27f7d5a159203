"""Answers to submits that come when their attempts are over, or others': there is a job, and somebody has to know."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final

from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobReport
from libs.common.runtime.logging import get_logger
from libs.common.runtime.seen import seen
from services.executor.jobs.calls import JobCalls, in_time
from services.executor.jobs.job import Job
from services.executor.jobs.ledger import JobLedger

log = get_logger()

#: Between the tries to end a job that has no row of its own.
_STRAY_PAUSES: Final = (5.0, 30.0, 60.0)


class LateAnswers:
    """Waits for them beside the attempts. When the process ends, those still awaited are lost as if it was killed."""

    def __init__(self, calls: JobCalls, ledger: JobLedger) -> None:
        self._calls = calls
        self._ledger = ledger
        self._kept: set[asyncio.Task[None]] = set()

    def wait_for(self, job: Job, pending: asyncio.Future[JobReport]) -> None:
        """Nobody else waits for the answer to this submit any more."""
        self.keep(self._answered(job, pending), "late-answer")

    async def named(self, job: Job, provider_id: str) -> None:
        """Write down the provider's id of a job whose attempt is not ours to write about.

        Where the attempt has another job by now, made by an executor that went on with it, this one is ended: two
        requests for one attempt were under way, because one of the executors had been frozen for long.
        """
        if not await self._ledger.named_late(job.key, provider_id):
            self.end(job, provider_id)

    def end(self, job: Job, provider_id: str) -> None:
        """Have a job cancelled that is on no record, or no longer on one."""
        self.keep(self._end(job, provider_id), "stray-job")

    def keep(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Have this done, whether or not somebody still waits for it."""
        kept = asyncio.get_running_loop().create_task(work, name=name)
        self._kept.add(kept)
        kept.add_done_callback(self._kept.discard)
        kept.add_done_callback(seen)
        return kept

    async def _answered(self, job: Job, pending: asyncio.Future[JobReport]) -> None:
        try:
            news = job.heard(await pending)
        except ModelError as error:
            log.info("job.never_named", intent=str(job.key), code=error.code)
            return
        finally:
            job.share.release()
        if news is not None and news.provider_id:
            await self.named(job, news.provider_id)

    async def _end(self, job: Job, provider_id: str) -> None:
        for pause in _STRAY_PAUSES:
            try:
                await self._cancel(job, provider_id)
            except ModelError as error:
                log.warning("job.stray", intent=str(job.key), provider_id=provider_id, code=error.code)
                await asyncio.sleep(pause)
            else:
                log.warning("job.stray_canceled", intent=str(job.key), provider_id=provider_id)
                return
        log.error("job.orphaned", intent=str(job.key), provider_id=provider_id, error="not canceled")

    async def _cancel(self, job: Job, provider_id: str) -> None:
        share = self._calls.aside(job.run.model)
        try:
            call = self._calls.ask(job.run.model, job.key, job.intended_at, share)
            await in_time(call, lambda call: job.adapter.cancel(call, provider_id))
        finally:
            share.release()
