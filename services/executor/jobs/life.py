"""The life of a provider's job, from the attempt that wants it to the output in staging.

    submitted (submission.py) --> followed: asked every few seconds, or called back --> over --> collected
        |                            ` past its deadline: the task ends as timeout
        ` or taken over, with its permit, from whoever began it

While the provider works the attempt has no slot, only its lane's permit. What the provider says is written when it
changes, never when it is asked. An attempt that ends before its job is over leaves the job to unwanted.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final, Protocol

from libs.common.domain.model_errors import Busy, JobGone, ModelError, NoSocket, NotHere, StagingFull
from libs.common.domain.output import StagedFile
from libs.common.domain.task import Phase
from libs.common.ports_jobs import JobOutput, JobReport, JobStatus
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.execution import NotOurs
from services.executor.jobs.callbacks import Callbacks
from services.executor.jobs.calls import JobCalls, in_time
from services.executor.jobs.job import Job
from services.executor.jobs.late import LateAnswers
from services.executor.jobs.ledger import JobLedger
from services.executor.jobs.memory import AnswerShare
from services.executor.jobs.permits import JobPermits
from services.executor.jobs.submission import Submission
from services.executor.jobs.waits import Waits
from services.executor.runs import Run, Stop

log = get_logger()

#: More failures in a row than these fail the task.
POLL_FAILURES: Final = 5
#: Polls of many jobs must not come together.
_JITTER: Final = 0.15
#: Who takes a job over asks soon: nobody has asked since its executor fell silent.
_FIRST_LOOK_SECONDS: Final = 0.5
#: Behind the hints about callbacks: how many polls' pauses until they are looked for anyway.
_LOOKS_FOR_CALLBACKS: Final = 4
#: How long an attempt that has to end waits until its job's id is written.
_NAMED_SECONDS: Final = 3.0
#: How long outputs that cannot be had again wait for room in staging before the next look.
_ROOM_SECONDS: Final = 1.0
_OVER: Final = frozenset(status.value for status in JobStatus if status.over)


class Collector(Protocol):
    """The way of a provider's outputs into staging."""

    async def collect(self, run: Run, outputs: Sequence[JobOutput]) -> tuple[StagedFile, ...]:
        """Stage what a job that succeeded has put out. Raises ModelError or StagingFull, and stages nothing then."""


