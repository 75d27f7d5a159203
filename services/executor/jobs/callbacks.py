"""What providers that cannot be asked have called back with: of their jobs it is the truth."""

from __future__ import annotations

from libs.common.ports_jobs import JobReport
from services.executor.jobs.calls import JobCalls
from services.executor.jobs.job import Job
from services.executor.jobs.ledger import JobLedger


class Callbacks:
    """Reads what was kept of them."""

    def __init__(self, calls: JobCalls, ledger: JobLedger) -> None:
        self._calls = calls
        self._ledger = ledger

    async def said(self, job: Job) -> JobReport | None:
        """The last that the provider has said of the job; an end outweighs whatever else came, and is kept."""
        size = await self._ledger.weight_of_callbacks(job.run.attempt)
        if not size:
            return None
        await job.share.take(size)
        callbacks = await self._ledger.callbacks(job.run.attempt, size)
        call = self._calls.ask(job.run.model, job.key, job.intended_at, job.share)
        said: JobReport | None = None
        for callback in callbacks:
            report = job.adapter.called_back(call, callback.headers, callback.body)
            if report is not None and not (said is not None and said.status.over):
                said = report
        if callbacks and (said is None or not said.status.over):
            await self._ledger.drop(callbacks)
        return said
