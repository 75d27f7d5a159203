"""One attempt of one task, told from the call to the record."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from libs.common.domain.errors import OutcomeUnknown
from libs.common.domain.model_errors import (
    Busy,
    ModelError,
    NotHere,
    OutOfFiles,
    OutOfPorts,
    OutputError,
    StagedLost,
    StagingFull,
    StagingShareFull,
)
from libs.common.domain.outcome import (
    EXPIRED,
    Canceled,
    Failed,
    HandedBack,
    Outcome,
    ResultFile,
    StagingGone,
    Succeeded,
    UploadPending,
)
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import Course, Finish, GiveBack, Park, Retry, RetryPolicy, Settlement, settle
from libs.common.domain.task import Phase, TaskStatus
from libs.common.domain.texts import storable
from libs.common.ports_attempts import Posture
from libs.common.runtime.coalescer import CoalescerClosed
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.redaction import redact_text
from libs.common.runtime.shares import on_behalf_of
from services.executor.recorder import Recorder
from services.executor.runs import Run, Stop

log = get_logger()

#: Jitter only adds: tasks that failed together must not come back as a wall.
_JITTER: Final = 0.25
#: How long no call is begun here after an output or a call found no room.
_LACKING_SECONDS: Final = 5.0
#: How long a task that was canceled before its call is kept from being started again: several looks of the janitor.
_UNCALLED_SECONDS: Final = 10.0
#: Codes of calls that used up their time: the task ends as `timeout` then, not as `failed`.
_TIMEOUT_CODES: Final = ("model_timeout", "job_timeout", "output_timeout")
#: When a call is due again for which this process lacks something; another one may take it then. A tenth of the task's
#: age, within these limits: a backlog that nobody can call for hours must not go round twice a minute.
_OTHERS_SECONDS: Final = (30.0, 300.0)
#: The same after an answer found no room in staging, or its tenant had used up its share: uploads have to make room
#: first, which in an outage takes hours.
_ROOM_SECONDS: Final = (15.0, 300.0)
#: A call begins within this time of its attempt or not at all: its permit could lapse while the call lasts.
_BEGIN_SECONDS: Final = 30.0
#: When a full model or provider is tried again, if it does not say.
_BUSY_SECONDS: Final = 5.0


class NotOurs(Exception):
    """The attempt's token no longer stands: whatever we would write, nobody would take."""


class Untrusted(ModelError):
    """This executor was silent for so long that another one may go on with the attempt."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("executor_silent", "the executor had lost touch", retryable=True, sent=sent)


class TooLate(Exception):
    """By the time that a call could begin, its permit may be somebody else's."""


class HandedOver(Exception):
    """Another executor goes on with the upload."""


class Calls(Protocol):
    """The model services."""

    async def call(self, run: Run) -> tuple[StagedFile, ...]:
        """Call the model within its time and stage the answer. Raises ModelError or StagingFull."""


class Uploads(Protocol):
    """The way of a staged output to where it is kept."""

    async def upload(self, run: Run, staged: Sequence[StagedFile]) -> tuple[ResultFile, ...] | UploadPending:
        """Upload all files of an output, in line for a while. Raises StagedLost or HandedOver."""

    async def discard(self, staged: Sequence[StagedFile]) -> None:
        """The staged output is needed no more."""


class Trust(Protocol):
    """Whether a model may be called."""

    @property
    def trusted(self) -> bool: ...
    async def regain(self) -> None: ...


