"""The executor: reads what is dispatched, runs what it may, and drains in good order.

Longer than a file should be: one place decides what this process may do now, from all that its parts say, and each cut
through it would be crossed both ways.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from libs.common.contracts import hints as wire
from libs.common.domain.errors import BrokerUnavailable, OutcomeUnknown, Unavailable
from libs.common.operations.model_cache import REFRESH_SECONDS, ModelCache
from libs.common.ports import Hints
from libs.common.ports_attempts import Attempts, Paused, Posture
from libs.common.runtime.logging import get_logger
from libs.common.runtime.periodic import Periodic
from services.executor.admission.desk import Desk
from services.executor.admission.rotation import Arrival
from services.executor.admission.slots import Slots
from services.executor.doorman import Doorman
from services.executor.heartbeat import Heartbeat
from services.executor.jobs.ledger import JobLedger
from services.executor.jobs.unwanted import Unwanted
from services.executor.jobs.waits import Waits
from services.executor.letting_go import LettingGo
from services.executor.ownership import Ownership
from services.executor.reader import Reader
from services.executor.reconcile import LOOK_SECONDS, Reconcile
from services.executor.recorder import Recorder
from services.executor.runs import Runs, Stop
from services.executor.steward import Steward
from services.executor.watchdog import Watchdog

log = get_logger()

CHANNELS: Final = (
    wire.ROAD, wire.PERMIT, wire.EXECUTORS, wire.MODELS, wire.CANCEL, wire.JOBS,
)  # fmt: skip
_POSTURE_SECONDS: Final = 0.25
#: How long both executors read when a crowded one leaves or comes back: a beat, the others' look, and the look-up.
_HANDING_OVER_SECONDS: Final = 1.5
_HANDED_SECONDS: Final = 2.0
_UPKEEP_SECONDS: Final = 10.0
_DOOR_SECONDS: Final = 1.0
#: Others read in place of a reader that hangs; one that hangs for this long needs a restart.
_HOPELESS_SECONDS: Final = 60.0
#: The share of the time to drain that is kept for handing back what did not end.
_MARGIN_SHARE: Final = 0.2
_LONGEST_MARGIN: Final = 3.0
_LAST_WORDS_SECONDS: Final = 2.0


class Executor:
    """Everything that one executor process does, until it is told to stop."""

    def __init__(
        self,
        *,
        heartbeat: Heartbeat,
        attempts: Attempts,
        ownership: Ownership,
        steward: Steward,
        reader: Reader,
        desk: Desk,
        slots: Slots,
        runs: Runs,
        recorder: Recorder,
        ledger: JobLedger,
        waits: Waits,
        unwanted: Unwanted,
        letting_go: LettingGo,
        models: ModelCache,
        hints: Hints,
        reconcile: Reconcile,
        doorman: Doorman,
        upkeep: Callable[[], Awaitable[object]],
        lacks: Callable[[], Posture | None],
        drain_seconds: float,
    ) -> None:
        self.heartbeat = heartbeat
        self.runs = runs
        self.desk = desk
        self.steward = steward
        self._attempts = attempts
        self._ownership = ownership
        self._reader = reader
        self._slots = slots
        self._recorder = recorder
        self._ledger = ledger
        self._waits = waits
        self._unwanted = unwanted
        self._letting_go = letting_go
        self._models = models
        self._hints = hints
        self._lacks = lacks
        self._margin = min(_LONGEST_MARGIN, drain_seconds * _MARGIN_SHARE)
        self._drain_until = drain_seconds - self._margin
        self._stopping = asyncio.Event()
        self._posture: Posture = "starting"
        self._drains_from = self._handed_at = 0.0  #: since when, and when we last looked at what others handed us
        self._scarce = False
        self._reads = False
        self._reads_until = 0.0
        self._says_from = 0.0
        self._told = False
        self._watchdog = Watchdog()
        self._reconcile = Periodic("reconcile", timedelta(seconds=LOOK_SECONDS), reconcile.look)
        self._doorman = doorman
        self._door = Periodic("doorman", timedelta(seconds=_DOOR_SECONDS), doorman.look)
        self._upkeep = Periodic("staging", timedelta(seconds=_UPKEEP_SECONDS), upkeep)
        self._model_news = Periodic("models", timedelta(seconds=REFRESH_SECONDS), models.refresh)
        desk.others_read = lambda: not self._reads and self._room_elsewhere()
        steward.reader_busy = reader.busy_with

    # the life

    async def run(self) -> None:
        """Work until stopped; then let what runs end, hand back what does not, and leave."""
        loops: list[asyncio.Task[None]] = []
        try:
            if await self._join():
                loops = self._begin()
                await self._until_stopped(loops)
                await self._drain()
        finally:
            # Who runs out of time is cancelled, perhaps in the middle of it: what was left out then would go on.
            await _to_its_end(asyncio.create_task(self._end(loops), name="end"))

    def stop(self) -> None:
        """Take no more."""
        self.desk.closed = True
        self._reader.stop()
        self._stopping.set()

    async def _join(self) -> bool:
        """Become a member; False when we were told to stop before PostgreSQL let us."""
        joining = asyncio.create_task(self.heartbeat.join(), name="join")
        try:
            await self._until_one_ends((joining,))
        finally:
            joining.cancel()
        if not joining.done() or joining.cancelled():
            return False
        self._attempts.executor = joining.result()
        return True

    def _begin(self) -> list[asyncio.Task[None]]:
        loops = {
            "beat": self.heartbeat.run(self),
            "models": self._model_news.run(),
            "reconcile": self._reconcile.run(),
            "upkeep": self._upkeep.run(),
            "doorman": self._door.run(),
            "posture": self._keep_posture(),
            "steward": self.steward.run(),
            "reader": self._reader.run(),
            "admission": self.desk.run(),
            "handed": self._take_handed(),
            "unwanted": self._unwanted.run(),
            "hints": self._hints.listen(CHANNELS, self._hear, self._on_gap),
        }
        return [asyncio.create_task(loop, name=name) for name, loop in loops.items()]

    async def _until_stopped(self, loops: Sequence[asyncio.Task[None]]) -> None:
        await self._until_one_ends(loops)
        for loop in loops:
            if loop.done() and not self._stopping.is_set():
                if not loop.cancelled():
                    loop.result()  # raises what ended it
                raise RuntimeError(f"the loop {loop.get_name()} ended")

    async def _until_one_ends(self, tasks: Sequence[asyncio.Task[object]]) -> None:
        """Wait until one of these has ended, or we are told to stop."""
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    # what is true now

    async def _keep_posture(self) -> None:
        while True:
            self._take_posture()
            await asyncio.sleep(_POSTURE_SECONDS)

    def _room_elsewhere(self) -> bool:
        return self._ownership.view.room_elsewhere(self.heartbeat.number, self._slots.enough)

    def _others_start(self) -> bool:
        return self._ownership.view.others_start(self.heartbeat.number)

    def _take_posture(self) -> None:
        """Read or not: crowded, out of staging, hanging and stopping executors leave their partitions to others.

        Where all are crowded they all read on: only of what is held here can the tenants' rotation choose, and what is
        kept free is for tenants that run little here, wherever their models' partitions lie. So do all where Redis
        answers nobody: what needs no permit goes on. And all whose staging is full, where nobody else reads: uploads,
        which alone make room, go on.
        """
        unable, deaf, now = self._unable(), self._doorman.away, time.monotonic()
        crowded = self.desk.crowded() and self._room_elsewhere()
        # For tenants that find slots nothing may stand still meanwhile: who leaves says so first, and who comes back
        # reads first. Two that read the same partition cost a few stale messages.
        if crowded:
            self._says_from = now + _HANDING_OVER_SECONDS
        if not (crowded or (deaf and self._others_start())):
            self._reads_until = now + _HANDING_OVER_SECONDS
        able = unable is None or (unable == "staging_full" and not self._others_start())
        self._reads = able and now < self._reads_until
        self.desk.closed = unable in ("stopping", "out_of_files")
        self.desk.begin_calls(unable not in ("draining", "staging_full") and (self._reads or not deaf))
        self.steward.become(self.heartbeat.number, reading=self._reads)
        self._say(unable or ("redis_unreachable" if deaf else "reading" if now >= self._says_from else "crowded"))
        if unable == "draining":
            self._leave_if_empty()

    def _say(self, posture: Posture) -> None:
        """Have others know at once how we stand, and whether there is room for who is crowded."""
        if posture != self._posture:
            log.info("executor.posture", now=posture, before=self._posture, running=len(self.runs))
        if (posture, self._slots.scarce) != (self._posture, self._scarce):
            self._posture, self._scarce = posture, self._slots.scarce
            self.heartbeat.soon()

    def _leave_if_empty(self) -> None:
        self.runs.interrupt_waiting(Stop.DRAINED)  # others can wait for their providers, too
        unseen = self._ownership.view.stores_differ() and self._handed_at <= self._drains_from
        if not (unseen or len(self.runs) or len(self.desk.room) or self._reader.busy):
            log.info("executor.drained")
            self.stop()

    def _unable(self) -> Posture | None:
        """Why we can take no work, whoever else could."""
        hangs = self._watchdog.hangs(self._reader.moved_at, answering=self.heartbeat.answering)
        mute = time.monotonic() < self.steward.mute_until and self._others_start()
        if self._stopping.is_set():
            return "stopping"
        if self.desk.leaving:
            return "draining"
        return self._lacks() or ("hangs" if hangs or mute else None)

    @property
    def hangs_for_long(self) -> bool:
        """Whether the read loop hangs so long that only a new process helps. Not if it waits for Kafka: so would a new
        one, and the calls that run here would be lost for it.
        """
        return self._watchdog.stuck > _HOPELESS_SECONDS and not self.steward.broken

    async def needs_kafka(self) -> None:
        """Raises BrokerUnavailable while there is no connection to Kafka."""
        if self.steward.broken:
            raise BrokerUnavailable(self.steward.broken)

    # what the heartbeat asks and says

    def load(self) -> tuple[int, int]:
        """How many attempts run, and how many rows are held here."""
        return self._slots.used, len(self.desk.room)

    def posture(self) -> Posture:
        """Whether we take work, or why not."""
        return self._posture

    def told(self, *, reading: bool) -> None:
        """The table says so now: those who share the partitions should look."""
        if reading != self._told:
            self._told = reading
            self._hints.publish_soon(wire.EXECUTORS, f"{'join' if reading else 'leave'} {self.heartbeat.number}")

    def cancel(self, tasks: Sequence[int]) -> None:
        """Somebody wants these tasks stopped."""
        self.runs.cancel(tasks)

    def ordered(self, *, drain: bool, paused: Paused) -> None:
        """Operators may ask us to finish and leave, and that nothing of some tenants or models is started."""
        if drain != self.desk.leaving:
            log.warning("executor.asked_to_leave" if drain else "executor.asked_to_stay")
            self.desk.leaving, self._drains_from = drain, time.monotonic()
            self._take_posture()
        if paused != self.desk.paused:
            log.info(
                "executor.paused", everything=paused.everything, tenants=len(paused.tenants), lanes=len(paused.lanes)
            )
            self.desk.paused = paused
        if drain or paused:
            self.desk.look_at_all()  # what is held goes back

    async def sort_out(self) -> None:
        """We were silent for long: abort what is not ours any more. Raises Unavailable or OutcomeUnknown."""
        running = self.runs.attempts()
        alive = await self._attempts.alive(running) if running else set()
        lost = {attempt.token for attempt in running} - alive
        log.warning("executor.was_silent", running=len(running), lost=len(lost))
        self.runs.interrupt(lost, Stop.LOST)

    def buried(self, number: int) -> None:
        """We were presumed dead: abort and forget everything; `number` is who we are from now on."""
        self.runs.interrupt_all(Stop.LOST)
        self.desk.room.clear()
        self._attempts.executor = number
        self._told = False
        self.steward.become(number, reading=self._reads)

    # what others say

    def _hear(self, channel: str, lines: list[str]) -> None:
        match channel:
            case wire.ROAD:
                self.steward.hinted(lines)
            case wire.PERMIT:
                for lane in _numbers(lines):
                    self.desk.permit_free(lane)
            case wire.EXECUTORS:
                self.steward.look()
                if wire.LOOK in lines:
                    self.heartbeat.soon()
            case wire.MODELS:
                self._model_news.trigger()
            case wire.CANCEL:
                if any(self.runs.runs_here(task) for task in _numbers(lines)):
                    self.heartbeat.soon()  # the table says whether it is true
            case wire.JOBS:
                for task in _numbers(lines):
                    if self.runs.runs_here(task):
                        self._waits.called(task)

    def _on_gap(self) -> None:
        self.steward.look()
        self.desk.look_at_all()
        self._model_news.trigger()
        self.heartbeat.soon()

    async def _take_handed(self) -> None:
        """Uploads that others hand us because we have their staging store; nobody asks while all have the same."""
        while True:
            await asyncio.sleep(_HANDED_SECONDS)
            if not self._ownership.view.stores_differ() or self.desk.closed:
                continue
            began = time.monotonic()
            try:
                arrivals = []
                for row in await self._attempts.handed():
                    model = await self._models.by_id(row.model_id)
                    if model is not None:
                        arrivals.append(Arrival(row.id, row.lease, row.size, row.phase, model))
                await self.desk.settle(arrivals)
                self._handed_at = began
            except Exception as error:  # the loop's end would be the process's
                log.warning("executor.handed_not_read", error=type(error).__name__, message=str(error)[:200])

    # the end

    async def _drain(self) -> None:
        """Leave the hash at once, give back what only waits, let what runs end while there is time."""
        began = time.monotonic()
        self._take_posture()
        await _for(max(0.5, self._margin), self._reader.idle())
        self.desk.give_up()
        await _for(max(0.5, self._margin), self._release_held())
        left = self._drain_until - (time.monotonic() - began)
        log.info("executor.draining", running=len(self.runs), seconds=round(left, 1))
        await _for(max(0.0, left), self._quiet())

    async def _quiet(self) -> None:
        """Wait until nothing runs. Jobs that only wait for their providers are handed over at once."""
        while len(self.runs):
            self.runs.interrupt_waiting(Stop.DRAINED)
            await _for(_POSTURE_SECONDS, self.runs.quiet())

    async def _release_held(self) -> None:
        while True:
            try:
                await self.desk.release(self.desk.room.held_since(float("inf")))
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(_POSTURE_SECONDS)
            else:
                return

    async def _end(self, loops: Sequence[asyncio.Task[None]]) -> None:
        """Hand back what still runs, say the last things, stop. Short: it may run behind a cancellation."""
        self.stop()
        self.desk.give_up()
        if len(self.runs):
            log.info("executor.handing_back", running=len(self.runs))
            self.runs.interrupt_all(Stop.DRAINED)
            await _for(max(_LAST_WORDS_SECONDS, self._margin), self.runs.quiet())
        await asyncio.gather(
            self._ledger.close(_LAST_WORDS_SECONDS),
            self._recorder.close(_LAST_WORDS_SECONDS),
            self._letting_go.close(_LAST_WORDS_SECONDS),
        )
        for loop in loops:
            loop.cancel()
        if loops:
            await asyncio.wait(loops, timeout=_LAST_WORDS_SECONDS)
            with suppress(Unavailable, OutcomeUnknown, TimeoutError):
                await self.heartbeat.leave()
                self._hints.publish_soon(wire.EXECUTORS, f"leave {self.heartbeat.number}")


async def _for(seconds: float, work: Awaitable[None]) -> None:
    """Wait for it, but no longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def _to_its_end(task: asyncio.Task[None]) -> None:
    """Wait for it, also if we are cancelled meanwhile, which we are afterwards then."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _numbers(lines: Sequence[str]) -> list[int]:
    return [number for line in lines for number in wire.numbers(line)]