class JobLife:
    """Has jobs done."""

    def __init__(
        self,
        calls: JobCalls,
        submission: Submission,
        callbacks: Callbacks,
        late: LateAnswers,
        ledger: JobLedger,
        permits: JobPermits,
        waits: Waits,
        collector: Collector,
    ) -> None:
        self._calls = calls
        self._submission = submission
        self._callbacks = callbacks
        self._late = late
        self._ledger = ledger
        self._permits = permits
        self._waits = waits
        self._collector = collector
        self._rng = random.Random()  # noqa: S311  spreads polls

    def owns(self, run: Run) -> bool:
        """Whether this attempt's call is a job, or was begun as one."""
        return run.phase is Phase.SUBMITTED or self._calls.runs(run.model.adapter)

    async def output(self, run: Run) -> tuple[StagedFile, ...]:
        """Have the job done, and stage what it has put out. Raises ModelError, StagingFull and NotOurs."""
        moving: asyncio.Task[None] | None = None
        share = self._calls.share(run)
        try:
            if run.phase is Phase.SUBMITTED:
                job, moving = await self._taken_over(run, share)
                report = await self._known(job)
            else:
                job, report = await self._submission.make(run, share)
            report = await self._until_over(job, report)
            await run.slot.take_again()
            return await self._collected(job, report)
        finally:
            share.release()
            self._waits.forget(run.attempt.id)
            if moving is not None:
                moving.cancel()

    # taken over from somebody else

    async def _taken_over(self, run: Run, share: AnswerShare) -> tuple[Job, asyncio.Task[None]]:
        run.has_permit = True
        row = await self._ledger.resume(run)
        if row is None:
            raise NotOurs
        await run.slot.take_again()
        if not self._calls.runs(row.adapter) and row.seconds_left <= 0:
            message = f"nobody who has its adapter {row.adapter!r} asked about the job in its time"
            raise ModelError("job_timeout", message, retryable=False)
        adapter = self._calls.adapter(row.adapter)
        deadline = asyncio.get_running_loop().time() + row.seconds_left
        polls = adapter.polls(self._calls.config(run.model))
        job = Job(
            run, adapter, polls, row.key, row.intended_at, deadline, share,
            row.provider_id, row.status, row.unit_progress, row.message,
        )  # fmt: skip
        log.info("job.taken_over", task_id=str(run.attempt.public_id), provider_id=row.provider_id or None)
        moving = asyncio.get_running_loop().create_task(self._permits.take_over(job, row.permit), name="permit-moves")
        return job, moving

    async def _known(self, job: Job) -> JobReport | None:
        """What is known of a job that was taken over; None: it is to be asked about."""
        if not job.polls and job.status in _OVER:
            return await self._over_before(job)
        if not job.provider_id:
            return await self._submission.find(job)
        job.run.forget_payload()
        await self._waits.rest(job.run, self._rng.uniform(0.0, _FIRST_LOOK_SECONDS))
        return None

    async def _over_before(self, job: Job) -> JobReport:
        """How a job ended that cannot be asked about, and whose end its former executor heard.

        Nobody says it again, except for a callback that was kept: what came in the answer to the submit went with
        whoever got it. Raises ModelError `output_lost`.
        """
        said = await self._callbacks.said(job)
        if said is not None and said.status.over:
            return said
        if job.status == JobStatus.SUCCEEDED.value:
            message = "the job succeeded, but its output is lost, and its provider cannot be asked for it again"
            raise ModelError("output_lost", message, retryable=False)
        return JobReport(JobStatus(job.status), job.provider_id, message=job.message)

    # followed

    async def _until_over(self, job: Job, report: JobReport | None) -> JobReport:
        """Ask until the job is over, or its time. Raises ModelError and NotOurs."""
        failures, pause = 0, 0.0
        while True:
            late = job.left <= 0
            if report is None:
                try:
                    report = await self._ask(job)
                    failures = 0
                except Busy as error:
                    pause = error.retry_after or 0.0
                except JobGone:
                    await self._write_end(job, "gone")
                    raise
                except NotHere:
                    if not late:
                        raise
                except ModelError as error:
                    # What stood unread too long here, or was never asked from here, is no failure of the provider.
                    failures += not (job.share.waited or isinstance(error, NoSocket))
                    pause = error.retry_after or 0.0
                    log.info("job.not_asked", task_id=str(job.run.attempt.public_id), code=error.code, times=failures)
                    if failures > POLL_FAILURES:
                        raise _lost_sight(error) from None
            if report is not None:
                await self._note(job, report)
                if report.status.over:
                    return report
                pause = report.ask_again_after or 0.0
            if late:
                raise ModelError("job_timeout", "the provider's job was not over in time", retryable=False)
            report = None
            job.share.release()
            await self._waits.rest(job.run, self._pause(job, pause))

    def _pause(self, job: Job, wanted: float) -> float:
        seconds = float(self._calls.now(job.run.model).poll_seconds) * (1 if job.polls else _LOOKS_FOR_CALLBACKS)
        spread = seconds * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        return min(max(spread, wanted), max(job.left, 0.0))

    async def _ask(self, job: Job) -> JobReport | None:
        job.share.waited = False
        call = self._calls.ask(job.run.model, job.key, job.intended_at, job.share)
        if not job.polls:
            return await self._callbacks.said(job)
        async with self._waits.turn(job.run.model.id):
            return await in_time(call, lambda call: job.adapter.get(call, job.provider_id))

    async def _note(self, job: Job, report: JobReport) -> None:
        """Write down what is new; an end is written by what the task ends with.

        What names the job is written whoever interrupts us: nobody else may ever learn its id. Who ends the attempt
        waits for that a moment, so that it stands there when the provider is to be told; who has lost it does not.
        """
        if job.provider_id or not report.provider_id:
            await self._noted(job, report)
            return
        writing = self._late.keep(self._noted(job, report), "job-named")
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            if job.run.stop not in (None, Stop.LOST):
                await asyncio.wait((writing,), timeout=_NAMED_SECONDS)
            raise

    async def _noted(self, job: Job, report: JobReport) -> None:
        await job.quiet()
        news = job.heard(report)
        if not report.provider_id and not job.provider_id and job.polls and not report.status.over:
            raise ModelError("bad_answer", "the provider accepted the job without naming it", retryable=False)
        if news is None or (report.status.over and job.provider_id):
            return
        first = not job.provider_id
        try:
            former = await self._ledger.replaced(job.run, news)
        except ModelError:  # the id is another task's: that job must not be ended with this task
            await self._write_end(job, "failed")
            raise
        if former is None:
            if first and news.provider_id:
                await self._late.named(job, news.provider_id)
            raise NotOurs
        if former:
            self._late.end(job, former)
        job.wrote(news)
        if first:
            await failpoint("executor/after-provider-id")
            job.run.forget_payload()  # thousands of jobs wait: nobody needs their inputs any more

    # collected

    async def _collected(self, job: Job, report: JobReport) -> tuple[StagedFile, ...]:
        if report.status is not JobStatus.SUCCEEDED:
            await self._write_end(job, report.status.value)
            raise _failure(report)
        await failpoint("executor/before-collect")
        while True:
            try:
                return await self._collector.collect(job.run, report.outputs)
            except ModelError:
                await self._write_end(job, "succeeded")
                raise
            except StagingFull:
                if job.polls or job.left <= 0:
                    raise
            # Nobody says again what this job has brought. Uploads make room, and need slots.
            job.run.slot.give_back()
            await asyncio.sleep(_ROOM_SECONDS)
            await job.run.slot.take_again()

    async def _write_end(self, job: Job, status: str) -> None:
        """The job is over there, and the task does not end with its output: its provider need not be told."""
        await job.quiet()
        if job.status == status:
            return
        if not await self._ledger.news(job.run, job.news(status)):
            raise NotOurs


def _failure(report: JobReport) -> ModelError:
    if report.status is JobStatus.CANCELED:
        message = report.message or "the provider's job was canceled there"
        return ModelError("provider_canceled", message, retryable=report.retryable)
    message = report.message or "the provider's job failed"
    return ModelError(report.error_code or "provider_failed", message, retryable=report.retryable)


def _lost_sight(error: ModelError) -> ModelError:
    message = f"the provider could not be asked about its job {POLL_FAILURES + 1} times in a row: {error.message}"
    return ModelError("poll_failed", message, retryable=False)
