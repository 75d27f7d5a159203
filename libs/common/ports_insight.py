"""What operators are told of what flows and waits, and what the stores answer for it.

Facts are what a store says; sights and explanations are what the faces show (libs/common/operations: sight.py, why.py,
series.py, control.py make them). `tenant_id` None means all tenants: only operators may ask so.

Longer than other ports: every face shows these values side by side, and most of the lines are their fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from libs.common.domain.count import Count
from libs.common.domain.task import DispatchState, Phase, TaskStatus
from libs.common.ports_attempts import Posture

#: What can be paused: all dispatching, a tenant, a tenant's model; or what is sent to a webhook.
PauseScope: TypeAlias = Literal["all", "tenant", "model", "webhook"]
Role: TypeAlias = Literal["dispatcher", "janitor"]


class Place(NamedTuple):
    """How many tasks of the lane go first; counted up to 1,000."""

    ahead: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Pause:
    """Something is paused: nothing of it starts, what runs goes on."""

    scope: PauseScope
    tenant_id: int | None
    lane: int | None
    model: str | None
    webhook: int | None
    since: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """What an operator did; kept for ever."""

    id: int
    at: datetime
    by: str
    action: str  #: pause, resume, drain, undrain, create_key, revoke_key
    tenant_id: int | None
    subject: str  #: what it was done to, in words
    reason: str


@dataclass(frozen=True, slots=True)
class ProcessSight:
    """A dispatcher or janitor process; `age` of its last sign in seconds. Silent ones are told for a day."""

    role: Role
    name: str
    version: str
    started_at: datetime
    age: float
    broker_reachable: bool | None  #: of dispatchers that have tried
    last_error: str
    refused: Mapping[int, str]  #: lanes whose topics the broker refuses it, and why
    events_refused: str  #: why the broker refuses it the topic of events; empty when it does not


@dataclass(frozen=True, slots=True)
class ExecutorSight:
    """An executor that has not stopped; `age` of its last heartbeat in seconds."""

    id: int
    name: str
    version: str
    started_at: datetime
    age: float
    posture: Posture
    slots: int
    running: int
    held: int
    stores: Sequence[str]
    adapters: Sequence[str]  #: by which it can call models
    draining: bool
    models: Sequence[tuple[str, int]]  #: (model, tasks started or held here), the most first, at most 20

    @property
    def alive(self) -> bool:
        """Whether it would be believed to work: presumed dead after 10 s of silence."""
        return self.age < 10.0

    @property
    def reading(self) -> bool:
        """Whether it takes new work."""
        return self.alive and self.posture == "reading"


@dataclass(frozen=True, slots=True)
class LaneFacts:
    """A lane as PostgreSQL knows it; counts go up to a limit."""

    lane: int
    tenant_id: int
    model_id: int
    model: str
    adapter: str
    enabled: bool
    closed: bool
    window: int
    max_concurrency: int
    queue_limit: int
    in_flight: int
    running: int  #: of those in flight: started
    held: int  #: of those in flight: with an executor, without a permit
    ready: Count
    later: Count
    oldest_seconds: float | None  #: how long the next row has waited; None when nothing is ready
    ended: int  #: attempts that ended in the last minutes; none is counted that ended ten minutes ago
    errors: int  #: of those: failed, timed out, lost
    ended_seconds: float  #: over how many seconds they were counted; 0 when nothing is known yet
    now: datetime


@dataclass(frozen=True, slots=True)
class LaneWait:
    """Tasks of a lane that wait for their time."""

    code: str  #: of `why`: what they wait for
    count: Count
    until: datetime  #: the first of them; in the past: it is due


@dataclass(frozen=True, slots=True)
class LaneSight:
    """A lane as operators see it. What Redis counts is None while it is away."""

    facts: LaneFacts
    pauses: Sequence[Pause]
    waiting: Count  #: ready rows: exact while Redis is there to say how many tasks are open
    open: int | None  #: gate slots taken: open tasks but those that wait for a retry
    permits: int | None  #: calls that run
    starts_per_second: float | None
    error_rate: float | None  #: share of the attempts that ended lately; None when none did, or nobody knows


@dataclass(frozen=True, slots=True)
class OutboxSight:
    """What has to leave by one channel. `age` of the oldest in seconds."""

    channel: str  #: dispatch, event, webhook
    waiting: Count
    age: float
    retrying: Count  #: of those: refused before, each due again in its time
    dead: Count
    held: Count  #: webhooks that an operator paused; none of other channels
    last_error: str


@dataclass(frozen=True, slots=True)
class OverviewCounts:
    """The numbers of everything that PostgreSQL keeps, each counted up to a limit."""

    now: datetime
    ready: Count
    in_flight: Count
    later: Count
    retrying: Count
    dead: Count
    events: Count
    oldest_event_seconds: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a lane: its gate's slots less `elsewhere` (in flight, or later)."""

    lane: int
    model_id: int
    oldest_seconds: float
    elsewhere: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Numbers cheap enough for every second, however much is stored."""

    at: datetime
    ready: Count  #: wait in PostgreSQL for room in their lanes' windows; exact while Redis is there
    in_flight: Count  #: published, held or running
    running: int  #: attempts that run, by the executors' heartbeats
    held: int  #: wait with executors for a permit
    later: Count  #: drafts, parked uploads, refused by the broker
    retrying: Count  #: failed, wait for their retry
    dead: Count
    events: Count
    oldest_event_seconds: float
    oldest_ready_seconds: float
    lanes_with_work: int
    executors: int  #: alive
    executors_reading: int
    slots: int
    dispatchers: int  #: alive
    janitors: int
    broker_reachable: bool | None  #: None while no dispatcher is alive that has tried
    topics_refused: int  #: models whose topics a broker that answers refuses
    events_refused: str  #: why it refuses the topic of events; empty when it does not
    pauses: Sequence[Pause]


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """All that decides what a task waits for, read at one moment."""

    public_id: UUID
    lane: int
    model: str
    status: TaskStatus
    now: datetime
    state: DispatchState | None  #: None when it has ended
    phase: Phase
    klass: int
    priority: int
    weight: int  #: its tenant's share of starts
    position: int
    attempt: int
    retries: int
    retry_times: int
    leased_at: datetime | None
    due_at: datetime | None
    until: datetime | None
    start_by: datetime | None
    deadline: datetime | None
    lease: int | None  #: of the turn that published it
    acknowledged: bool  #: the broker has its message
    held_by: str | None  #: executor that holds it
    executor: str | None  #: executor that runs it
    executor_age: float | None
    cancel_requested: bool
    job_status: str | None
    job_id: str | None
    job_progress: float | None
    job_deadline: datetime | None
    job_adapter: str | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason why something waits. `code` is stable; `value` and `limit` are those of the limit that it names."""

    code: str
    message: str
    value: float | None = None
    limit: float | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """When it starts, if its lane goes on as in the last minutes."""

    seconds: float
    at: datetime
    starts_per_second: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why something waits: the first hold is the one that binds."""

    holds: Sequence[Hold]

    @property
    def code(self) -> str:
        """The binding hold's code."""
        return self.holds[0].code

    @property
    def message(self) -> str:
        """The binding hold in words."""
        return self.holds[0].message


