"""What callers of /v1/dead and /v1/replays send and get."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, Field

from libs.common.operations.replay import (
    HIGHEST_RATE,
    LARGEST_LIMIT,
    LOWEST_RATE,
    MOST_IDS,
    REASON_LENGTH,
    USUAL_LIMIT,
    USUAL_RATE,
)
from libs.common.ports_dead import NO_MODEL, NO_MODEL_WORD, DeadFilter, DeadKind
from services.api.schemas import NAME_LIMIT, PAGE_USUAL, Cursor, Instant, Integer, Limit, Query, Request, Text
from services.api.schemas_out import AttemptOut, ErrorOut, HistoryOut, StatusWord

KindWord = Literal["task", "event", "delivery", "message"]
Code = Annotated[Text | None, Field(max_length=100, description="A stable error code.")]
ModelName = Annotated[Text | None, Field(max_length=NAME_LIMIT, description="Name of a model.")]
ModelId = Annotated[
    Annotated[str, Field(pattern=rf"^({NO_MODEL_WORD}|\d{{1,19}})$")] | None,
    Field(
        description="`model_id` of a group: deleted models may share a name. `none`: of no model, or of one that is not"
        " known any more."
    ),
]
TenantText = Annotated[str, Field(pattern=r"^-?\d{1,19}$", description="A tenant; for keys that reach all.")]
Since = Annotated[Instant | None, Field(description="Died at this instant or later.")]
Until = Annotated[Instant | None, Field(description="Died before this instant.")]
Part = Annotated[
    Text | None,
    Field(min_length=1, max_length=200, description="A part of the last error's message, whatever its case."),
]
WebhookText = Annotated[str, Field(pattern=r"^\d{1,19}$", description="Only deliveries of this webhook.")]


class DeadGroupQuery(Query):
    """What groups of the dead are narrowed to."""

    kind: KindWord | None = None
    code: Code = None
    model: ModelName = None
    model_id: ModelId = None
    tenant: TenantText | None = None
    since: Since = None
    until: Until = None
    text: Part = None
    webhook: WebhookText | None = None

    def filter(self) -> DeadFilter:
        """The same for the use cases."""
        return _filter(self, DeadKind(self.kind) if self.kind is not None else None)


class DeadQuery(DeadGroupQuery):
    """What a list of the dead is narrowed to."""

    limit: Limit = PAGE_USUAL
    cursor: Cursor = None


class ReplayFilterIn(Request):
    """Which of the dead a job takes; an empty one takes all of its kind."""

    code: Code = None
    model: ModelName = None
    model_id: ModelId = None
    tenant: TenantText | None = None
    since: Since = None
    until: Until = None
    text: Part = None
    webhook: WebhookText | None = None

    def filter(self) -> DeadFilter:
        """The same for the use cases."""
        return _filter(self, None)


class ReplayIn(Request):
    """A job that replays or drops the dead of one kind: those of `ids`, or what `filter` selects."""

    action: Literal["replay", "drop"] = "replay"
    kind: KindWord = "task"
    ids: list[Annotated[Text, Field(max_length=64)]] | None = Field(None, min_length=1, max_length=MOST_IDS)
    filter: ReplayFilterIn | None = None
    limit: Integer = Field(USUAL_LIMIT, ge=1, le=LARGEST_LIMIT, description="So many at most, the oldest first.")
    rate: float = Field(
        USUAL_RATE, ge=LOWEST_RATE, le=HIGHEST_RATE, strict=False, description="So many a second at most."
    )
    reason: Text = Field(min_length=1, max_length=REASON_LENGTH, description="Why; kept for ever.")
    dry_run: bool = Field(False, description="Only say how many and which groups.")
    value_base64: Annotated[Base64Bytes, Field(strict=False)] | None = Field(
        None, description="What one message, named by `ids`, is sent as instead of its own bytes."
    )


def _filter(asked: DeadGroupQuery | ReplayFilterIn, kind: DeadKind | None) -> DeadFilter:
    return DeadFilter(
        kind=kind,
        code=asked.code,
        model=asked.model,
        tenant=tenant_number(asked.tenant),
        since=asked.since,
        until=asked.until,
        text=asked.text,
        model_id=model_number(asked.model_id),
        webhook=row_number(asked.webhook),
    )


def model_number(word: str | None) -> int | None:
    """A model's number, or NO_MODEL."""
    return NO_MODEL if word == NO_MODEL_WORD else row_number(word)


def row_number(text: str | None) -> int | None:
    """The number of a model or a webhook; one beyond 64 bits is nobody's."""
    if text is None:
        return None
    number = int(text)
    return number if number < 2**63 else -1


def tenant_number(text: str | None) -> int | None:
    """A tenant's number; one beyond 64 bits is nobody's."""
    if text is None:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else -(2**63)


class DeadOut(BaseModel):
    """One dead thing."""

    kind: KindWord
    id: str = Field(description="A task's id; the number of an event or a message.")
    tenant: str | None = Field(description="Null for messages: they belong to nobody.")
    model: str | None
    error: ErrorOut
    died_at: datetime
    task_id: str | None
    status: StatusWord | None = Field(description="How a task ended; what an event announces.")
    attempt: int | None
    event_id: str | None = Field(description="ce_id of the end's event.")
    staged: bool = Field(description="The output waits: a replay uploads it without another call.")
    topic: str | None
    partition: int | None
    offset: int | None
    webhook: str | None = Field(description="Whose delivery it is.")
    replay: str | None = Field(description="The replay job that has it in hand; null where it is not yours to see.")
    in_hand: bool = Field(description="Some replay job has it in hand: an operator's, where `replay` is null.")


