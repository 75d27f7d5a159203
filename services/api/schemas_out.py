"""What callers of /v1 get, as pydantic models: they describe answers in the OpenAPI document and check none."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

StatusWord = Literal[
    "draft", "submitted", "queued", "processing", "generated", "migrating", "success", "failed", "timeout", "canceled"
]


class ModelOut(BaseModel):
    """A model as its tenant sees it."""

    id: str
    name: str
    base_url: str
    route: str
    http_method: Literal["GET", "POST"]
    api_key: Literal["", "********"] = Field(description="A mask; sending it back changes nothing.")
    enabled: bool
    max_concurrency: int
    queue_limit: int
    timeout_seconds: int
    expected_seconds: int
    retry_times: int
    retry_queue_max_seconds: int
    auto_clean_seconds: int
    adapter: str
    adapter_config: dict[str, Any]
    poll_seconds: int
    job_timeout_seconds: int
    price: int
    remark: str
    version: int = Field(description="Grows with every change; also the ETag.")


class ModelPage(BaseModel):
    """Models, newest first."""

    items: list[ModelOut]
    next_cursor: str | None


class FileOut(BaseModel):
    """A file of a result."""

    url: str
    type: str
    size: int
    sha256: str
    name: str
    index: int = Field(description="Its place among the files, from 0; `/v1/tasks/{id}/result/{index}` is its content.")


class ResultOut(BaseModel):
    """What a success produced; the first file's address, type and size, and all files."""

    url: str
    type: str
    size: int
    files: list[FileOut]


class ErrorOut(BaseModel):
    """Why the last attempt failed."""

    code: str
    message: str


class TimesOut(BaseModel):
    """Instants in UTC; null while they have not come."""

    created_at: datetime
    not_before: datetime | None
    start_by: datetime | None = Field(description="It must have started by then.")
    deadline: datetime | None = Field(description="It must be done by then.")
    due_at: datetime | None = Field(description="When it goes on by itself: a draft's start, a failed attempt's retry.")
    started_at: datetime | None
    generated_at: datetime | None
    finished_at: datetime | None
    fetched_at: datetime | None
    expire_at: datetime | None


class TaskOut(BaseModel):
    """A task as its tenant sees it."""

    id: str
    model: str
    status: StatusWord
    code: int = Field(ge=0, le=9, description="Number of the status: its place in the list of `status`, from 0.")
    progress: float = Field(ge=0, le=100, description="Overall progress in percent.")
    unit_progress: float | None = Field(description="The provider's own percentage until it ends, if there is one.")
    result: ResultOut | None
    error: ErrorOut | None
    attempt: int
    executor: str | None
    heartbeat_at: datetime | None
    provider_job_id: str | None
    times: TimesOut
    creator: str
    biz_name: str
    input_ref: str
    priority: int
    output_count: int
    points: int = Field(description="What it costs; given back when it ends without success.")
    version: int = Field(description="Grows with every visible change; also the ETag.")


class AcceptedOut(BaseModel):
    """A task that was accepted."""

    id: str
    model: str
    status: Literal["draft", "submitted"]
    code: int
    progress: float


class ProblemErrorOut(BaseModel):
    """One thing that is wrong, and where."""

    detail: str
    pointer: str | None = Field(None, description="JSON pointer into the body.")
    parameter: str | None = Field(None, description="Name of a parameter.")


