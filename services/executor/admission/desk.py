"""The desk that everything read has to pass: started, held here, or dropped as stale.

A batch is settled when PostgreSQL has answered for each of its messages; only then does the reading position move. The
same claim is asked with the same tokens until it is answered, so a lost answer starts nothing twice and loses nothing.

Long, because claim, hold and hand-back share the tokens and slots of one batch: apart, each could leave them behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final, Protocol, TypeVar
from uuid import UUID, uuid4

from libs.common.domain.errors import GateUnavailable, OutcomeUnknown, RowsLocked, Unavailable
from libs.common.domain.model import Model
from libs.common.domain.settle import GiveBack
from libs.common.domain.task import Phase
from libs.common.operations.by_lane import by_lane
from libs.common.ports import PermitRequest, Permits
from libs.common.ports_attempts import Attempt, Attempts, Claim, Paused
from libs.common.ports_dispatch import Placed
from libs.common.runtime.backoff import set_within
from libs.common.runtime.coalescer import Coalescer
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.admission.rotation import Arrival, Rotation
from services.executor.admission.slots import Slot, Slots
from services.executor.admission.waiting_room import WaitingRoom
from services.executor.figures import Figures

log = get_logger()

#: A permit outlives its call by this much: staging, the quick part of an upload, and a late finish.
PERMIT_GRACE_SECONDS: Final = 60
#: A start that is answered later than this after its permit was asked for does not count: the permit could lapse during
#: the call.
CLAIM_SECONDS: Final = 30.0
#: What a redispatched upload or job is given until its row counts as overdue, or says how long it may last.
UPLOAD_SECONDS: Final = 120
_RETRY_SECONDS: Final = 0.2
#: What has waited here this long for a slot goes to executors that have room. Not sooner: by then they have said how
#: much they have, even if their slots were taken at the same moment as ours.
HELD_FOR_A_SLOT_SECONDS: Final = 2.0
#: How long calls are held that nobody can begin: a tenth of the time for which that has been so, within these limits.
#: Held for longer they would fill the windows of their lanes, and uploads, which come before them, could not leave.
_ROUND_SECONDS: Final = (15.0, 300.0)
_PUT_OFF_SECONDS: Final = 0.5

Answer = TypeVar("Answer")
Wanted = tuple[Arrival, Claim]


class Closing(Unavailable):
    """The process stops; what was not answered for will be read by others."""


class Trust(Protocol):
    """Whether we may start something."""

    number: int

    @property
    def trusted(self) -> bool: ...
    async def regain(self) -> None: ...


class Hands(Protocol):
    """Where started attempts go."""

    def __call__(self, attempt: Attempt, model: Model, *, has_permit: bool, slot: Slot) -> None: ...


class Desk:
    """Admission of one executor."""

    def __init__(
        self,
        attempts: Attempts,
        permits: Permits,
        slots: Slots,
        *,
        trust: Trust,
        begin: Hands,
        runs_here: Callable[[int, int], bool],
        newest: Callable[[int], Model | None],
        drop_permit: Callable[[int, UUID], None],
        placed: Callable[[Sequence[Placed]], None],
        changed: Callable[[Iterable[tuple[int, int]]], None],
        figures: Figures,
        jobs: Collection[str] = (),
    ) -> None:
        self.room = WaitingRoom()
        self.closed = False  #: nothing more is started: the process stops, or can open no file
        self.leaving = False  #: no call is held for later: it goes back at once
        self.paused = Paused()  #: nothing of it is started: it goes back
        self.others_read: Callable[[], bool] = lambda: True  #: whether executors that have room read in our place
        self._attempts = attempts
        self._permits = permits
        self._slots = slots
        self._trust = trust
        self._begin = begin
        self._runs_here = runs_here
        self._newest = newest
        self._drop_permit = drop_permit
        self._placed = placed
        self._changed = changed
        self._figures = figures
        self._jobs = jobs  #: adapters of providers' jobs
        self._rotation = Rotation()
        self._wake = asyncio.Event()
        self._ending = False
        self._crowded = False
        self._no_calls_since: float | None = None
        self._starved: set[int] = set()  #: lanes that wait for nothing but a slot
        self._starts: Coalescer[Wanted, Attempt | None] = Coalescer(
            self._start_batch,
            size_of=lambda wanted: wanted[0].size,
            concurrency=2,  # answers carry payloads
        )

    # what is read

    async def settle(self, arrivals: Sequence[Arrival]) -> None:
        """Answer for every one of these. Raises Closing when the process ends before PostgreSQL answered."""
        once = {(arrival.id, arrival.lease): arrival for arrival in arrivals}
        fresh = [arrival for arrival in once.values() if not self._is_here(arrival)]
        # A hundred stale messages must not take permits from calls: PostgreSQL is asked first which of them wait.
        doubtful = {arrival.lane for arrival in fresh if arrival.doubtful}
        ahead: list[Arrival] = []
        stopped: list[Arrival] = []
        behind: list[Arrival] = []
        for arrival in fresh:
            if arrival.lane in doubtful or (arrival.needs_permit and self.room.busy(arrival.lane)):
                behind.append(arrival)  # who waits in a lane was there first; uploads wait for no permit
            elif self._may_not_begin(arrival) or self._has_to_wait(arrival):
                stopped.append(arrival)
            else:
                ahead.append(arrival)
        with self.room.expecting({arrival.lane for arrival in fresh}):
            for lane in doubtful:
                self.room.wake(lane)
            chosen, late = ([], ahead) if self.closed else self._choose(ahead)
            refused = await self._admit(chosen)
            await self._hold([*refused, *late, *stopped, *behind])

    def _may_not_begin(self, arrival: Arrival) -> bool:
        """Whether it is paused, or of a deleted model; what a provider or an upload is at goes on."""
        return arrival.phase is Phase.NONE and (
            self.paused.covers(arrival.tenant, arrival.lane) or self._newest_model(arrival).deleted
        )

    def _has_to_wait(self, arrival: Arrival) -> bool:
        """Whether no call is begun here now, and this is one, or a job that will put something out."""
        return self._no_calls_since is not None and arrival.phase < Phase.GENERATED

    def _newest_model(self, arrival: Arrival) -> Model:
        """Limits, addresses and whether there is such a model may have changed since it was read."""
        return self._newest(arrival.model.id) or arrival.model

    def _is_here(self, arrival: Arrival) -> bool:
        """A second copy of what runs or waits here already."""
        return arrival in self.room or self._runs_here(arrival.id, arrival.lease)

    def _choose(self, arrivals: Sequence[Arrival]) -> tuple[list[Arrival], list[Arrival]]:
        """Those that got slots, and those that have to wait for some."""
        chosen, late = self._rotation.choose(arrivals, self._slots)
        self._starved.update(arrival.lane for arrival in late)
        return chosen, late

    async def _admit(self, chosen: Sequence[Arrival]) -> list[Arrival]:
        """Permit and start for each of these, which have slots; returns those without a permit, whose slots go back."""
        if not chosen:
            return []
        refused, asked_at = list(chosen), time.monotonic()
        try:
            wanted, refused = await self._ask(chosen)
        finally:
            # They wait for a permit now: woken by their own slots, they would ask for it again and again.
            self._starved.difference_update(arrival.lane for arrival in refused)
            self._give_back_slots(refused)
        await self._start(wanted, asked_at)
        return refused

    async def _ask(self, chosen: Sequence[Arrival]) -> tuple[list[Wanted], list[Arrival]]:
        await failpoint("executor/before-permit")
        for arrival in chosen:
            arrival.model = self._newest_model(arrival)
        wanted = [(arrival, _claim(arrival, job=arrival.model.adapter in self._jobs)) for arrival in chosen]
        asking = [one for one in wanted if one[0].needs_permit]
        if not asking:
            return wanted, []
        try:
            requests = [_permit(arrival, claim) for arrival, claim in asking]
            verdicts = await by_lane(self._permits.acquire_many, requests, _lane)
        except GateUnavailable as error:
            log.warning("permits.unavailable", error=str(error)[:200])
            verdicts = [None] * len(asking)
        refused = []
        for (arrival, claim), granted in zip(asking, verdicts, strict=True):
            if granted:
                continue
            refused.append(arrival)
            if granted is None:  # it may have been granted before the answer was lost
                self._drop_permit(arrival.lane, claim.token)
            else:
                self._figures.refused(arrival.model.id)
        without = set(refused)
        return [(arrival, claim) for arrival, claim in wanted if arrival not in without], refused

    async def _start(self, wanted: Sequence[Wanted], asked_at: float) -> None:
        """Start those with a permit, asked for then; slots and permits of those that were not ours go back."""
        idle = {claim.token: arrival for arrival, claim in wanted}
        unused: list[Attempt] = []
        member = self._trust.number
        try:
            await failpoint("executor/before-claim")
            unused = await self._claim(wanted)
            self._changed((attempt.tenant_id, attempt.id) for attempt in unused)
            self._figures.stale(len(wanted) - len(unused))
            await failpoint("executor/after-claim")
            lasts = time.monotonic() - asked_at < CLAIM_SECONDS
            if not self.closed and member == self._trust.number:
                unused = [attempt for attempt in unused if not self._run(idle, attempt, permit_lasts=lasts)]
        finally:
            self._give_back_slots(idle.values())
            for token, arrival in idle.items():
                if arrival.needs_permit:
                    self._drop_permit(arrival.lane, token)
            await asyncio.shield(self._return([attempt for attempt in unused if attempt.token in idle]))

    def _run(self, idle: dict[UUID, Arrival], attempt: Attempt, *, permit_lasts: bool) -> bool:
        arrival = idle[attempt.token]
        if arrival.needs_permit and not permit_lasts:
            log.warning("attempt.too_late", task=attempt.id, lane=attempt.lane)
            return False
        model = arrival.model
        other = (attempt.lane, attempt.model_id, attempt.tenant_id) != (model.lane, model.id, model.tenant_id)
        if other or (attempt.phase is Phase.NONE and not arrival.needs_permit):
            # A message of a foreign sender: what it names is real, but its permit was taken elsewhere, or not at all.
            # Or PostgreSQL goes on from an older state, in which the model's number is another tenant's.
            log.warning("message.misleading", task=attempt.id, lane=attempt.lane)
            return False
        del idle[attempt.token]
        self._figures.started(attempt)
        slot = Slot(self._slots, arrival.tenant, self._slot_freed)
        self._begin(attempt, model, has_permit=arrival.needs_permit, slot=slot)
        return True

    async def _claim(self, wanted: Sequence[Wanted]) -> list[Attempt]:
        """Ask until it is answered, with the same tokens. If it cannot be answered, what it started goes back."""
        try:
            return await self._ask_until_answered(wanted)
        except BaseException:
            # A flush that is still under way is out of reach: only a process that ends does not wait for it, and what
            # its silence leaves behind is rescued.
            await asyncio.shield(self._return_started(wanted))
            raise

    async def _ask_until_answered(self, wanted: Sequence[Wanted]) -> list[Attempt]:
        unsure = False
        while True:
            if not self._trust.trusted:
                await self._regain()
            try:
                answers = await self._starts.submit_many(wanted)
                started = [attempt for attempt in answers if attempt is not None]
                if unsure and len(started) < len(wanted):
                    known = {attempt.token for attempt in started}
                    rest = [claim for _, claim in wanted if claim.token not in known]
                    started += await self._attempts.started_many(rest)
            except (Unavailable, OutcomeUnknown):
                # Also if PostgreSQL refused outright: of several flushes another one may have been answered, and what
                # that one started is not started again.
                unsure = True
            else:
                return started
            if self._ending:
                raise Closing("stopping before PostgreSQL answered")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _regain(self) -> None:
        regaining = asyncio.ensure_future(self._trust.regain())
        try:
            while not regaining.done():
                if self._ending:
                    raise Closing("stopping before this executor was trusted again")
                await asyncio.wait((regaining,), timeout=_RETRY_SECONDS)
        finally:
            regaining.cancel()

    async def _start_batch(self, wanted: list[Wanted]) -> list[Attempt | None]:
        started = {
            attempt.token: attempt for attempt in await self._attempts.start_many([claim for _, claim in wanted])
        }
        return [started.get(claim.token) for _, claim in wanted]

    async def _return_started(self, wanted: Sequence[Wanted]) -> None:
        """Whatever of these was started goes back."""
        try:
            started = await self._attempts.started_many([claim for _, claim in wanted])
        except (Unavailable, OutcomeUnknown) as error:
            log.error("attempts.stranded", count=len(wanted), error=type(error).__name__)
        else:
            await self._return(started)

    async def _return(self, attempts: Sequence[Attempt]) -> None:
        """Started, but not run: as if never started. If PostgreSQL is away when we stop, silence says it."""
        if not attempts:
            return
        # A provider's job that one of them was to go on with is there all the same.
        rows = [(attempt, GiveBack("not run", 0.0), attempt.phase is not Phase.NONE) for attempt in attempts]
        try:
            placed = await self._until_answered(lambda: self._release(rows))
        except Closing as closing:
            log.error("attempts.stranded", count=len(attempts), error=type(closing.__cause__).__name__)
            return
        self._placed(placed)
        self._changed((attempt.tenant_id, attempt.id) for attempt in attempts)

    async def _release(self, rows: Sequence[tuple[Attempt, GiveBack, bool]]) -> list[Placed]:
        """What somebody keeps locked stays behind, named here and known to nobody: a reconcile disowns it."""
        await failpoint("executor/before-hand-back")
        try:
            return await self._attempts.release_many(rows)
        except RowsLocked:
            locked = await self._attempts.locked([attempt.id for attempt, _, _ in rows])
            if not locked:
                raise
            log.warning("attempts.stranded", count=len(locked), error=RowsLocked.__name__)
            return await self._release([row for row in rows if row[0].id not in locked])

    async def _hold(self, arrivals: Sequence[Arrival]) -> None:
        """Let PostgreSQL remember that these wait here; those that are not ours to hold are stale."""
        if not arrivals:
            return
        await failpoint("executor/before-hold")
        messages = [(arrival.id, arrival.lease) for arrival in arrivals]
        held = await self._until_answered(lambda: self._attempts.hold_many(messages))
        self.room.put((arrival for arrival in arrivals if (arrival.id, arrival.lease) in held), time.monotonic())
        self._figures.stale(len(arrivals) - len(held))
        self._wake.set()

    async def _until_answered(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """What may be asked twice, asked until it is answered. Raises Closing, from the last error, when we give up."""
        while True:
            try:
                return await ask()
            except (Unavailable, OutcomeUnknown) as error:
                if self._ending:
                    raise Closing("stopping before PostgreSQL answered") from error
                await asyncio.sleep(_RETRY_SECONDS)

    # what waits here

    def permit_free(self, lane: int) -> None:
        """A permit of this lane went back."""
        if self.room.wake(lane):
            self._wake.set()

    def look_at_all(self) -> None:
        """Hints may have been lost."""
        self.room.wake_all()
        self._wake.set()

    async def run(self) -> None:
        """Start what waits here as permits and slots become free, until cancelled."""
        while True:
            await set_within(self._wake, self.room.next_look(time.monotonic()))
            self._wake.clear()
            try:
                await self._look()
            except Exception as error:
                log.warning("admission.put_off", error=type(error).__name__, message=str(error)[:200])
                await asyncio.sleep(_PUT_OFF_SECONDS)

    async def _look(self) -> None:
        now = time.monotonic()
        await self.release(self._unwanted())
        await self.release(self._stuck(now))
        if self.closed or not self._trust.trusted:
            await asyncio.sleep(_RETRY_SECONDS)
            return
        candidates = self.room.candidates(now, lambda arrival: not self._has_to_wait(arrival))
        # Of a model that was deleted while they waited: the janitor ends them where they stood.
        await self.release([arrival for arrival in candidates if self._may_not_begin(arrival)])
        chosen, late = self._choose([arrival for arrival in candidates if arrival in self.room])
        refused = await self._admit(chosen)
        for arrival in set(chosen) - set(refused):
            self.room.let_go(arrival)
        now = time.monotonic()
        without = {arrival.lane for arrival in (*refused, *late)}
        for lane in {arrival.lane for arrival in candidates}:
            self.room.looked(lane, now, granted=lane not in without)
        if self._crowded and self.others_read():
            await self.release(self._waits_for_a_slot())

    def _unwanted(self) -> list[Arrival]:
        """What must not wait here: its tenant or model is paused, or we are about to leave. Uploads may: perhaps nobody
        else can see what is staged here.
        """
        if not (self.leaving or self.paused):
            return []
        held = self.room.held_since(float("inf"))
        return [row for row in held if (self.leaving and row.phase < Phase.GENERATED) or self._may_not_begin(row)]

    def _stuck(self, now: float) -> list[Arrival]:
        """What waits for a start that this process cannot make, and has waited for as long as that makes sense here."""
        others = self.others_read()
        if self.closed:
            return self.room.held_since(now - HELD_FOR_A_SLOT_SECONDS) if others else []
        if self._no_calls_since is None:
            return []
        soonest, latest = _ROUND_SECONDS
        alone = min(max((now - self._no_calls_since) / 10, soonest), latest)
        held = self.room.held_since(now - (HELD_FOR_A_SLOT_SECONDS if others else alone))
        return [arrival for arrival in held if self._has_to_wait(arrival)]

    def crowded(self) -> bool:
        """Whether others should read in our place: something waited long for a slot, and slots are scarce since."""
        self._crowded = self._slots.scarce and (self._crowded or bool(self._waits_for_a_slot()))
        return self._crowded

    def _waits_for_a_slot(self) -> list[Arrival]:
        """What has waited here for long, and whose tenant may have no more slots; not what waits for a permit alone."""
        old = self.room.held_since(time.monotonic() - HELD_FOR_A_SLOT_SECONDS)
        return [arrival for arrival in old if not self._slots.open_to(arrival.tenant)]

    async def release(self, arrivals: Sequence[Arrival]) -> None:
        """Give held rows back to their places. Raises Unavailable or OutcomeUnknown, and can be asked again then."""
        if not arrivals:
            return
        await failpoint("executor/before-hand-back")
        self._placed(await self._attempts.release_held([arrival.id for arrival in arrivals]))
        self._changed((arrival.tenant, arrival.id) for arrival in arrivals)
        for arrival in arrivals:
            self.room.let_go(arrival)

    def begin_calls(self, allowed: bool) -> None:
        """Whether calls are begun. Where they are not, because the process drains, has no place for their outputs or
        gets no permits that others get, what is staged still leaves.
        """
        if allowed:
            self._no_calls_since = None
        elif self._no_calls_since is None:
            self._no_calls_since = time.monotonic()

    # the end

    def give_up(self) -> None:
        """Wait for no more answers: who still asks gets Closing."""
        self._ending = True

    def _give_back_slots(self, arrivals: Collection[Arrival]) -> None:
        """These had slots and did not run. Who was late because of them would wait for the next look otherwise: where
        a partition is read anew, a hundred stale messages may come before the first that is not.
        """
        for arrival in arrivals:
            self._slots.give_back(arrival.tenant)
        if arrivals:
            self._slot_freed()

    def _slot_freed(self) -> None:
        if self._starved:
            for lane in self._starved:
                self.permit_free(lane)
            self._starved.clear()


def _claim(arrival: Arrival, *, job: bool) -> Claim:
    seconds = arrival.model.timeout_seconds if arrival.needs_permit else UPLOAD_SECONDS
    return Claim(arrival.id, arrival.lease, uuid4(), seconds, job)


def _lane(request: PermitRequest) -> int:
    return request.lane


def _permit(arrival: Arrival, claim: Claim) -> PermitRequest:
    seconds = arrival.model.timeout_seconds + PERMIT_GRACE_SECONDS
    if claim.job:
        seconds += arrival.model.job_timeout_seconds
    return PermitRequest(arrival.lane, str(claim.token), arrival.model.max_concurrency, seconds * 1_000)
