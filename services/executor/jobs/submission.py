"""How a job comes to be at its provider, once: intent, submit, and what is done when the answer is lost.

    intent written --> submit --> answered: provider id written
                         |  refused, or no byte left: no job; the attempt fails, a full provider is tried later
                         `  no answer: is there a job?
                              the adapter dedupes    submit again, with the same key, until the job is named
                              the provider can tell  it is adopted; certainly none: submit
                              it has called back     it is adopted
                              nobody can tell        the task ends as `submit_unknown`, for an operator to decide

Who goes on with an attempt whose provider id was never written stands at the same question. Until it is answered there
counts as being a job: a later submit that is refused was refused, and nothing more; no permit is freed, and no row
withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from libs.common.domain.model_errors import Busy, ModelError
from libs.common.domain.task import Phase
from libs.common.ports_jobs import JobReport
from libs.common.ports_provider_jobs import JobIntent
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.execution import NotOurs, Trust
from services.executor.jobs.callbacks import Callbacks
from services.executor.jobs.calls import JobCalls, in_time
from services.executor.jobs.job import Job, intent_key
from services.executor.jobs.late import LateAnswers
from services.executor.jobs.ledger import JobLedger
from services.executor.jobs.waits import Waits
from services.executor.runs import Run, Stop

log = get_logger()

#: Pauses before a submit of which no byte left is tried again, in the same attempt.
_UNSENT_PAUSES: Final = (0.25, 1.0)
#: How often a provider may fail to say whether there is a job, and how often a job is made again that it does not have,
#: before it is left to an operator.
_TRIES: Final = 6
_SUBMITS: Final = 3
#: A submit that lasts longer is shown as work of the provider: some answer only when they are done.
_SHOWN_SECONDS: Final = 1.0
#: How long a job that cannot be looked for may take to call back.
_CALLBACK_SECONDS: Final = 5.0
#: How long an attempt that has to end waits for the answer to its submit.
_ABORT_SECONDS: Final = 3.0

_Answer = TypeVar("_Answer")


class Submission:
    """Makes jobs, each at most once for an attempt."""

    def __init__(
        self,
        calls: JobCalls,
        ledger: JobLedger,
        callbacks: Callbacks,
        late: LateAnswers,
        waits: Waits,
        trust: Trust,
    ) -> None:
        self._calls = calls
        self._ledger = ledger
        self._callbacks = callbacks
        self._late = late
        self._waits = waits
        self._trust = trust

    async def make(self, run: Run) -> tuple[Job, JobReport]:
        """A new job of an attempt. Raises ModelError (Busy: nothing came of it, try later), NotOurs."""
        model, key = run.model, intent_key(run.attempt)
        adapter, config = self._calls.adapter(model.adapter), self._calls.config(model)
        self._calls.ask(model, key, 0.0)  # whatever cannot be called for is found before anything is written
        intent = JobIntent(key, model.adapter, adapter.polls(config), model.job_timeout_seconds)
        await failpoint("executor/before-intent")
        intended_at = await self._ledger.intend(run.attempt, intent)
        if intended_at is None:
            raise NotOurs
        run.phase = Phase.SUBMITTED
        await failpoint("executor/after-intent")
        deadline = asyncio.get_running_loop().time() + intent.seconds
        if run.deadline is not None:
            deadline = min(deadline, run.deadline)
        job = Job(run, adapter, intent.polls, key, intended_at, deadline)
        return job, await self._submit(job)

    async def find(self, job: Job) -> JobReport:
        """The job that a submit made whose answer was lost, or another one where there certainly is none.

        Raises ModelError `submit_unknown` where nobody can tell.
        """
        job.open, job.asked_at = True, asyncio.get_running_loop().time()  # whoever asked last may have done so just now
        return await self._settled(job)

    async def _submit(self, job: Job) -> JobReport:
        try:
            return await self._submit_once(job)
        except ModelError as error:
            if not job.open:
                raise
            wanted = error.retry_after
        if self._dedupes(job):
            await self._pause(job, wanted)
        return await self._settled(job)

    async def _settled(self, job: Job) -> JobReport:
        """What has become of a submit that left open whether there is a job."""
        if self._dedupes(job):
            return await self._insist(job, self._submit_once)
        for _ in range(_SUBMITS):
            found = await self._insist(job, self._look_for)
            if found is not None:
                return found
            job.open = False
            try:
                return await self._submit_once(job)
            except ModelError:
                if not job.open:
                    raise
        found = await self._insist(job, self._look_for)
        if found is None:
            raise _unknown("its provider cannot be reached")
        return found

    async def _insist(self, job: Job, ask: Callable[[Job], Awaitable[_Answer]]) -> _Answer:
        """What the provider answers in the end. Whatever it refuses says nothing of what an earlier submit made.

        Raises ModelError `submit_unknown`.
        """
        failures = 0
        while True:
            try:
                return await ask(job)
            except LookupError:
                raise _unknown("its provider offers no way to look for it") from None
            except ModelError as error:
                failures += not isinstance(error, Busy)  # who is only busy will answer
                if failures == _TRIES:
                    raise _unknown(error.message) from None
                # Pauses grow, since an outage is outlasted by patience and not by questions.
                longer = float(job.run.model.poll_seconds) * 2 ** (failures - 1)
                await self._pause(job, max(error.retry_after or 0.0, longer))

    async def _look_for(self, job: Job) -> JobReport | None:
        """The job; None: certainly none. Raises ModelError and LookupError."""
        since = asyncio.get_running_loop().time() - job.asked_at
        call = self._calls.ask(job.run.model, job.key, job.intended_at, since_submit=since)
        try:
            return await in_time(call, job.adapter.find, passes=LookupError)
        except LookupError:
            if job.polls or (said := await self._called_back(job)) is None:
                raise
            return said

    async def _called_back(self, job: Job) -> JobReport | None:
        """What a job that cannot be looked for has said of itself, or says when it begins, soon after its submit."""
        said = await self._callbacks.said(job)
        if said is None:
            await self._waits.rest(job.run, min(_CALLBACK_SECONDS, max(job.left, 0.0)))
            said = await self._callbacks.said(job)
        return said

    async def _submit_once(self, job: Job) -> JobReport:
        """One submit, again only while no byte of it left. What fails for certain is written down as failed.

        Nothing is certain while an earlier one may have made a job: then a refusal is no more than an answer.
        """
        for pause in (*_UNSENT_PAUSES, None):
            try:
                return await self._ask(job)
            except ModelError as error:
                job.open = job.open or _leaves_open(error)
                if job.open:
                    raise
                job.run.called = error.sent and not isinstance(error, Busy)
                if isinstance(error, Busy):
                    raise
                if error.sent or not error.retryable or pause is None:
                    if _is_certain(error):
                        await self._write_failed(job)
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last pause is None")

    async def _ask(self, job: Job) -> JobReport:
        run = job.run
        if not self._trust.trusted:
            await self._trust.regain()
        call = self._calls.submit(run.model, run.attempt, job.key, job.intended_at, job.left)
        run.called = True
        shown = asyncio.get_running_loop().call_later(_SHOWN_SECONDS, self._show, job)
        pending = asyncio.ensure_future(in_time(call, job.adapter.submit))
        try:
            report = await asyncio.shield(pending)
        except asyncio.CancelledError:
            if await self._is_answered(job, pending):
                await self._last_words(job, pending)
            raise
        finally:
            shown.cancel()
            job.asked_at = asyncio.get_running_loop().time()
        await failpoint("executor/after-submit")
        return report

    async def _is_answered(self, job: Job, pending: asyncio.Future[JobReport]) -> bool:
        """We are interrupted in the middle of a submit. What comes of it has to be known, whoever ends the attempt.

        A stopping process waits as long as it may. Everybody else waits a moment, since an end that was asked for must
        come soon: then a call that is the job itself is hung up, and any other left to say later what it made.
        """
        run, loop = job.run, asyncio.get_running_loop()
        patience = loop.time() + _ABORT_SECONDS
        while not pending.done():
            left = None if run.stop is Stop.DRAINED else patience - loop.time()
            if left is not None and left <= 0:
                break
            try:
                await asyncio.wait((pending,), timeout=left)
            except asyncio.CancelledError:
                if run.stop is None:  # the process ends at once: the rescue finds the intent
                    pending.cancel()
                    raise
        if pending.done():
            return True
        if job.polls:
            self._late.wait_for(job, pending)
        else:
            pending.cancel()
        return False

    async def _last_words(self, job: Job, pending: asyncio.Future[JobReport]) -> None:
        """Write down what a submit was answered after we were interrupted. Raises the ModelError of a refusal that
        came before a stopping process had to hand the attempt back: then the attempt has failed, and is not handed on.
        """
        run, error = job.run, pending.exception()
        if isinstance(error, ModelError):
            if job.open or not _is_certain(error):
                return
            if error.sent and run.stop is Stop.DRAINED:
                raise error
            run.called = error.sent and not isinstance(error, Busy)
            if run.stop in (Stop.CANCELED, Stop.EXPIRED):
                await self._write_failed(job)
            return
        await job.quiet()
        news = job.heard(pending.result())
        lost = run.stop is Stop.LOST
        try:
            if news is None or (not lost and await self._ledger.news(run.attempt, news)):
                return
        except ModelError:
            return
        if news.provider_id:
            await self._late.named(job, news.provider_id)

    def _show(self, job: Job) -> None:
        job.side = asyncio.get_running_loop().create_task(self._shown(job), name="submit-shown")

    async def _shown(self, job: Job) -> None:
        news = replace(job.news("processing"), begun=True)
        try:
            if await self._ledger.news(job.run.attempt, news):
                job.wrote(news)
        except Exception as error:
            log.warning("job.not_shown", task_id=str(job.run.attempt.public_id), error=type(error).__name__)

    async def _write_failed(self, job: Job) -> None:
        """There is no job: its provider need not be told that nobody wants it."""
        await job.quiet()
        await self._ledger.news(job.run.attempt, job.news("failed"))

    def _dedupes(self, job: Job) -> bool:
        return job.adapter.dedupes(self._calls.config(job.run.model))

    async def _pause(self, job: Job, wanted: float | None = None) -> None:
        if job.left <= 0:
            raise _unknown("its time is over")
        await self._waits.rest(job.run, min(max(float(job.run.model.poll_seconds), wanted or 0.0), max(job.left, 0.0)))


def _is_certain(error: ModelError) -> bool:
    """Whether there certainly is no job."""
    return error.answered or not error.sent


def _leaves_open(error: ModelError) -> bool:
    """Whether it has to be found out if there is a job after all."""
    return error.retryable and not _is_certain(error)


def _unknown(why: str) -> ModelError:
    message = f"the answer to the submit is lost, and nobody can tell whether there is a job: {why}"
    return ModelError("submit_unknown", message, retryable=False)
