"""Overdue: attempts that run far past their deadline although their executor beats.

An executor ends its attempts at their deadlines by itself; this is the net under one whose call hangs beyond it. What
an ended attempt means is decided where it always is, by `settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from libs.common.domain.outcome import EXPIRED, Failed, Outcome, UploadPending
from libs.common.domain.settle import Course, Finish, Retry, RetryPolicy, Settlement, settle
from libs.common.domain.task import Phase
from libs.common.operations.wake import Wake
from libs.common.ports_sweeps import OverdueAttempt, Sweeps
from libs.common.runtime.failpoints import failpoint
from services.janitor.report import did
from services.janitor.returns import Returns

GRACE_SECONDS: Final = 30.0
_PAGE: Final = 500
_JITTER: Final = 0.25
_CALL: Final = Failed("model_timeout", "the call went on past its deadline", retryable=True, timed_out=True)
_JOB: Final = Failed("job_timeout", "the provider's job was not over in time", retryable=False, timed_out=True)
_UPLOAD: Final = UploadPending("upload_timeout", "the upload went on past its limit", permanent=True)


class Overdue:
    """Ends attempts from outside, fenced by their tokens."""

    def __init__(self, sweeps: Sweeps, returns: Returns, wake: Wake, rng: Random, *, upload_seconds: int) -> None:
        self._sweeps = sweeps
        self._returns = returns
        self._wake = wake
        self._rng = rng
        self._upload_seconds = upload_seconds

    async def sweep(self) -> int:
        """One round; returns how many attempts were ended."""
        overdue = await self._sweeps.overdue(GRACE_SECONDS, self._upload_seconds, _PAGE)
        if not overdue:
            return 0
        decided = [(attempt, self._decide(attempt)) for attempt in overdue]
        await failpoint("janitor/before-end-overdue")
        ended = await self._sweeps.end_running(
            [(attempt, end.status, end.code, end.message) for attempt, end in decided if isinstance(end, Finish)]
        )
        await self._give_back([attempt for attempt in overdue if attempt.id in ended])
        await failpoint("janitor/before-end-overdue")
        retried = await self._sweeps.retry_running(
            [
                (attempt, self._jittered(again.delay), again.head, again.code, again.message)
                for attempt, again in decided
                if isinstance(again, Retry)
            ]
        )
        await self._give_back([attempt for attempt in overdue if attempt.id in retried])
        return did("overdue", len(ended) + len(retried), ended=len(ended), retried=len(retried))

    async def _give_back(self, over: Sequence[OverdueAttempt]) -> None:
        await self._returns.give_both(over)
        self._wake.ended(over)

    def _decide(self, attempt: OverdueAttempt) -> Settlement:
        policy = RetryPolicy(attempt.retry_times, attempt.retry_queue_max_seconds, self._upload_seconds)
        phase = Phase(attempt.phase)
        course = Course(
            phase, attempt.retries, attempt.lost, attempt.age, attempt.upload_age, deadline_in=attempt.deadline_in
        )
        outcome: Outcome = _CALL
        if attempt.deadline_in is not None and attempt.deadline_in < 0:
            outcome = EXPIRED
        elif phase is Phase.SUBMITTED:
            outcome = _JOB
        elif phase >= Phase.GENERATED:
            outcome = _UPLOAD
        return settle(course, outcome, policy)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + _JITTER * self._rng.random())