class ProblemOut(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str
    errors: list[ProblemErrorOut]
    trace_id: str
    retry_after: int | None = Field(None, description="Seconds to wait, where trying again makes sense.")


class BatchItemOut(BaseModel):
    """What became of one task of a batch: the accepted task, or its problem."""

    http_status: int = Field(description="202, or the status of the problem.")
    id: str | None = None
    model: str | None = None
    status: Literal["draft", "submitted"] | None = None
    code: int | None = None
    progress: float | None = None
    replayed: bool | None = Field(None, description="True when the Idempotency-Key had made it before.")
    problem: ProblemOut | None = None


class BatchOut(BaseModel):
    """Verdicts in the order of the request."""

    items: list[BatchItemOut]


class TaskPage(BaseModel):
    """Tasks, newest first. A page may be short, even empty, and still have a next one."""

    items: list[TaskOut]
    next_cursor: str | None


class TaskItems(BaseModel):
    """Tasks in the order of the ids asked for."""

    items: list[TaskOut]


class HeldOut(BaseModel):
    """An operator holds it: nothing is sent until an operator resumes it."""

    since: datetime
    by: str | None = Field(description="Told to operators alone.")
    reason: str


class WebhookOut(BaseModel):
    """A webhook, without its secret."""

    id: str
    tenant: str
    kind: Literal["endpoint", "tasks"]
    url: str | None = Field(description="Operators are told it without its query.")
    events: list[Literal["success", "failed", "timeout", "canceled"]]
    description: str
    enabled: bool
    paused: bool = Field(description="Its tenant's own hold.")
    held: HeldOut | None
    failing_since: datetime | None = Field(description="Nothing but failures since then.")
    disabled_at: datetime | None
    disabled_reason: str | None = Field(description="Why it was switched off: by its owner, 410, or days of failures.")
    created_at: datetime
    updated_at: datetime


class WebhookSecretOut(WebhookOut):
    """A webhook with its secret, which is shown this once."""

    secret: str


class WebhookPage(BaseModel):
    """Webhooks, oldest first."""

    items: list[WebhookOut]
    next_cursor: str | None


class DeliveryTry(BaseModel):
    """An attempt to deliver, and what it was answered."""

    attempt: int
    at: datetime
    code: int | None
    error: str | None
    cost_ms: int
    answer: str = Field(description="The first KiB.")


class DeliveryOut(BaseModel):
    """An event on its way to one address."""

    id: str
    task_id: str
    event_id: str = Field(description="webhook-id: equal whenever it is sent again.")
    type: str
    url: str | None = Field(description="The task's own address; null for an endpoint's.")
    status: Literal["pending", "delivered", "dead"]
    attempts: int
    next_at: datetime | None
    last_code: int | None
    last_error: str | None
    created_at: datetime
    ended_at: datetime | None
    tries: list[DeliveryTry]


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    items: list[DeliveryOut]
    next_cursor: str | None


class NewsOut(BaseModel):
    """A status change, as streams push it."""

    id: str
    model: str
    status: StatusWord
    code: int = Field(ge=0, le=9)
    progress: float
    unit_progress: float | None = Field(description="The provider's own percentage until it ends, if there is one.")
    message: str = Field(description="What went wrong; empty when nothing did.")
    error_code: str | None
    attempt: int
    sequence: int = Field(description="The task's version: of two changes of one task the greater is the newer.")
    final: bool = Field(description="Nothing follows. A failure that will be tried again is not final.")
    at: datetime = Field(
        description="When it came to this status; of a job at a provider, when that said what this tells."
    )


class CancelOut(BaseModel):
    """What a cancel came to."""

    id: str
    verdict: Literal["canceled", "cancel_requested", "already_final"] = Field(
        description="canceled: ended now. cancel_requested: its executor was asked to stop. already_final: too late."
    )
    status: StatusWord


class AttemptOut(BaseModel):
    """An attempt that has ended."""

    attempt: int
    outcome: Literal["success", "failed", "timeout", "canceled", "lost", "staging_lost"]
    executor: str | None
    provider_job_id: str | None
    entered_at: datetime | None
    leased_at: datetime | None
    started_at: datetime | None
    generated_at: datetime | None
    migrating_at: datetime | None
    ended_at: datetime
    staged_size: int | None
    error: ErrorOut | None


class AttemptItems(BaseModel):
    """Ended attempts, oldest first."""

    items: list[AttemptOut]


class HistoryOut(BaseModel):
    """Something that happened to a task beside its attempts."""

    at: datetime
    kind: str
    attempt: int
    version: int
    detail: str


class HistoryItems(BaseModel):
    """Oldest first."""

    items: list[HistoryOut]


class OperationOut(BaseModel):
    """One attempt to create a task, accepted or refused."""

    at: datetime
    type: str
    creator: str
    ip: str
    user_agent: str
    path: str
    method: str
    biz_name: str
    model: str
    task_id: str | None
    success: bool
    replayed: bool = Field(description="An earlier request with the same Idempotency-Key had made the task.")
    error: str
    cost_ms: int | None = Field(description="Null where the entry was made from the task afterwards.")
    request: str | None = Field(description="The body as it was sent, secrets masked, cut to 4 KiB.")
    response: str | None = Field(description="The answer, cut to 1 KiB.")


class OperationPage(BaseModel):
    """Newest first. A page may be short, even empty, and still have a next one."""

    items: list[OperationOut]
    next_cursor: str | None


class QuotaOut(BaseModel):
    """A user's account of today."""

    user: str
    day: date = Field(description="In SLUICEWAY_TIMEZONE.")
    used: int = Field(description="Points of today's tasks, without those that were given back.")
    limit: int | None = Field(description="Points a day; null: no limit.")
    rest: int | None = Field(description="What is left today; null: no limit.")
    own_limit: bool = Field(description="Whether the limit is the user's own; else that of all users.")
    resets_at: datetime


class QuotaLimitOut(BaseModel):
    """What a user may spend a day."""

    user: str = Field(description="Empty: all who have no limit of their own.")
    points_per_day: int


class QuotaLimitRow(QuotaLimitOut):
    """A limit in a list."""

    used: int = Field(description="Points used today by the user of that name.")
    updated_at: datetime


class QuotaLimitPage(BaseModel):
    """Limits by the users' names."""

    items: list[QuotaLimitRow]
    next_cursor: str | None
