"""What operators look at: overview, executors, lanes, outbox. Cheap enough for every second, whatever is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from libs.common.domain.count import Count
from libs.common.domain.errors import GateUnavailable, NotFound
from libs.common.operations.by_lane import counted_by_lane
from libs.common.operations.shared import Shared
from libs.common.ports import Permits, QueueGate
from libs.common.ports_insight import (
    ExecutorSight,
    Insight,
    LaneFacts,
    LaneSight,
    OutboxSight,
    Overview,
    Pause,
    ProcessSight,
)

#: A dispatcher or janitor that has said nothing for so long is not counted as alive.
SILENT_SECONDS: Final = 10.0
#: Lanes that are ranked by what they have to do.
_BUSIEST: Final = 100


class Sight:
    """Looks at the stores. Numbers of everything are read once a second at most, however many watch."""

    def __init__(self, insight: Insight, gate: QueueGate, permits: Permits) -> None:
        self._insight = insight
        self._gate = gate
        self._permits = permits
        self._overview = Shared(self._look)
        self._executors = Shared(insight.executors)
        self._processes = Shared(insight.processes)
        self._outbox = Shared(insight.outbox)

    async def overview(self) -> Overview:
        """The numbers of everything. Raises DatabaseUnavailable."""
        return await self._overview.get()

    async def executors(self) -> Sequence[ExecutorSight]:
        """Executors that have not stopped."""
        return await self._executors.get()

    async def processes(self) -> Sequence[ProcessSight]:
        """Dispatchers and janitors of the last day."""
        return await self._processes.get()

    async def outbox(self) -> Sequence[OutboxSight]:
        """What has to leave, by channel."""
        return await self._outbox.get()

    async def pauses(self, tenant_id: int | None) -> Sequence[Pause]:
        """What is paused now; of a tenant: its own pauses and those of all."""
        return await self._insight.pauses(tenant_id)

    async def lanes(
        self, tenant_id: int | None, *, after: int = 0, limit: int = 100, busy: bool = True
    ) -> tuple[list[LaneSight], int | None]:
        """A page of lanes, and the number after which the next one begins."""
        facts, following = await self._insight.lanes(tenant_id, after, limit, busy=busy)
        return await self._sights(facts, await self._insight.pauses(tenant_id)), following

    async def busiest(self, tenant_id: int | None) -> tuple[list[LaneSight], bool]:
        """Lanes with work, those where most waits first, and whether they are only some of very many. Of all tenants'
        lanes, those where most waits are among them for sure."""
        lanes, following = await self.lanes(tenant_id, limit=_BUSIEST, busy=True)
        if following is not None and tenant_id is None:
            backlogs = await self._insight.backlogs()
            opened = await _asked(self._gate.depths, [lane.lane for lane in backlogs])
            ranked = sorted(
                zip(backlogs, opened, strict=True),
                key=lambda one: ((one[1] or 0) - one[0].elsewhere, one[0].oldest_seconds),
                reverse=True,
            )
            facts = await self._insight.lanes_by_number([backlog.lane for backlog, _ in ranked[:_BUSIEST]])
            lanes = await self._sights(facts, await self._insight.pauses(None))
        lanes.sort(key=lambda lane: (lane.waiting.value, lane.facts.in_flight), reverse=True)
        return lanes, following is not None

    async def lane(self, tenant_id: int, model: str) -> LaneSight:
        """The lane of a tenant's model; raises NotFound."""
        lane = await self._insight.lane_of(tenant_id, model) if "\x00" not in model else None
        sight = await self.lane_by_number(lane) if lane is not None else None
        if sight is None:
            raise NotFound("model_unknown", f"there is no model named {model!r}")
        return sight

    async def lane_by_number(self, lane: int) -> LaneSight | None:
        """A lane, of a deleted model too, with its pace even if no minute of it is folded yet."""
        facts = await self._insight.lane(lane)
        if facts is None:
            return None
        (sight,) = await self._sights([facts], await self._insight.pauses(facts.tenant_id))
        if sight.starts_per_second:
            return sight
        return replace(sight, starts_per_second=await self._insight.recent_pace(lane))

    async def _sights(self, facts: Sequence[LaneFacts], pauses: Sequence[Pause]) -> list[LaneSight]:
        lanes = [lane.lane for lane in facts]
        opened = await _asked(self._gate.depths, lanes)
        permits = await _asked(self._permits.in_use, lanes)
        return [
            _sight(lane, [pause for pause in pauses if _covers(pause, lane)], open_, used)
            for lane, open_, used in zip(facts, opened, permits, strict=True)
        ]

    async def _look(self) -> Overview:
        counts = await self._insight.counts()
        backlogs = await self._insight.backlogs()
        opened = await _asked(self._gate.depths, [lane.lane for lane in backlogs])
        executors = await self._executors.get()
        alive = [executor for executor in executors if executor.alive]
        processes = [process for process in await self._processes.get() if process.age < SILENT_SECONDS]
        dispatchers = [process for process in processes if process.role == "dispatcher"]
        answered = [process for process in dispatchers if process.broker_reachable]
        ready = counts.ready
        if not ready.exact:
            waiting = [
                max(0, held - lane.elsewhere) for held, lane in zip(opened, backlogs, strict=True) if held is not None
            ]
            ready = Count(max(ready.value, sum(waiting)), exact=len(waiting) == len(opened))
        return Overview(
            at=counts.now,
            ready=ready,
            in_flight=counts.in_flight,
            running=sum(executor.running for executor in alive),
            held=sum(executor.held for executor in alive),
            later=counts.later,
            retrying=counts.retrying,
            dead=counts.dead,
            events=counts.events,
            oldest_event_seconds=counts.oldest_event_seconds,
            oldest_ready_seconds=max((lane.oldest_seconds for lane in backlogs), default=0.0),
            lanes_with_work=len(backlogs),
            executors=len(alive),
            executors_reading=sum(executor.reading for executor in alive),
            slots=sum(executor.slots for executor in alive),
            dispatchers=len(dispatchers),
            janitors=len(processes) - len(dispatchers),
            broker_reachable=broker_reachable(processes),
            topics_refused=len({lane for process in answered for lane in process.refused}),
            events_refused=next((process.events_refused for process in answered if process.events_refused), ""),
            pauses=await self._insight.pauses(None),
        )


