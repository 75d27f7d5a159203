"""Why something waits: which limit holds it, its value, its place, and when it may start.

Holds are found where the product itself decides: in PostgreSQL's row and lane, Redis's counts, and what executors and
dispatchers say of themselves. The first one binds; the others would hold it next. Codes are stable, and stand with what
they mean in docs/seeing-what-flows.md.

Longer than other use cases: which limits hold a row depends on how far it has come, and all of it is told in one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from libs.common.domain.errors import NotFound
from libs.common.domain.task import DispatchState, Phase
from libs.common.operations.sight import SILENT_SECONDS, Sight, broker_reachable
from libs.common.ports_insight import (
    Estimate,
    ExecutorSight,
    Hold,
    Insight,
    LaneSight,
    LaneWait,
    ModelWhy,
    Pause,
    Place,
    ProcessSight,
    TaskFacts,
    TaskWhy,
)
from libs.common.runtime.redaction import redact_text

#: An executor that is silent for so long is about to be presumed dead.
_LATE_BEAT_SECONDS: Final = 6.0
_ASK_DOCTOR: Final = " (`sluiceway doctor` says why)"


@dataclass(frozen=True, slots=True)
class _World:
    """Who is there, as one look saw it."""

    lane: LaneSight
    executors: Sequence[ExecutorSight]
    processes: Sequence[ProcessSight]

    @property
    def alive(self) -> list[ExecutorSight]:
        return [executor for executor in self.executors if executor.alive]

    def lives(self, role: str) -> bool:
        return any(process.role == role and process.age < SILENT_SECONDS for process in self.processes)

    @property
    def refusal(self) -> str | None:
        """Why the broker refuses the lane's topic, as a dispatcher that lives was told; None when it does not."""
        lane = self.lane.facts.lane
        living = (process for process in self.processes if process.age < SILENT_SECONDS)
        return next((process.refused[lane] for process in living if lane in process.refused), None)


class Why:
    """Explains. Reads of a tenant stay inside it; `tenant_id` None is for operators."""

    def __init__(self, insight: Insight, sight: Sight) -> None:
        self._insight = insight
        self._sight = sight

    async def task(self, tenant_id: int | None, public_id: UUID) -> TaskWhy:
        """What a task waits for; raises NotFound."""
        facts = await self._insight.task(tenant_id, public_id)
        if facts is None:
            raise NotFound("task_unknown", "there is no such task")
        if facts.state is None:
            return TaskWhy([Hold("ended", f"it has ended: {facts.status.word}{_because(facts)}")], facts)
        lane = await self._sight.lane_by_number(facts.lane)
        if lane is None:
            raise NotFound("task_unknown", "there is no such task")
        world = await self._world(lane)
        place = await self._place(facts)
        holds = [*_holds(facts, world, place), *_deadlines(facts)]
        return TaskWhy(holds, facts, place, _estimate(facts, lane, place, holds))

    async def _place(self, facts: TaskFacts) -> Place | None:
        if facts.state is DispatchState.READY:
            return await self._insight.place(facts)
        if facts.state is DispatchState.IN_FLIGHT and facts.executor is None:
            return await self._insight.place_on_the_road(facts)
        return None

    async def model(self, tenant_id: int, name: str) -> ModelWhy:
        """What holds a tenant's model; raises NotFound."""
        world = await self._world(await self._sight.lane(tenant_id, name))
        facts = world.lane.facts
        waits = [] if facts.in_flight or facts.ready.value else await self._insight.waits(facts.lane)
        return ModelWhy(_lane_holds(world, waits), world.lane)

    async def _world(self, lane: LaneSight) -> _World:
        return _World(lane, await self._sight.executors(), await self._sight.processes())


def _holds(facts: TaskFacts, world: _World, place: Place | None) -> Iterator[Hold]:
    match facts.state:
        case DispatchState.READY:
            yield from _ready(facts, world, place)
        case DispatchState.IN_FLIGHT:
            yield from _started(facts) if facts.executor is not None else _in_flight(facts, world)
        case DispatchState.LATER:
            if facts.phase < Phase.GENERATED:
                yield from _no_adapter(world, facts.job_adapter, facts.job_deadline)
            yield from _later(facts, world)
        case DispatchState.RETRY:
            yield from _retry(facts, world)


def _ready(facts: TaskFacts, world: _World, place: Place | None) -> Iterator[Hold]:
    lane = world.lane.facts
    stopped = list(_stopped(world))
    yield from stopped
    yield from _dispatching(world)
    if lane.in_flight >= lane.window:
        yield _window_full(world)
        yield from _calling(world)
    if place is not None and place.ahead:
        first = f"{_ahead(place)} of {lane.model!r} {'goes' if place == (1, True) else 'go'} first"
        yield Hold("queue", f"{first} (its priority is {facts.priority}, smaller goes first)", value=place.ahead)
    elif lane.in_flight < lane.window and not stopped:
        yield Hold("next_turn", "it is next: the dispatcher's next turn takes it")