class Execution:
    """Invoke, stage, upload, and what that means for the task."""

    def __init__(
        self,
        calls: Calls,
        uploads: Uploads,
        recorder: Recorder,
        trust: Trust,
        *,
        upload_max_seconds: int,
        over: Callable[[Run, Outcome | None, Settlement | None], None],
    ) -> None:
        self._calls = calls
        self._uploads = uploads
        self._recorder = recorder
        self._trust = trust
        self._upload_max_seconds = upload_max_seconds
        self._lacks: Posture | None = None
        self._lacks_until = 0.0
        self._over = over
        self._rng = random.Random()  # noqa: S311  spreads retries

    async def run(self, run: Run) -> None:
        """From the call to the record. Whatever happens on the way is an outcome."""
        on_behalf_of.set(run.attempt.tenant_id)
        outcome = await self._outcome_of(run)
        run.ending = True
        settlement = await self._record(run, outcome) if outcome is not None else None
        self._over(run, outcome, settlement)
        if run.staged and not _keeps_staged(run, settlement):
            await self._uploads.discard(run.staged)

    @property
    def lacks(self) -> Posture | None:
        """What there was no room for a moment ago: no call should be begun."""
        return self._lacks if time.monotonic() < self._lacks_until else None

    # how it goes

    async def _outcome_of(self, run: Run) -> Outcome | None:
        """How the attempt ended; None when it is not ours any more."""
        try:
            if run.stop is not None:
                return _interrupted(run.stop, run)
            staged = run.staged or await self._generate(run)
            return await self._upload(run, staged)
        except asyncio.CancelledError:
            if run.stop is None:
                raise
            return _interrupted(run.stop, run)
        except (NotOurs, HandedOver, CoalescerClosed, OutcomeUnknown):
            return None
        except TooLate:
            return HandedBack("not run")
        except NotHere as error:
            return HandedBack(error.code, _more_and_more(run, *_OTHERS_SECONDS))
        except (Busy, OutOfPorts) as error:  # others can be called meanwhile
            run.called = False  # it was not taken: nothing is used up, and nothing counted
            return HandedBack(error.code, error.retry_after or _BUSY_SECONDS)
        except OutOfFiles as error:
            return self._lacking("out_of_files", error)
        except ModelError as error:
            return _failed(error)
        except StagingShareFull as error:
            return HandedBack(error.code, _more_and_more(run, *_ROOM_SECONDS))
        except StagingFull as error:
            # A disk may never have room for an answer, and each call for it costs.
            return self._lacking("staging_full", error, _more_and_more(run, *_ROOM_SECONDS) if run.called else None)
        except StagedLost as error:
            return StagingGone(error.message)
        except Exception as error:
            log.error("attempt.surprise", task_id=str(run.attempt.public_id), error=type(error).__name__, exc_info=True)
            message = f"unexpected {type(error).__name__}"
            if run.phase >= Phase.GENERATED:  # what befalls an output is no reason to call its model again
                return UploadPending("internal", message)
            return Failed("internal", message, retryable=True)

    def _lacking(self, what: Posture, error: OutputError, after: float | None = None) -> Outcome:
        self._lacks, self._lacks_until = what, time.monotonic() + _LACKING_SECONDS
        return HandedBack(error.code, after or _LACKING_SECONDS)

    async def _generate(self, run: Run) -> tuple[StagedFile, ...]:
        """Call the model, stage its answer, and let PostgreSQL know where it lies before anything else happens."""
        await failpoint("executor/before-call")
        staged = run.staged = await self._call(run)
        await failpoint("executor/after-call")
        try:
            await self._generated(run, staged)
        except asyncio.CancelledError:
            if run.stop is not Stop.LOST and run.stop is not None:
                # Perhaps it is written and perhaps not. Once more, to know whether the output must be kept.
                run.ending = True
                await self._generated(run, staged)
            raise
        await failpoint("executor/after-generated")
        return staged

    async def _call(self, run: Run) -> tuple[StagedFile, ...]:
        """Call the model while the attempt certainly is ours; if we fell silent before anything left, once we are."""
        while True:
            if not self._trust.trusted:
                await self._trust.regain()
                if run.phase is Phase.NONE and time.monotonic() - run.began > _BEGIN_SECONDS:
                    raise TooLate
            try:
                return await self._calls.call(run)
            except Untrusted:
                if run.called:
                    raise

    async def _generated(self, run: Run, staged: Sequence[StagedFile]) -> None:
        before, run.offered = run.offered, True
        if not await self._recorder.generated(run, staged):
            run.offered = before
            raise NotOurs
        run.phase, run.generated_at = Phase.GENERATED, time.monotonic()
        if not run.ending:
            await run.slot.take_again()

    async def _upload(self, run: Run, staged: Sequence[StagedFile]) -> Outcome:
        stored = await self._uploads.upload(run, staged)
        await failpoint("executor/after-upload")
        return stored if isinstance(stored, UploadPending) else Succeeded(stored)

    # what it means

    async def _record(self, run: Run, outcome: Outcome) -> Settlement | None:
        """Write what becomes of the task; None when that was not ours to say."""
        if run.side is not None:
            await asyncio.wait((run.side,))
        settlement = self._spread(settle(_course(run), outcome, self._policy(run)))
        try:
            mine = await self._recorder.end(run, settlement)
        except CoalescerClosed:
            return None
        except Exception as error:
            # Never for want of PostgreSQL: that is waited for. Once more, with nothing in it that could be at fault.
            log.error("attempt.unrecorded", task_id=str(run.attempt.public_id), error=type(error).__name__)
            settlement = Finish(
                TaskStatus.FAILED, "internal", "the attempt's end could not be recorded", dead=True, called=run.counted
            )
            mine = await self._recorder.end(run, settlement)
        await failpoint("executor/after-finish")
        return settlement if mine else None

    def _policy(self, run: Run) -> RetryPolicy:
        return RetryPolicy(run.model.retry_times, run.model.retry_queue_max_seconds, self._upload_max_seconds)

    def _spread(self, settlement: Settlement) -> Settlement:
        if isinstance(settlement, Retry | Park | GiveBack) and settlement.delay:
            return replace(settlement, delay=settlement.delay * (1 + _JITTER * self._rng.random()))
        return settlement


