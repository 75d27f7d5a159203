"""What operators send and get on /v1, as pydantic models."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from libs.common.operations.control import REASON_LIMIT
from libs.common.operations.quota import USER_LIMIT
from libs.common.ports_attempts import Posture
from services.api.schemas import NAME_LIMIT, PAGE_USUAL, Cursor, Instant, Limit, Query, TenantId, Text
from services.api.schemas_out import StatusWord

OfTenant = Field(None, description="Of this tenant; operators alone may name another than their own.")


class ReasonIn(BaseModel):
    """Why an operator does it; recorded."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    reason: Text = Field("", max_length=REASON_LIMIT, description="Shown wherever it holds something.")


class TenantQuery(Query):
    """Whose model it is."""

    tenant: TenantId | None = OfTenant


class UserQuery(TenantQuery):
    """Whose account is read."""

    user: Text | None = Field(None, max_length=USER_LIMIT, description="Another user than the caller: needs `admin`.")


class LimitQuery(TenantQuery):
    """Which page of whose users' limits."""

    limit: Limit = PAGE_USUAL
    cursor: str | None = Field(None, description="next_cursor of the page before.", max_length=2_000)


class WebhookQuery(Query):
    """Which page of the webhooks."""

    tenant: TenantId | None = Field(None, description="Of this tenant; operators see all without it.")
    failing: bool = Field(False, description="Only those that fail or were switched off.")
    limit: Limit = PAGE_USUAL
    cursor: Cursor = None


class LaneQuery(Query):
    """What a list of lanes is narrowed to."""

    tenant: TenantId | None = Field(None, description="Of this tenant; operators see all without it.")
    busy: bool = Field(True, description="Only lanes with something ready or in flight.")
    limit: int = Field(PAGE_USUAL, ge=1, le=200)
    cursor: Cursor = None


class SeriesQuery(Query):
    """Whose series, and which part of it."""

    model_config = ConfigDict(populate_by_name=True)

    tenant: TenantId | None = Field(None, description="Of this tenant; operators see everything's without it.")
    model: Text | None = Field(None, max_length=NAME_LIMIT, description="Of this model of the tenant.")
    since: Instant | None = Field(None, alias="from", description="An hour ago if left out.")
    until: Instant | None = Field(None, alias="to", description="Now if left out.")
    step: int = Field(60, ge=60, le=86_400, description="Seconds; whole minutes, or whole hours from an hour on.")


class CountOut(BaseModel):
    """A number, counted up to a limit."""

    value: int
    exact: bool = Field(description="false: there are more.")


class UsedOut(BaseModel):
    """How much of a limit is used."""

    used: int | None = Field(description="null while Redis does not say.")
    limit: int


class HoldOut(BaseModel):
    """One reason why something waits."""

    code: str = Field(description="Stable, for programs.")
    message: str
    value: float | None
    limit: float | None
    until: datetime | None


class PositionOut(BaseModel):
    """How many tasks of the model go first; counted up to 1,000."""

    ahead: int
    exact: bool


class EstimateOut(BaseModel):
    """When it starts, if the model goes on as in the last minutes."""

    seconds: float
    at: datetime
    starts_per_second: float


class TaskWhyOut(BaseModel):
    """What a task waits for. The first hold binds, and its code and message stand above."""

    task_id: str
    model: str
    status: StatusWord
    priority: int = Field(description="Smaller goes first, inside one model's queue.")
    weight: int = Field(description="Of its tenant: as many starts for each one of a tenant of weight 1.")
    code: str
    message: str
    holds: list[HoldOut]
    position: PositionOut | None
    estimate: EstimateOut | None
    at: datetime


class PauseOut(BaseModel):
    """Something is paused."""

    scope: Literal["all", "tenant", "model", "webhook"] = Field(description="webhook: no task is held by it.")
    tenant_id: str | None
    model: str | None
    webhook_id: str | None
    since: datetime
    by: str | None = Field(description="Told to operators alone.")
    reason: str