def _in_flight(facts: TaskFacts, world: _World) -> Iterator[Hold]:
    """Taken by a turn, not started."""
    if not facts.acknowledged:
        yield from _dispatching(world)
        yield Hold("publishing", "it is on its way to the broker")
        return
    stopped = list(_stopped(world))
    yield from stopped
    if facts.held_by is None:
        yield from _calling(world)
        yield Hold("on_the_road", "it is published, and no executor has taken it in yet")
        return
    holder = next((executor for executor in world.executors if executor.name == facts.held_by), None)
    if holder is None or holder.age > _LATE_BEAT_SECONDS:
        yield _silent(facts.held_by, holder.age if holder else None)
    # What has a job at its provider, or an output, calls nobody: it needs no permit.
    held = list(_permits(world)) if facts.phase is Phase.NONE else []
    yield from held
    if holder is not None and _full(holder):
        yield _executors_full([holder])
    elif not stopped and not held:
        yield Hold("next_turn", f"executor {facts.held_by} holds it and starts it next")


def _started(facts: TaskFacts) -> Iterator[Hold]:
    name = facts.executor
    if facts.executor_age is not None and facts.executor_age > _LATE_BEAT_SECONDS:
        yield _silent(name, facts.executor_age)
    if facts.cancel_requested:
        yield Hold("cancel_requested", f"executor {name} was asked to stop it")
    if facts.phase >= Phase.GENERATED:
        yield Hold("uploading", f"its output is staged, executor {name} uploads it")
    elif facts.job_status is not None:
        yield _provider(facts)
    else:
        yield Hold("running", f"the model works on it, called by executor {name}", until=facts.until)


def _provider(facts: TaskFacts) -> Hold:
    job = f"job {facts.job_id}" if facts.job_id else "a job"
    done = "" if facts.job_progress is None else f", {facts.job_progress:.0f} %"
    return Hold(
        "provider",
        f"the provider has {job}: {facts.job_status}{done}",
        value=facts.job_progress,
        until=facts.job_deadline,
    )


_BUSY: Final = "its model or provider asked to be called later"
#: Why an executor has put a task off without calling its model.
_PUT_OFF: Final = {
    "secret_key_missing": "its model's api_key was sealed by a key that the executor which took it lacks: give every"
    " executor the same SLUICEWAY_SECRET_KEYS (`sluiceway doctor` names the key)",
    "unknown_adapter": "the executor that took it lacks the adapter by which its model is called",
    "staging_full": "the executor that took it had no room in staging for its output",
    "staging_share": "its tenant's outputs have their share of staging: it goes on as they are uploaded or dropped",
    "canceled_before_call": "it was canceled just before its call, and ends within seconds",
    "expired_before_call": "its time was over just before its call, and it ends within seconds",
    "out_of_files": "the executor that took it could open no more files: raise its limit (ulimit -n), or add executors",
    "out_of_ports": "the host of the executor that took it had no port left to call its model from: let the model keep"
    " connections open, widen net.ipv4.ip_local_port_range, or add hosts",
}


def _later(facts: TaskFacts, world: _World) -> Iterator[Hold]:
    if facts.phase >= Phase.GENERATED:
        yield Hold("upload_parked", "its upload failed and is tried again" + _because(facts), until=facts.due_at)
    elif facts.leased_at is None and facts.attempt == 0:
        yield Hold("not_before", "it was asked to start later", until=facts.due_at)
    elif facts.error_code == "publish_refused":
        yield Hold(
            "publish_refused", "the broker refused its message; it is tried again" + _because(facts), until=facts.due_at
        )
    else:
        yield Hold("put_off", _PUT_OFF.get(facts.error_code or "", _BUSY), until=facts.due_at)
    yield from _overdue(world)
    yield from _stopped(world)


def _retry(facts: TaskFacts, world: _World) -> Iterator[Hold]:
    lane, due = world.lane, facts.due_at
    failed = f"attempt {facts.attempt} failed{_because(facts)}; retry {facts.retries} of {facts.retry_times}"
    if due is not None and due > facts.now:
        yield Hold("retry_due_later", failed + " waits for its time", facts.retries, facts.retry_times, due)
    if lane.open is None:
        yield _no_place_known()
    elif lane.open >= lane.facts.queue_limit:
        yield _gate_full(lane)
    elif due is None or due <= facts.now:
        yield Hold("retry_due_later", failed + " is due", facts.retries, facts.retry_times, due)
    yield from _overdue(world)
    yield from _stopped(world)


