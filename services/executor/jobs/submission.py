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
from typing import Final, TypeVar

from libs.common.domain.model_errors import Busy, ModelError, NoSocket, NotHere, TooEarly
from libs.common.domain.task import Phase
from libs.common.ports_jobs import JobReport
from libs.common.ports_provider_jobs import JobIntent
from libs.common.runtime.failpoints import failpoint
from services.executor.execution import NotOurs
from services.executor.jobs.asking import Asking, is_certain, leaves_open
from services.executor.jobs.callbacks import Callbacks
from services.executor.jobs.calls import JobCalls, in_time
from services.executor.jobs.job import Job, intent_key
from services.executor.jobs.ledger import JobLedger
from services.executor.jobs.memory import AnswerShare
from services.executor.jobs.waits import Waits
from services.executor.runs import Run

#: Pauses before a submit of which no byte left is tried again, in the same attempt.
_UNSENT_PAUSES: Final = (0.25, 1.0)
#: How often a provider may fail to say whether there is a job, and how often a job is made again that it does not have,
#: before it is left to an operator.
_TRIES: Final = 6
_SUBMITS: Final = 3
#: How long a job that cannot be looked for may take to call back.
_CALLBACK_SECONDS: Final = 5.0

_Answer = TypeVar("_Answer")


class Submission:
    """Makes jobs, each at most once for an attempt."""

    def __init__(
        self,
        calls: JobCalls,
        ledger: JobLedger,
        asking: Asking,
        callbacks: Callbacks,
        waits: Waits,
    ) -> None:
        self._calls = calls
        self._ledger = ledger
        self._asking = asking
        self._callbacks = callbacks
        self._waits = waits

    async def make(self, run: Run, share: AnswerShare) -> tuple[Job, JobReport]:
        """A new job of an attempt. Raises ModelError (Busy: nothing came of it, try later), NotOurs."""
        model, key = run.model, intent_key(run.attempt)
        adapter, config = self._calls.adapter(model.adapter), self._calls.config(model)
        self._calls.ask(model, key, 0.0, share)  # whatever cannot be called for is found before anything is written
        intent = JobIntent(key, model.adapter, adapter.polls(config), model.job_timeout_seconds)
        intended_at = await self._ledger.intend(run, intent)
        if intended_at is None:
            raise NotOurs
        run.phase = Phase.SUBMITTED
        await run.slot.take_again()
        await failpoint("executor/after-intent")
        deadline = asyncio.get_running_loop().time() + intent.seconds
        if run.deadline is not None:
            deadline = min(deadline, run.deadline)
        job = Job(run, adapter, intent.polls, key, intended_at, deadline, share)
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
            except NotHere as error:
                if job.left <= 0:
                    raise _unknown(error.message) from None
                raise
            except ModelError as error:
                # The provider has not failed where it is to be asked again, or could not be asked from here.
                failures += not isinstance(error, Busy | TooEarly | NoSocket)
                if failures == _TRIES:
                    raise _unknown(error.message) from None
                # Pauses grow, since an outage is outlasted by patience and not by questions.
                longer = float(job.run.model.poll_seconds) * 2 ** (failures - 1)
                await self._pause(job, max(error.retry_after or 0.0, longer))

    async def _look_for(self, job: Job) -> JobReport | None:
        """The job; None: certainly none. Raises ModelError and LookupError."""
        since = asyncio.get_running_loop().time() - job.asked_at
        call = self._calls.ask(job.run.model, job.key, job.intended_at, job.share, since_submit=since)
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
                return await self._asking.submit(job)
            except ModelError as error:
                job.open = job.open or leaves_open(error)
                if job.open:
                    raise
                job.run.called = error.sent and not isinstance(error, Busy)
                if isinstance(error, Busy | NoSocket):
                    raise
                if error.sent or not error.retryable or pause is None:
                    if is_certain(error):
                        await self._asking.no_job(job)
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last pause is None")

    def _dedupes(self, job: Job) -> bool:
        return job.adapter.dedupes(self._calls.config(job.run.model))

    async def _pause(self, job: Job, wanted: float | None = None) -> None:
        if job.left <= 0:
            raise _unknown("its time is over")
        job.share.release()
        await self._waits.rest(job.run, min(max(float(job.run.model.poll_seconds), wanted or 0.0), max(job.left, 0.0)))


def _unknown(why: str) -> ModelError:
    message = f"the answer to the submit is lost, and nobody can tell whether there is a job: {why}"
    return ModelError("submit_unknown", message, retryable=False)