def broker_reachable(processes: Sequence[ProcessSight]) -> bool | None:
    """Whether any dispatcher that lives reaches the broker; None when none lives that has tried."""
    alive = [process for process in processes if process.role == "dispatcher" and process.age < SILENT_SECONDS]
    said = [process.broker_reachable for process in alive if process.broker_reachable is not None]
    return any(said) if said else None


def _sight(facts: LaneFacts, pauses: Sequence[Pause], open_: int | None, permits: int | None) -> LaneSight:
    waiting = facts.ready
    if not waiting.exact and open_ is not None and facts.later.exact:
        waiting = Count(max(waiting.value, open_ - facts.in_flight - facts.later.value))
    pace = facts.ended / facts.ended_seconds if facts.ended_seconds and facts.ended else None
    return LaneSight(
        facts=facts,
        pauses=pauses,
        waiting=waiting,
        open=open_,
        permits=permits,
        starts_per_second=pace,
        error_rate=facts.errors / facts.ended if facts.ended else None,
    )


def _covers(pause: Pause, lane: LaneFacts) -> bool:
    match pause.scope:
        case "all":
            return True
        case "tenant":
            return pause.tenant_id == lane.tenant_id
        case "model":
            return pause.lane == lane.lane
        case "webhook":
            return False  # it holds what is told of ends, and no task


async def _asked(
    count: Callable[[Sequence[int]], Awaitable[Sequence[int]]], lanes: Sequence[int]
) -> Sequence[int | None]:
    """What Redis counts for each lane; None of those that it cannot answer for, and of each while it is away."""
    try:
        return await counted_by_lane(count, lanes)
    except GateUnavailable:
        return [None] * len(lanes)