def _more_and_more(run: Run, soonest: float, latest: float) -> float:
    return min(max(soonest, run.attempt.age / 10), latest)


def _course(run: Run) -> Course:
    now = time.monotonic()
    since_staged = now - run.generated_at if run.generated_at is not None else run.attempt.upload_age + now - run.began
    return Course(
        phase=run.phase,
        retries=run.attempt.retries,
        lost=run.attempt.lost,
        age=run.attempt.age + now - run.began,
        called=run.counted,
        upload_age=since_staged if run.phase >= Phase.GENERATED else 0.0,
        deadline_in=None if run.deadline is None else run.deadline - now,
    )


def _interrupted(why: Stop, run: Run) -> Outcome | None:
    match why:
        case Stop.CANCELED | Stop.EXPIRED if not run.called and run.phase is Phase.NONE:
            # Handed back, so that a call that never began is not counted; the janitor ends what waits without a reason.
            return HandedBack(f"{why.value}_before_call", _UNCALLED_SECONDS)
        case Stop.CANCELED:
            return Canceled()
        case Stop.EXPIRED:
            return EXPIRED
        case Stop.DRAINED:
            return HandedBack("executor stops")
        case Stop.LOST:
            return None


def _failed(error: ModelError) -> Outcome:
    return Failed(
        error.code,
        storable(redact_text(error.message)),
        error.retryable,
        retry_after=error.retry_after,
        timed_out=error.code in _TIMEOUT_CODES,
    )


def _keeps_staged(run: Run, settlement: Settlement | None) -> bool:
    """Whether somebody still needs the staged output: only if PostgreSQL knows of it, and the task goes on with it.

    What it only may know of is kept for whoever goes on with the attempt, and swept when the task is over.
    """
    if run.phase < Phase.GENERATED:
        return run.offered and settlement is None
    match settlement:
        case None | Park() | GiveBack():
            return True
        case Finish(dead=dead):
            return dead
        case _:
            return False
