"""The attempts that run in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from uuid import UUID

from libs.common.domain.model import Model
from libs.common.domain.output import StagedFile
from libs.common.domain.task import Phase
from libs.common.ports_attempts import Attempt
from libs.common.runtime.logging import get_logger
from services.executor.admission.slots import Slot

log = get_logger()


class Stop(Enum):
    """Why a running attempt is interrupted."""

    CANCELED = "canceled"  #: its caller wants it ended
    DRAINED = "drained"  #: this process ends: hand it back
    EXPIRED = "expired"  #: the task's deadline has come
    LOST = "lost"  #: it is not ours any more: leave no trace


@dataclass(slots=True, eq=False)
class Run:
    """One running attempt."""

    attempt: Attempt
    model: Model
    has_permit: bool
    slot: Slot
    began: float
    phase: Phase = Phase.NONE  #: how far it has durably come
    staged: tuple[StagedFile, ...] = ()  #: where its output lies; PostgreSQL knows it from phase `generated` on
    generated_at: float | None = None  #: when it was recorded, if it was here
    offered: bool = False  #: PostgreSQL may know of it, though the answer that says so has not come
    called: bool = False  #: the model was asked, or may have been
    stop: Stop | None = None
    waits: bool = False  #: for its provider's job, without a slot
    ending: bool = False  #: its end is being recorded: too late to stop it
    side: asyncio.Task[None] | None = field(default=None, repr=False)  #: shows meanwhile that the upload lasts
    entered: bool = False  #: its story has begun; before that there is nothing to interrupt
    pending: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def counted(self) -> bool:
        """Whether what START counted was a call: the model may have heard of it now, or heard of it long ago."""
        return self.called or self.attempt.phase is not Phase.NONE

    @property
    def deadline(self) -> float | None:
        """When the task must be done, on the monotonic clock."""
        return None if self.attempt.deadline_in is None else self.began + self.attempt.deadline_in

    def forget_payload(self) -> None:
        """It was sent and will not be sent again."""
        self.attempt = replace(self.attempt, payload=b"")

    def interrupt(self, why: Stop) -> None:
        """Stop it where it stands, unless its end is being recorded; the first reason counts, but LOST beats all."""
        if self.ending:
            return
        if self.stop is None or (why is Stop.LOST and self.stop is not Stop.LOST):
            self.stop = why
            if self.entered and self.pending is not None:
                self.pending.cancel()


class Runs:
    """Every attempt that runs here, each in an asyncio task of its own."""

    def __init__(self, story: Callable[[Run], Awaitable[None]]) -> None:
        self._story = story
        self._by_token: dict[UUID, Run] = {}
        self._by_task: dict[int, Run] = {}
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __len__(self) -> int:
        return len(self._by_token)

    def begin(self, attempt: Attempt, model: Model, *, has_permit: bool, slot: Slot) -> None:
        """Run an attempt; its slot goes back when it has ended, whatever became of it."""
        staged = attempt.staged if attempt.phase >= Phase.GENERATED else ()
        run = Run(attempt, model, has_permit, slot, time.monotonic(), attempt.phase, staged)
        run.called = attempt.phase is Phase.SUBMITTED  # by who began the job
        self._by_token[attempt.token] = self._by_task[attempt.id] = run
        self._quiet.clear()
        loop = asyncio.get_running_loop()
        alarm = None if run.deadline is None else loop.call_at(run.deadline, run.interrupt, Stop.EXPIRED)

        def ended(pending: asyncio.Task[None]) -> None:
            if not pending.cancelled() and (error := pending.exception()) is not None:
                log.error("run.untold", task_id=str(attempt.public_id), error=type(error).__name__, exc_info=error)
            if alarm is not None:
                alarm.cancel()
            del self._by_token[attempt.token]
            if self._by_task.get(attempt.id) is run:
                del self._by_task[attempt.id]
            if not self._by_token:
                self._quiet.set()
            slot.end()

        run.pending = loop.create_task(self._tell(run), name="run")
        run.pending.add_done_callback(ended)

    def has(self, task: int, lease: int) -> bool:
        """Whether this lease of a task runs here already."""
        run = self._by_task.get(task)
        return run is not None and run.attempt.lease == lease

    def cancel(self, tasks: Iterable[int]) -> None:
        """Their callers want these tasks ended; those that do not run here are left alone."""
        for task in tasks:
            run = self._by_task.get(task)
            if run is not None:
                run.interrupt(Stop.CANCELED)

    def runs_here(self, task: int) -> bool:
        """Whether the task runs here."""
        return task in self._by_task

    def attempts(self) -> list[Attempt]:
        """All that run."""
        return [run.attempt for run in self._by_token.values()]

    def tokens(self) -> set[UUID]:
        """The tokens of all that run."""
        return set(self._by_token)

    def interrupt_all(self, why: Stop) -> None:
        """Stop all."""
        self.interrupt(self.tokens(), why)

    def interrupt(self, tokens: Iterable[UUID], why: Stop) -> None:
        """Stop those of these that still run."""
        for token in tokens:
            run = self._by_token.get(token)
            if run is not None:
                run.interrupt(why)

    def waiting(self) -> int:
        """How many of them wait for their providers' jobs."""
        return sum(run.waits for run in self._by_token.values())

    def interrupt_waiting(self, why: Stop) -> None:
        """Stop those that only wait for their providers' jobs."""
        for run in list(self._by_token.values()):
            if run.waits:
                run.interrupt(why)

    async def quiet(self) -> None:
        """Wait until nothing runs."""
        await self._quiet.wait()

    async def _tell(self, run: Run) -> None:
        run.entered = True  # a task that is cancelled before its first step would never tell its end
        await self._story(run)