class DeadPage(BaseModel):
    """The dead, newest first. A page may be short, even empty, and still have a next one."""

    items: list[DeadOut]
    next_cursor: str | None


class DeadGroupOut(BaseModel):
    """The dead of one kind with one cause in one model."""

    kind: KindWord
    code: str
    tenant: str | None
    model_id: str | None = Field(description="What `model_id` narrows to this group by; null: `none` does.")
    model: str | None
    count: int
    first_at: datetime
    last_at: datetime
    example_id: str
    example: str = Field(description="The message of one of the youngest.")


class DeadGroupsOut(BaseModel):
    """Groups, the largest first."""

    items: list[DeadGroupOut]
    counted: int
    complete: bool = Field(description="False where more are dead than one look counts, or more groups exist.")


class SentHeaderOut(BaseModel):
    """A header that goes with every call."""

    name: str
    value: str = Field(description="A mask.")


class SentOut(BaseModel):
    """What the model is sent, as its configuration is now, secrets masked."""

    method: str
    url: str
    headers: list[SentHeaderOut]
    body: str = Field(description="Up to 64 KiB.")
    body_size: int


class ProviderJobOut(BaseModel):
    """What a third party was asked to do."""

    attempt: int
    adapter: str
    provider_id: str | None
    status: str
    unit_progress: float | None
    message: str
    intended_at: datetime
    submitted_at: datetime | None
    deadline: datetime
    ended_at: datetime | None


class DeadEventOut(BaseModel):
    """An event of the task that the broker refused for good."""

    id: str
    event_id: str
    status: StatusWord
    dead_at: datetime
    dropped_at: datetime | None
    sends: int
    error: str


class DeadOperationOut(BaseModel):
    """An entry of the operation log."""

    at: datetime
    creator: str
    ip: str
    path: str
    method: str
    success: bool
    replayed: bool
    error: str
    request: str | None
    response: str | None


class MessageHeaderOut(BaseModel):
    """A header of a message."""

    name: str
    value: str | None


class MessageOut(BaseModel):
    """A message as text, secrets masked, bytes that are no text escaped."""

    key: str | None
    value: str | None
    size: int | None
    complete: bool = Field(description="False where only the beginning was kept: it cannot be replayed.")
    shown: Literal["exact", "masked", "cut", "escaped"] = Field(
        description="How `value` shows it: only `exact` is, byte for byte, what was kept. With secrets `masked`, `cut`"
        " at 64 KiB or what was kept, or no text and therefore `escaped`, it is not fit to be edited and sent."
    )
    headers: list[MessageHeaderOut]


class PastReplayOut(BaseModel):
    """What a job did with it."""

    replay: str | None = Field(description="Its number; null for an operator's, which a tenant cannot open.")
    action: Literal["replay", "drop"]
    reason: str | None = Field(description="Null for an operator's, which a tenant is not told.")
    asked_by: str | None = Field(description="Null for an operator's, whom a tenant is not told.")
    ordered_at: datetime
    result: str | None
    detail: str
    tries: int
    ended_at: datetime | None


class DeadDetailsOut(DeadOut):
    """One dead thing with everything that is known of it."""

    attempts: list[AttemptOut]
    history: list[HistoryOut]
    request: SentOut | None
    provider_jobs: list[ProviderJobOut]
    events: list[DeadEventOut]
    operations: list[DeadOperationOut]
    message: MessageOut | None
    replays: list[PastReplayOut]


class ReplayResultsOut(BaseModel):
    """How many came to what."""

    replayed: int
    dropped: int
    gone: int = Field(description="Not dead any more when their turn came.")
    refused: int = Field(description="Cannot be replayed; the item says why.")
    stopped: int = Field(description="The job was stopped first.")


class ReplayOut(BaseModel):
    """A job as it stands."""

    id: str
    action: Literal["replay", "drop"]
    kind: KindWord
    tenant: str | None = Field(description="Whose dead it may touch; null for everybody's.")
    asked: dict[str, Any]
    limit: int
    rate: float
    reason: str
    asked_by: str
    state: Literal["running", "paused", "stopped", "done"]
    total: int
    pending: int
    results: ReplayResultsOut
    refusals: int = Field(description="Looks that found a model's queue full, or put something off.")
    note: str = Field(description="What holds it up, if something does.")
    created_at: datetime
    changed_at: datetime
    ended_at: datetime | None
    unknown: list[str] = Field([], description="Ids of the request that are not dead, the first hundred.")


class ReplayPreviewOut(BaseModel):
    """What a job would take."""

    dry_run: Literal[True]
    selected: int
    busy: int = Field(description="Those that another job has in hand; they are left out.")
    refused: int = Field(description="Of the selected, those that the job would refuse as they are now.")
    why_refused: dict[str, int] = Field(
        description="These by the detail that the job's items would have: `model_deleted`, `payload_missing`, "
        "`webhook_removed`, `webhook_switched_off`, `no_bytes`, `cut`."
    )
    groups: list[DeadGroupOut]
    unknown: list[str]


class ReplayPage(BaseModel):
    """Jobs, newest first."""

    items: list[ReplayOut]
    next_cursor: str | None


class ReplayItemOut(BaseModel):
    """What became of one."""

    id: str
    tenant: str | None
    code: str
    result: Literal["replayed", "dropped", "gone", "refused", "stopped"] | None
    detail: str
    tries: int
    due_at: datetime | None
    ended_at: datetime | None


class ReplayItemPage(BaseModel):
    """In the order in which they were taken in."""

    items: list[ReplayItemOut]
    next_cursor: str | None