def _overdue(world: _World) -> Iterator[Hold]:
    if not world.lives("janitor"):
        yield Hold("no_janitor", "no janitor lives that could make anything due", value=0, limit=1)


def _deadlines(facts: TaskFacts) -> Iterator[Hold]:
    """Not what it waits for, but how long it may."""
    if facts.start_by is not None and facts.executor is None and facts.attempt == 0:
        yield Hold("start_by", f"it ends as timeout unless it starts by {_clock(facts.start_by)}", until=facts.start_by)
    if facts.deadline is not None:
        yield Hold(
            "deadline", f"it ends as timeout unless it is done by {_clock(facts.deadline)}", until=facts.deadline
        )


#: What a lane's tasks wait for when they wait for their time.
_WAITS: Final = {
    "upload_parked": "have an output whose upload failed and is tried again",
    "not_before": "were asked to start later",
    "publish_refused": "have a message that the broker refused; it is tried again",
    "put_off": "were put off by their model, their provider, or an executor that could not call them yet",
    "retry_due_later": "failed and wait for their retry",
}


def _lane_holds(world: _World, waits: Sequence[LaneWait]) -> list[Hold]:
    facts = world.lane.facts
    found = [*_stopped(world)]
    if facts.ready.value:
        found += _dispatching(world)
        if facts.in_flight >= facts.window:
            found.append(_window_full(world))
    busy = facts.in_flight or facts.ready.value
    if busy:
        found += _calling(world)
    if world.lane.open is not None and world.lane.open >= facts.queue_limit:
        found.append(_gate_full(world.lane))
    if waits:
        found += [_lane_wait(wait) for wait in waits]
        if world.lane.open is None and any(wait.code == "retry_due_later" for wait in waits):
            found.append(_no_place_known())
        found += _overdue(world)
    if not found:
        found.append(Hold("flowing", "nothing holds it") if busy else Hold("idle", "nothing waits"))
    return found


def _lane_wait(wait: LaneWait) -> Hold:
    number = f"{wait.count.value}{'' if wait.count.exact else '+'}"
    first = f"{number} of its tasks {_WAITS[wait.code]}, the first at {_clock(wait.until)}"
    return Hold(wait.code, first, value=wait.count.value, until=wait.until)


def _stopped(world: _World) -> Iterator[Hold]:
    """What an operator or its owner stopped."""
    if world.lane.facts.closed:
        yield Hold("model_deleted", "its model was deleted: what waits is about to fail")
    for pause in world.lane.pauses:
        yield _pause_hold(pause)


def _pause_hold(pause: Pause) -> Hold:
    what = {
        "all": "all dispatching is paused",
        "tenant": f"tenant {pause.tenant_id} is paused",
        "model": f"model {pause.model!r} is paused",
    }[pause.scope]
    reason = f": {pause.reason}" if pause.reason else ""
    return Hold(f"{pause.scope}_paused", f"{what} since {_clock(pause.since)}{reason}")


def _dispatching(world: _World) -> Iterator[Hold]:
    if not world.lives("dispatcher"):
        yield Hold("no_dispatcher", "no dispatcher lives that could publish it", value=0, limit=1)
    elif broker_reachable(world.processes) is False:
        yield _broker_unreachable(world)
    elif world.refusal is not None:
        yield _topic_unusable(world, world.refusal)


def _topic_unusable(world: _World, cause: str) -> Hold:
    return Hold(
        "topic_unusable",
        f"the broker refuses the topic of {world.lane.facts.model!r}: {redact_text(cause)}; let the dispatchers create"
        " topics, make it by hand (`sluiceway topics` names it), or set SLUICEWAY_TOPIC_REPLICATION to what the brokers"
        " can keep",
    )


def _broker_unreachable(world: _World) -> Hold:
    said = [process.last_error for process in world.processes if process.role == "dispatcher" and process.last_error]
    because = f": {redact_text(said[-1])}" if said else ""
    return Hold("broker_unreachable", f"the dispatchers do not reach the broker{because}")


def _calling(world: _World) -> Iterator[Hold]:
    """What keeps executors from calling the model."""
    alive = world.alive
    if not alive:
        yield Hold("no_executor", "no executor lives that could run it", value=0, limit=1)
        return
    yield from _no_adapter(world)
    reading = [executor for executor in alive if executor.reading]
    held = list(_permits(world))
    if not reading:
        nobody = _nobody_reads(alive)
        if all(hold.code != nobody.code for hold in held):
            yield nobody
    elif world.lane.facts.held and not held and all(map(_full, reading)):
        yield _executors_full(reading)
    yield from held