class LaneOut(BaseModel):
    """A tenant's model, as the queue sees it."""

    tenant_id: str
    model: str
    model_id: str
    enabled: bool
    deleted: bool
    window: UsedOut = Field(description="Tasks that are published, held or run.")
    permits: UsedOut = Field(description="Calls that run.")
    gate: UsedOut = Field(description="Places in the queue: tasks that wait or run.")
    waiting: CountOut
    running: int
    held: int
    later: CountOut
    oldest_seconds: float | None
    starts_per_second: float | None = Field(description="Over the last five folded minutes.")
    error_rate: float | None
    pauses: list[PauseOut]


class LanePage(BaseModel):
    """Lanes in the order of their creation."""

    items: list[LaneOut]
    next_cursor: str | None


class ModelWhyOut(BaseModel):
    """What holds a model's tasks, and its limits."""

    model: str
    code: str
    message: str
    holds: list[HoldOut]
    lane: LaneOut
    at: datetime


class OverviewOut(BaseModel):
    """The numbers of everything."""

    at: datetime
    ready: CountOut
    in_flight: CountOut
    later: CountOut
    retrying: CountOut
    dead: CountOut
    events: CountOut
    running: int
    held: int
    oldest_ready_seconds: float
    oldest_event_seconds: float
    lanes_with_work: int
    executors: int
    executors_reading: int
    slots: int
    dispatchers: int
    janitors: int
    broker_reachable: bool | None
    topics_refused: int = Field(description="Models whose topics the broker refuses; `why` of each says why.")
    events_refused: str = Field(description="Why the broker refuses the topic of events; empty when it does not.")
    pauses: list[PauseOut]


class ExecutorModelOut(BaseModel):
    """A model that an executor works on."""

    model: str
    tasks: int


class ExecutorOut(BaseModel):
    """An executor that has not stopped."""

    name: str
    version: str
    started_at: datetime
    heartbeat_age_seconds: float
    alive: bool
    posture: Posture
    reading: bool
    draining: bool
    slots: int
    running: int
    held: int
    stores: list[str]
    adapters: list[str] = Field(description="By which it can call models.")
    models: list[ExecutorModelOut]


class ExecutorItems(BaseModel):
    """Executors, the oldest first."""

    items: list[ExecutorOut]


class ProcessOut(BaseModel):
    """A dispatcher or janitor; silent ones are told for a day."""

    role: Literal["dispatcher", "janitor"]
    name: str
    version: str
    started_at: datetime
    age_seconds: float
    broker_reachable: bool | None
    last_error: str
    topics_refused: int = Field(description="Models whose topics the broker refuses it; `why` of each says why.")
    events_refused: str = Field(description="Why the broker refuses it the topic of events; empty when it does not.")


class ProcessItems(BaseModel):
    """Dispatchers and janitors."""

    items: list[ProcessOut]


class OutboxOut(BaseModel):
    """What has to leave by one channel."""

    channel: str
    waiting: CountOut
    oldest_seconds: float
    retrying: CountOut
    dead: CountOut
    held: CountOut = Field(description="Webhooks that an operator paused; none of other channels.")
    last_error: str


class OutboxItems(BaseModel):
    """Every channel."""

    items: list[OutboxOut]


class PauseItems(BaseModel):
    """What is paused, the oldest first."""

    items: list[PauseOut]


class PercentilesOut(BaseModel):
    """Seconds, within 10 % of the true ones."""

    p50: float | None
    p90: float | None
    p99: float | None


class PointOut(BaseModel):
    """Attempts that ended in a step, and the most backlog seen in it."""

    at: datetime
    success: int
    failed: int
    timeout: int
    canceled: int
    lost: int
    error_rate: float | None
    wait_seconds: PercentilesOut
    run_seconds: PercentilesOut
    backlog: int | None
    oldest_seconds: float | None


class SeriesOut(BaseModel):
    """Oldest first; steps in which nobody looked are left out."""

    step_seconds: int
    points: list[PointOut]


class ActionOut(BaseModel):
    """What an operator did."""

    id: str
    at: datetime
    by: str
    action: str
    tenant_id: str | None
    subject: str
    reason: str


class ActionPage(BaseModel):
    """Newest first."""

    items: list[ActionOut]
    next_cursor: str | None


class VerdictOut(BaseModel):
    """What came of an order."""

    verdict: Literal[
        "paused",
        "already_paused",
        "resumed",
        "not_paused",
        "draining",
        "already_draining",
        "staying",
        "not_draining",
    ]