@dataclass(frozen=True, slots=True)
class TaskWhy(Explanation):
    """What a task waits for."""

    facts: TaskFacts
    place: Place | None = None
    estimate: Estimate | None = None


@dataclass(frozen=True, slots=True)
class ModelWhy(Explanation):
    """What holds a model's tasks, and its limits with what is used of them."""

    lane: LaneSight


@dataclass(frozen=True, slots=True)
class SeriesWanted:
    """Whose series: one model's (tenant and model), a tenant's, or everything's (neither)."""

    since: datetime
    until: datetime
    step_seconds: int
    tenant_id: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In seconds, within 10 % of the true ones; None when there is nothing to take them from."""

    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """A step of a series: attempts that ended in it, by outcome, and the backlog as last seen in it."""

    at: datetime
    success: int
    failed: int
    timeout: int
    canceled: int
    lost: int
    wait: Percentiles
    run: Percentiles
    backlog: int | None  #: None where nobody looked
    oldest_seconds: float | None

    @property
    def ended(self) -> int:
        """Attempts that ended."""
        return self.success + self.failed + self.timeout + self.canceled + self.lost

    @property
    def error_rate(self) -> float | None:
        """Share of failed, timed out and lost ones; None when none ended."""
        return (self.failed + self.timeout + self.lost) / self.ended if self.ended else None


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A stored minute or hour. Histograms are (bucket, how many); domain/buckets.py says what a bucket is."""

    at: datetime
    success: int
    failed: int
    timeout: int
    canceled: int
    lost: int
    waits: Sequence[tuple[int, int]]
    runs: Sequence[tuple[int, int]]
    backlog: int | None
    oldest_seconds: float | None


