"""What callers of /v1 send and get, as pydantic models: validation of requests, and the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from libs.common.domain.task import TaskStatus

BATCH_LIMIT: Final = 1_000
PAGE_LIMIT: Final = 1_000
PAGE_USUAL: Final = 50
BIZ_NAME_LIMIT: Final = 512
INPUT_REF_LIMIT: Final = 8_192
NAME_LIMIT: Final = 128
API_KEY_LIMIT: Final = 16_384
_SMALLEST_INT: Final = -2_147_483_647
_LARGEST_INT: Final = 2_147_483_647

StatusWord = Literal[
    "draft", "submitted", "queued", "processing", "generated", "migrating", "success", "failed", "timeout", "canceled"
]
STATUS_BY_WORD: Final = {status.word: status for status in TaskStatus}


def _storable(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "a NUL character cannot be stored")
    return text


def _instant_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise PydanticCustomError("instant", "write an instant as RFC 3339 text with an offset")
    return value


Text = Annotated[str, AfterValidator(_storable)]
#: Text in JSON; pydantic's strict mode would want a datetime object, its lax mode would take numbers too.
Instant = Annotated[AwareDatetime, BeforeValidator(_instant_text), Field(strict=False)]
Int32 = Annotated[int, Field(ge=_SMALLEST_INT, le=_LARGEST_INT)]
AnyJson = Annotated[Any, WithJsonSchema({"description": "Any JSON value, handed to the model byte for byte."})]


class _Request(BaseModel):
    """Strict, frozen, and closed: an unknown field is a misunderstanding and is said."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class TaskIn(_Request):
    """A task to be run."""

    model: Text = Field(min_length=1, max_length=NAME_LIMIT, description="Name of one of the tenant's models.")
    payload: AnyJson = Field(None, description="What the model gets.")
    biz_name: Text = Field(
        "", max_length=BIZ_NAME_LIMIT, description="The caller's own name for it; can be filtered by."
    )
    input_ref: Text = Field("", max_length=INPUT_REF_LIMIT, description="Reference to input that lies elsewhere.")
    priority: int = Field(0, ge=-32_768, le=32_767, description="Smaller starts first, inside one model.")
    not_before: Instant | None = Field(None, description="Does not start earlier; at most a year ahead.")


class TaskBatchIn(_Request):
    """Tasks to be run, each judged on its own."""

    tasks: list[TaskIn] = Field(min_length=1, max_length=BATCH_LIMIT)


class TaskIdsIn(_Request):
    """Which tasks to read."""

    ids: list[str] = Field(min_length=1, max_length=BATCH_LIMIT, description="Task ids; unknown ones are left out.")


class TaskQuery(_Request):
    """What a list of tasks is narrowed to."""

    # Query parameters are text: here numbers in text are what is meant.
    model_config = ConfigDict(strict=False, frozen=True, extra="forbid")

    model: Text | None = Field(None, max_length=NAME_LIMIT, description="Name of a model.")
    status: str | None = Field(None, description="Status words, comma separated.", examples=["submitted,queued"])
    biz_name: Text | None = Field(None, max_length=BIZ_NAME_LIMIT)
    limit: int = Field(PAGE_USUAL, ge=1, le=PAGE_LIMIT)
    cursor: str | None = Field(None, description="next_cursor of the page before.", max_length=200)


class PageQuery(_Request):
    """Which page of a list."""

    model_config = ConfigDict(strict=False, frozen=True, extra="forbid")

    limit: int = Field(PAGE_USUAL, ge=1, le=PAGE_LIMIT)
    cursor: str | None = Field(None, description="next_cursor of the page before.", max_length=200)


class ModelChange(_Request):
    """The fields of a model that a caller may set. Absent or null: unchanged, or the default of a new one."""

    name: Text | None = Field(None, description="Routing key, unique inside the tenant.")
    base_url: Text | None = Field(None, min_length=1, max_length=2_048, description="Joined with route by one slash.")
    route: Text | None = Field(None, max_length=2_048)
    http_method: Text | None = Field(
        None, max_length=8, description="GET or POST; GET makes the payload a query string."
    )
    api_key: Text | None = Field(
        None,
        max_length=API_KEY_LIMIT,
        description="Header bindings `Name:Value`, comma separated. Shown as a mask only.",
    )
    enabled: bool | None = Field(None, description="false refuses new tasks.")
    max_concurrency: Int32 | None = Field(None, description="Calls at once; 0 or less: 10.")
    queue_limit: Int32 | None = Field(None, description="Tasks waiting or running; 0 or less: 1000.")
    timeout_seconds: Int32 | None = Field(None, description="One call; 0 or less: 60.")
    expected_seconds: Int32 | None = Field(None, description="Typical duration of a call.")
    retry_times: Int32 | None = Field(None, description="Further attempts after the first failed one.")
    retry_queue_max_seconds: Int32 | None = Field(None, description="0: retries go to the head of the queue.")
    auto_clean_seconds: Int32 | None = Field(None, description="How long a fetched task is kept; 0 or less: 86400.")
    adapter: Text | None = Field(None, max_length=64, description="How the model is called.")
    adapter_config: dict[str, Any] | None = Field(None, description="Options of the adapter.")
    poll_seconds: Int32 | None = Field(None, description="Pause between polls of a provider; 0 or less: 3.")
    job_timeout_seconds: Int32 | None = Field(None, description="Longest provider job; 0 or less: 3600.")
    price: Int32 | None = Field(None, description="Quota points per output.")
    remark: Text | None = Field(None, max_length=10_000)

    def given(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name in self.model_fields_set if (value := getattr(self, name)) is not None}


class ModelIn(ModelChange):
    """A model to be made."""

    name: Text = Field(description="Routing key, unique inside the tenant.")
    base_url: Text = Field(min_length=1, max_length=2_048, description="Joined with route by one slash.")


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
    code: int = Field(ge=0, le=9, description="Number of the status.")
    progress: float = Field(ge=0, le=100, description="Overall progress in percent.")
    unit_progress: float | None = Field(description="The provider's own percentage, if it has one.")
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
