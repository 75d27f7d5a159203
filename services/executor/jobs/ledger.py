"""Writes down how jobs go, together with their neighbours, until PostgreSQL has answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar
from uuid import UUID

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.domain.model_errors import Busy, ModelError
from libs.common.ports_attempts import Attempt
from libs.common.ports_provider_jobs import JobCallback, JobIntent, JobNews, JobRow, ProviderJobs
from libs.common.runtime.coalescer import Coalescer
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.locked_rows import Entry, LockedRows, until_answered
from services.executor.recorder import Verdict
from services.executor.runs import Run

log = get_logger()

Item = TypeVar("Item", bound=Entry)
Answer = TypeVar("Answer")

#: A change of a model holds in every process within this time.
_SPREAD_SECONDS: Final = 1.0


class JobLedger:
    """One coalescer for each kind of record. Whoever has lost the attempt's token is told so by None or False."""

    def __init__(
        self,
        jobs: ProviderJobs,
        locks: LockedRows,
        *,
        changed: Callable[[Iterable[tuple[int, int]]], None],
        is_data_error: Verdict,
    ) -> None:
        self._jobs = jobs
        self._locks = locks
        self._changed = changed
        self._is_data_error = is_data_error
        self._intents = Coalescer[tuple[Attempt, JobIntent], float | Busy | None](
            self._intend, is_data_error=is_data_error, locked=locks.among
        )
        self._resumes = Coalescer[Attempt, JobRow | None](self._resume, locked=locks.among)
        self._owners = Coalescer[Attempt, bool](self._own, locked=locks.among)
        self._news = Coalescer[tuple[Attempt, JobNews], str | None](
            self._tell, is_data_error=is_data_error, locked=locks.among
        )
        self._weights = Coalescer[Attempt, int](self._weigh)
        self._callbacks = Coalescer[tuple[Attempt, int], list[JobCallback]](self._read, size_of=lambda one: one[1])

    async def intend(self, run: Run, intent: JobIntent) -> float | None:
        """Write that a job is about to be submitted; when that was, in Unix seconds. While somebody keeps rows locked
        that it needs, the attempt has no slot, here and below.

        Raises Busy when the model is called by another adapter now: it is begun again by that one.
        """
        await failpoint("executor/before-intent")
        begun = (run.attempt, intent)
        asked = asyncio.ensure_future(self._write(self._intents, run, begun))
        try:
            written = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # What ends the attempt now would not see a job that is written meanwhile.
            await asyncio.gather(asked, return_exceptions=True)
            raise
        if isinstance(written, Busy):
            raise written
        return written

    async def resume(self, run: Run) -> JobRow | None:
        """The job that the attempt goes on with."""
        await failpoint("executor/before-resume")
        return await self._write(self._resumes, run, run.attempt)

    async def own_permit(self, attempt: Attempt) -> bool:
        """Write that the job's permit has this attempt's token now."""
        await failpoint("executor/before-own-permit")
        return await self._locks.until_answered(lambda: self._owners.submit(attempt), attempt)

    async def news(self, run: Run, news: JobNews) -> bool:
        """Write what the provider says. Raises ModelError when it names a job that another task has."""
        return await self.replaced(run, news) is not None

    async def replaced(self, run: Run, news: JobNews) -> str | None:
        """The same; the id of another job that was on record in place of this one, empty where there was none."""
        await failpoint("executor/before-job-news")
        attempt = run.attempt
        try:
            former = await self._write(self._news, run, (attempt, news))
        except Exception as error:
            if not self._is_data_error(error):
                raise
            log.error("job.id_taken", task_id=str(attempt.public_id), provider_id=news.provider_id)
            message = "the provider answered with the id of another task's job"
            raise ModelError("provider_id_taken", message, retryable=False) from None
        if former is not None:
            self._changed([(attempt.tenant_id, attempt.id)])
        return former

    async def named_late(self, key: UUID, provider_id: str) -> bool:
        """Write the provider's id of a job whose attempt is not ours any more, as soon as PostgreSQL takes it.

        False when it is another job than the one on record.
        """
        await failpoint("executor/before-late-name")
        try:
            return await until_answered(lambda: self._jobs.named_late(key, provider_id))
        except Exception as error:
            log.error("job.orphaned", intent=str(key), provider_id=provider_id, error=type(error).__name__)
            return True

    async def weight_of_callbacks(self, attempt: Attempt) -> int:
        """How many bytes the provider has called back with."""
        return await until_answered(lambda: self._weights.submit(attempt))

    async def callbacks(self, attempt: Attempt, size: int) -> list[JobCallback]:
        """What the provider called back with, about so many bytes, oldest first."""
        return await until_answered(lambda: self._callbacks.submit((attempt, size)))

    async def drop(self, callbacks: Sequence[JobCallback]) -> None:
        """These were read; if PostgreSQL does not hear of it, they are read again."""
        await failpoint("executor/before-drop-callbacks")
        try:
            await self._jobs.drop_callbacks([callback.id for callback in callbacks])
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("callbacks.kept", count=len(callbacks), error=type(error).__name__)

    async def close(self, timeout: float) -> None:
        """Write what was submitted; what PostgreSQL does not take in time (seconds) is left to the rescue."""
        everything = (self._intents, self._resumes, self._owners, self._news, self._weights, self._callbacks)
        await asyncio.gather(*(coalescer.close(timeout) for coalescer in everything))

    async def _write(self, line: Coalescer[Item, Answer], run: Run, item: Item) -> Answer:
        return await self._locks.until_answered(lambda: line.submit(item), item, stuck=run.slot.give_back)

    async def _intend(self, rows: list[tuple[Attempt, JobIntent]]) -> list[float | Busy | None]:
        mine = await self._jobs.intend_many(rows)
        return [_answer_to(attempt, mine) for attempt, _ in rows]

    async def _resume(self, attempts: list[Attempt]) -> list[JobRow | None]:
        found = await self._jobs.resume_many(attempts)
        return [found.get(attempt.id) for attempt in attempts]

    async def _own(self, attempts: list[Attempt]) -> list[bool]:
        owned = await self._jobs.own_permits(attempts)
        return [attempt.id in owned for attempt in attempts]

    async def _tell(self, rows: list[tuple[Attempt, JobNews]]) -> list[str | None]:
        written = await self._jobs.news_many(rows)
        return [written.get(attempt.id) for attempt, _ in rows]

    async def _weigh(self, attempts: list[Attempt]) -> list[int]:
        found = await self._jobs.weigh_callbacks(attempts)
        return [found.get(attempt.id, 0) for attempt in attempts]

    async def _read(self, wanted: list[tuple[Attempt, int]]) -> list[list[JobCallback]]:
        found = await self._jobs.callbacks([attempt for attempt, _ in wanted])
        return [found.get(attempt.id, []) for attempt, _ in wanted]


def _answer_to(attempt: Attempt, mine: Mapping[int, float | None]) -> float | Busy | None:
    if attempt.id in mine and mine[attempt.id] is None:
        return Busy("its model is called by another adapter now", retry_after=_SPREAD_SECONDS)
    return mine.get(attempt.id)