def _no_adapter(world: _World, adapter: str | None = None, until: datetime | None = None) -> Iterator[Hold]:
    """Nobody can call the model, or ask its provider about the job that is open, which ends by its deadline."""
    wanted, alive = adapter or world.lane.facts.adapter, world.alive
    if alive and not any(wanted in executor.adapters for executor in alive):
        yield Hold("no_adapter", f"no executor that lives has the adapter {wanted!r}", 0, len(alive), until)


def _nobody_reads(alive: Sequence[ExecutorSight]) -> Hold:
    postures = {executor.posture for executor in alive}
    if "staging_full" in postures:
        return Hold("staging_full", "the staging of every executor that could read is full: outputs cannot leave")
    if "out_of_files" in postures:
        return Hold("out_of_files", "executors may open no more files: raise their limit (ulimit -n), or add executors")
    if "crowded" in postures:
        return _executors_full(alive)
    if "redis_unreachable" in postures:
        return Hold("redis_unreachable", "Redis answers no executor; nothing starts without a permit")
    if postures <= {"draining", "stopping"}:
        return Hold("executors_draining", "every executor is draining or stopping", value=0, limit=len(alive))
    if "hangs" in postures:
        what = "no executor reads: the broker does not answer them (`sluiceway doctor` asks it, their logs say more)"
        return Hold("no_executor", what, value=0, limit=len(alive))
    return Hold("no_executor", "no executor reads at the moment", value=0, limit=len(alive))


def _full(executor: ExecutorSight) -> bool:
    """Whether it has no slot for who waits. Nearly full is full: the last slots are kept for tenants that run little,
    and some are always between two calls."""
    return executor.running * 10 >= executor.slots * 9


def _executors_full(executors: Sequence[ExecutorSight]) -> Hold:
    running, slots = sum(one.running for one in executors), sum(one.slots for one in executors)
    return Hold("executors_full", f"the executors run {running} of {slots} calls", running, slots)


def _permits(world: _World) -> Iterator[Hold]:
    lane = world.lane
    if lane.permits is None:
        what = "Redis does not say how many permits are free; nothing starts without one"
        yield Hold("redis_unreachable", what + _ASK_DOCTOR)
    elif lane.permits >= lane.facts.max_concurrency:
        yield Hold(
            "no_permit",
            f"{lane.permits} of {lane.facts.max_concurrency} calls of {lane.facts.model!r} run (max_concurrency)",
            lane.permits,
            lane.facts.max_concurrency,
        )


def _window_full(world: _World) -> Hold:
    facts = world.lane.facts
    return Hold(
        "window_full",
        f"{facts.in_flight} of {facts.window} tasks of {facts.model!r} are published or run",
        facts.in_flight,
        facts.window,
    )


def _gate_full(lane: LaneSight) -> Hold:
    return Hold(
        "gate_full",
        f"{lane.open} of {lane.facts.queue_limit} places in the queue of {lane.facts.model!r} are taken (queue_limit)",
        lane.open,
        lane.facts.queue_limit,
    )


def _no_place_known() -> Hold:
    what = "Redis does not say how full the model's queue is; no retry begins without a place"
    return Hold("redis_unreachable", what + _ASK_DOCTOR)


def _silent(name: str | None, age: float | None) -> Hold:
    since = "has stopped" if age is None else f"is silent for {age:.0f} s"
    return Hold("executor_silent", f"executor {name} {since}; after 10 s its work goes to others", age, 10.0)


def _because(facts: TaskFacts) -> str:
    return f" ({facts.error_code}: {redact_text(facts.error_message or '')[:200]})" if facts.error_code else ""


def _ahead(place: Place) -> str:
    if not place.exact:
        return f"more than {place.ahead} tasks"
    return f"{place.ahead} task{'' if place.ahead == 1 else 's'}"


def _clock(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


#: How long these last the lane's pace tells, or they hold nothing; nobody can tell how long the others do.
_PACED: Final = frozenset(
    ("window_full", "no_permit", "queue", "next_turn", "publishing", "on_the_road", "start_by", "deadline")
)


def _estimate(facts: TaskFacts, lane: LaneSight, place: Place | None, holds: Sequence[Hold]) -> Estimate | None:
    """By the lane's pace of the last minutes; none where something else decides, or nothing has ended lately."""
    pace = lane.starts_per_second
    if not pace or any(hold.code not in _PACED for hold in holds):
        return None
    if place is not None and not place.exact:
        return None
    before = place.ahead if place is not None else 0
    if facts.state is not DispatchState.IN_FLIGHT:  # before what is not published goes all that is
        before += max(0, lane.facts.in_flight - lane.facts.running)
    seconds = before / pace
    return Estimate(seconds, facts.now + timedelta(seconds=seconds), pace)