class Insight(Protocol):
    """PostgreSQL, asked by operators. Nothing here costs by how much is stored. Raises DatabaseUnavailable."""

    async def task(self, tenant_id: int | None, public_id: UUID) -> TaskFacts | None:
        """One task with all that decides what it waits for."""

    async def place(self, task: TaskFacts) -> Place:
        """How many ready rows of its lane go first."""

    async def place_on_the_road(self, task: TaskFacts) -> Place:
        """How many published rows of its lane that nobody has started go before this one, which is published too."""

    async def lane_of(self, tenant_id: int, model: str) -> int | None:
        """The lane of a tenant's model by its name."""

    async def lane_once(self, tenant_id: int, model: str) -> int | None:
        """The same; where there is no such model any more, the lane of the last that had the name."""

    async def lanes(
        self, tenant_id: int | None, after: int, limit: int, *, busy: bool
    ) -> tuple[list[LaneFacts], int | None]:
        """Lanes in the order of their numbers, those with something ready or in flight only if `busy`, and where the
        next page begins."""

    async def lane(self, lane: int) -> LaneFacts | None:
        """One lane by number, counted further than lists count."""

    async def lanes_by_number(self, lanes: Sequence[int]) -> list[LaneFacts]:
        """These lanes, in the order of their numbers."""

    async def waits(self, lane: int) -> list[LaneWait]:
        """What of a lane waits for its time, the one that is due first before others."""

    async def recent_pace(self, lane: int) -> float | None:
        """Starts per second by the last ends of everything, for lanes whose minutes are not folded yet."""

    async def backlogs(self) -> list[Backlog]:
        """Lanes with something ready. Costs by such lanes, not by how much waits."""

    async def pauses(self, tenant_id: int | None) -> list[Pause]:
        """What is paused now; of a tenant: its own pauses and those of all."""

    async def executors(self) -> list[ExecutorSight]:
        """Those that have not stopped."""

    async def processes(self) -> list[ProcessSight]:
        """Dispatchers and janitors of the last day."""

    async def outbox(self) -> list[OutboxSight]:
        """What has to leave, by channel."""

    async def counts(self) -> OverviewCounts:
        """The numbers of everything."""

    async def series(self, wanted: SeriesWanted, lane: int | None, *, hourly: bool) -> list[SeriesRow]:
        """Stored minutes, or hours and the minutes that no hour has yet, from `since` to before `until`, in order."""


class SeriesStore(Protocol):
    """Where ended attempts become minutes and hours for plots. Safe on several janitors at once."""

    async def backlogs(self) -> list[Backlog]:
        """Lanes with something ready."""

    async def begin(self) -> None:
        """Fold from the first attempt on, if nothing was folded yet."""

    async def settled(self) -> datetime | None:
        """Up to when nothing can end any more, if whole minutes before it are not folded yet. Ask before folding."""

    async def fold_minutes(self, settled: datetime, most: int, backlog: Sequence[tuple[Backlog, int | None]]) -> bool:
        """Fold whole minutes that are settled, so many at most; the backlog (with what waits, None while nobody can
        say) belongs to the last. False when there was nothing to do, or another janitor does it."""

    async def fold_hour(self) -> bool:
        """Fold the next hour whose minutes are all there; False when there is none."""

    async def prune(self, hours: int, days: int, limit: int) -> int:
        """Forget minutes so many hours old, and hours so many days old; returns how many rows went."""


class Broker(NamedTuple):
    """What a process knows of the broker."""

    reachable: bool | None  #: None before it has tried
    last_error: str
    refused: Mapping[int, str]  #: lanes whose topics it refuses, and why
    events_refused: str  #: why it refuses the topic of events; empty when it does not


#: Of a process that has nothing to do with it.
NO_BROKER: Final = Broker(None, "", {}, "")


class Presence(Protocol):
    """Processes that say that they live."""

    async def beat(self, number: int | None, role: Role, name: str, version: str, broker: Broker) -> int:
        """I live, and this I know of the broker; returns my number, a new one at first and when I was forgotten."""

    async def leave(self, number: int) -> None:
        """A clean stop."""


class Control(Protocol):
    """What operators change. Every change is written together with its record, or is no change and leaves none."""

    async def pause(self, scope: PauseScope, subject: int | None, by: str, reason: str) -> bool | None:
        """Nothing of it starts from now on: of everything (no subject), a tenant or a lane; nothing more is sent to a
        webhook. False when that was so already, None when there is no such thing.
        """

    async def resume(self, scope: PauseScope, subject: int | None, by: str, reason: str) -> bool | None:
        """It goes on; False when it was not paused, None when there is no such thing."""

    async def drain(self, name: str, on: bool, by: str, reason: str) -> list[bool]:
        """Ask executors of that name to finish and leave, or to stay after all; of each, whether that was news."""

    async def actions(self, before: int | None, limit: int) -> tuple[list[ActionRecord], int | None]:
        """What operators did, newest first."""
