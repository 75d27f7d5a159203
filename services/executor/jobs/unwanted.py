"""Jobs whose tasks ended before they did: their providers are told that nobody wants them any more.

The statement that ends such a task leaves a mark; whoever sees it first, mostly the executor that ended the task,
calls the provider's cancel. So a job is ended at its provider even if its executor dies, or the task was canceled while
nobody ran it. Marks are taken by executors that know the job's adapter.

    mark --> permit given back, at once
      `----> taken for a minute --> told, or nobody to tell: the mark goes
                                    no answer, or refused:   tried again when the minute is over, five times
                                    too early to look:       tried again when it is not, however often
                                    we stop meanwhile:       due at once, for others

Each is told in a task of its own, a few of a model at a time. So a provider that hangs holds up its own jobs alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import UUID

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.domain.model_errors import ModelError, TooEarly
from libs.common.operations.model_cache import ModelCache
from libs.common.ports_jobs import JobAdapter, JobCall
from libs.common.ports_provider_jobs import ProviderJobs, TellLater, UnwantedJob, UnwantedLook
from libs.common.runtime.backoff import set_within
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.shares import on_behalf_of
from services.executor.jobs.calls import JobCalls, in_time

log = get_logger()

LOOK_SECONDS: Final = 2.0
#: Providers that are told at the same time by one executor, and of them those of one model's jobs.
_AT_ONCE: Final = 512
_OF_A_LANE: Final = 8
#: Permits that are given back with one statement.
_PERMITS: Final = 500
#: For each of the two questions that telling may take. Together they stay below the time for which a mark is taken.
_ANSWER_SECONDS: Final = 10.0
#: Until another executor may try; and how often anybody does.
_AGAIN_SECONDS: Final = 60.0
_TRIES: Final = 5
#: An answer "too early" that names no time to come back at.
_EARLIEST_SECONDS: Final = 1.0
#: How long a stopping process waits for answers: PostgreSQL and most providers have given theirs by then.
_PARTING_SECONDS: Final = 1.0
#: How long it then tries to write down what became of them: a locked table must not hold up the end of a process.
_LAST_WRITE_SECONDS: Final = 0.5


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
        self._at_work: dict[asyncio.Task[None], UnwantedJob] = {}
        self._told: list[UnwantedJob] = []
        self._later: list[TellLater] = []

    def soon(self) -> None:
        """There is one now."""
        self._wake.set()

    async def run(self) -> None:
        """Look and tell until cancelled; what is being told then is handed back to others."""
        looking: asyncio.Task[None] | None = None
        try:
            while True:
                await set_within(self._wake, LOOK_SECONDS)
                self._wake.clear()
                looking = asyncio.get_running_loop().create_task(self._looked(), name="unwanted-look")
                await asyncio.shield(looking)
        finally:
            await self._part(looking)

    async def _looked(self) -> None:
        try:
            await self.look()
        except Exception as error:  # the loop's end would be the process's
            log.warning("jobs.not_looked", error=type(error).__name__, message=str(error)[:200])

    async def _part(self, looking: asyncio.Task[None] | None) -> None:
        """Hear out who answers at once, and have others tell the rest: not when its minute is over."""
        until = time.monotonic() + _PARTING_SECONDS
        if looking is not None:
            await asyncio.wait((looking,), timeout=_PARTING_SECONDS)  # who knows what PostgreSQL is just giving us
            looking.cancel()
        at_work = dict(self._at_work)
        if at_work:
            await asyncio.wait(at_work, timeout=max(0.0, until - time.monotonic()))
            for telling in at_work:
                telling.cancel()
            await asyncio.wait(at_work)
        self._later += [TellLater(job.key, 0.0, tried=False) for telling, job in at_work.items() if telling.cancelled()]
        with suppress(Unavailable, OutcomeUnknown, TimeoutError):  # then their minute it is
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                await self._write()

    async def look(self) -> None:
        """Write down who has been told, give back permits, and have more told as there is room."""
        await self._write()
        await failpoint("executor/before-unwanted")
        while permits := await self._jobs.unwanted_permits(_PERMITS):
            for lane, permit in permits:
                self._drop_permit(lane, permit)
        room = _AT_ONCE - len(self._at_work)
        if room > 0:
            await self._begin(room)

    async def _begin(self, room: int) -> None:
        at_work = Counter(job.lane for job in self._at_work.values())
        look = UnwantedLook(room, _OF_A_LANE, _AGAIN_SECONDS, self._calls.names(), at_work)
        await failpoint("executor/before-unwanted")
        page = await self._jobs.unwanted(look)
        if page:
            await failpoint("executor/before-provider-cancel")
        for job in page:
            telling = asyncio.get_running_loop().create_task(self._settle(job), name="provider-told")
            self._at_work[telling] = job
            telling.add_done_callback(self._ended)

    def _ended(self, telling: asyncio.Task[None]) -> None:
        del self._at_work[telling]
        self._wake.set()

    async def _write(self) -> None:
        """What PostgreSQL does not take now is written with what comes next; until then nobody else tries."""
        if self._told:
            await failpoint("executor/after-provider-cancel")
            told = self._told[:]
            await self._jobs.told(told)
            del self._told[: len(told)]
        if self._later:
            await failpoint("executor/after-provider-cancel")
            later = self._later[:]
            await self._jobs.tell_later(later)
            del self._later[: len(later)]

    async def _settle(self, job: UnwantedJob) -> None:
        """Tell, and note what is to be written of it. A mark of which nothing is noted is due again in its minute."""
        try:
            await self._tell(job)
        except TooEarly as error:
            seconds = max(error.retry_after or 0.0, _EARLIEST_SECONDS)
            self._later.append(TellLater(job.key, seconds, tried=False))
            return
        except ModelError as error:
            log.warning("job.not_canceled", intent=str(job.key), provider_id=job.provider_id, code=error.code)
            if error.retryable and job.tries < _TRIES:
                if (error.retry_after or 0.0) > _AGAIN_SECONDS:
                    self._later.append(TellLater(job.key, error.retry_after or 0.0, tried=True))
                return
        except (Unavailable, OutcomeUnknown):
            return
        except Exception as error:  # of an adapter's package
            log.error("job.not_canceled", intent=str(job.key), error=type(error).__name__, exc_info=True)
            if job.tries < _TRIES:
                return
        self._told.append(job)

    async def _tell(self, job: UnwantedJob) -> None:
        """Returns when the provider knows, or never can. Raises ModelError."""
        model = await self._models.by_id(job.model_id)
        if model is None:
            return
        on_behalf_of.set(model.tenant_id)
        adapter, share = self._calls.adapter(job.adapter), self._calls.aside(model)
        call = self._calls.ask(
            model, job.key, job.intended_at, share, since_submit=job.ended_for, seconds=_ANSWER_SECONDS
        )
        try:
            provider_id = job.provider_id or await _found(job, adapter, call)
            share.release()
            if provider_id:
                await in_time(call, lambda call: adapter.cancel(call, provider_id))
                log.info("job.canceled", intent=str(job.key), provider_id=provider_id)
        finally:
            share.release()


async def _found(job: UnwantedJob, adapter: JobAdapter, call: JobCall) -> str:
    """The id of a job whose submit's answer was lost; empty where there is nothing to end, or nobody can tell."""
    if adapter.keyed(call.config):
        return str(job.key)
    try:
        found = await in_time(call, adapter.find, passes=LookupError)
    except LookupError:  # it may run on there, and the task does not say so where it was canceled
        log.warning("job.not_canceled", intent=str(job.key), provider_id="", code="submit_unknown")
        return ""
    return found.provider_id if found is not None and not found.status.over else ""
