"""One submit on its way: it leaves only while the attempt is ours, is shown when it lasts, and is heard out.

trusted? --> connected --> trusted still? --> sent --> answered
                              |                 ` interrupted: its answer is waited for a moment, written down if it
                              |                   comes, and left to late.py or hung up if it does not
                              ` no: nothing has left; again once we are
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from libs.common.domain.model_errors import Busy, ModelError
from libs.common.ports_jobs import JobReport
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.execution import Trust, Untrusted
from services.executor.jobs.calls import JobCalls, in_time
from services.executor.jobs.job import Job
from services.executor.jobs.late import LateAnswers
from services.executor.jobs.ledger import JobLedger
from services.executor.runs import Stop

log = get_logger()

#: A submit that lasts longer is shown as work of the provider: some answer only when they are done.
_SHOWN_SECONDS: Final = 1.0
#: How long an attempt that has to end waits for the answer to its submit.
_ABORT_SECONDS: Final = 3.0


class Asking:
    """Sends submits, each call of it one."""

    def __init__(self, calls: JobCalls, ledger: JobLedger, late: LateAnswers, trust: Trust) -> None:
        self._calls = calls
        self._ledger = ledger
        self._late = late
        self._trust = trust

    async def submit(self, job: Job) -> JobReport:
        """What the provider answers. Raises ModelError."""
        while True:
            if not self._trust.trusted:
                await self._trust.regain()
            try:
                return await self._sent(job)
            except Untrusted as error:
                if error.sent:
                    raise
                job.run.called = job.open

    async def _sent(self, job: Job) -> JobReport:
        run, gate = job.run, _Gate(self._trust)
        call = self._calls.submit(job, gate.passes)
        run.called = True
        shown = asyncio.get_running_loop().call_later(_SHOWN_SECONDS, self._show, job)
        pending = asyncio.ensure_future(in_time(call, job.adapter.submit))
        try:
            report = await asyncio.shield(pending)
        except asyncio.CancelledError:
            if await self._is_answered(job, pending):
                # Whoever interrupts us once more: nobody else may ever learn what was answered.
                await asyncio.shield(self._late.keep(self._last_words(job, pending), "last-words"))
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
            if job.open or not is_certain(error):
                return
            if error.sent and run.stop is Stop.DRAINED:
                raise error
            run.called = error.sent and not isinstance(error, Busy)
            if run.stop in (Stop.CANCELED, Stop.EXPIRED):
                await self.no_job(job)
            return
        await job.quiet()
        try:
            news = job.heard(pending.result())
            if news is None:
                return
            former = None
            if run.stop is not Stop.LOST:
                former = await self._ledger.replaced(run, news)
        except ModelError:
            return
        if former:
            self._late.end(job, former)
        elif former is None and news.provider_id:
            await self._late.named(job, news.provider_id)

    def _show(self, job: Job) -> None:
        job.side = asyncio.get_running_loop().create_task(self._shown(job), name="submit-shown")

    async def _shown(self, job: Job) -> None:
        news = replace(job.news("processing"), begun=True)
        try:
            if await self._ledger.news(job.run, news):
                job.wrote(news)
        except Exception as error:
            log.warning("job.not_shown", task_id=str(job.run.attempt.public_id), error=type(error).__name__)

    async def no_job(self, job: Job) -> None:
        """There certainly is none: its provider need not be told that nobody wants it."""
        await job.quiet()
        await self._ledger.news(job.run, job.news("failed"))


class _Gate:
    """Lets the requests of one submit leave while the attempt certainly is ours.

    To look up a name, connect and agree on TLS takes time, in which a process can be frozen and presumed dead. What is
    frozen after this, with the request in its hands, is the rest that only a provider that knows our key can rule out.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._passed = False

    def passes(self) -> None:
        """Raises ModelError; of a second request of the same submit it says that something was sent before."""
        if not self._trust.trusted:
            raise Untrusted(sent=self._passed)
        self._passed = True


def is_certain(error: ModelError) -> bool:
    """Whether there certainly is no job."""
    return error.answered or not error.sent


def leaves_open(error: ModelError) -> bool:
    """Whether it has to be found out if there is a job after all."""
    return error.retryable and not is_certain(error)
